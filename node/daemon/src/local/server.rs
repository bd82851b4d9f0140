//! The daemon's side of the local API.

use std::{fs::Permissions, io::ErrorKind, os::unix::fs::PermissionsExt as _, path::Path};

use anyhow::{Context as _, Result};
use serde::Serialize;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
};
use zeroize::Zeroizing;

use super::protocol::{MAX_LINE, Reply, Request};
use crate::state_dir::SOCKET;

/// Opens the socket, which only this user can open.
///
/// # Errors
/// When it can't be made.
pub fn bind(state_dir: &Path) -> Result<UnixListener> {
    let path = state_dir.join(SOCKET);
    // One from before a crash; the state directory's lock says that nobody listens on it.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("{} can't be replaced", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(&path).with_context(|| format!("{} can't be made", path.display()))?;
    std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers requests with what `respond` makes of them (a line of JSON), each connection its own.
pub async fn serve<F>(listener: UnixListener, respond: impl Fn(Request) -> F + Clone + Send + Sync + 'static)
where
    F: Future<Output = Result<String>> + Send + 'static,
{
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let respond = respond.clone();
                tokio::spawn(async move {
                    if let Err(error) = answer(stream, respond).await {
                        tracing::debug!(error = format!("{error:#}"), "a local request ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a local connection could not be accepted");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer<F>(mut stream: UnixStream, respond: impl Fn(Request) -> F) -> Result<()>
where
    F: Future<Output = Result<String>>,
{
    let (read, mut write) = stream.split();
    let mut line = Zeroizing::new(String::new());
    BufReader::new(read.take(MAX_LINE as u64)).read_line(&mut line).await?;
    let reply = match serde_json::from_str(&line) {
        Ok(request) => respond(request).await,
        // Not with serde's message, which may quote a token.
        Err(_) => to_line::<()>(Err(anyhow::anyhow!("the request can't be read; is the daemon of another version?"))),
    };
    write.write_all(reply?.as_bytes()).await?;
    Ok(())
}

/// A reply as it goes over the socket.
///
/// # Errors
/// When it can't be written as JSON.
pub fn to_line<T: Serialize>(result: Result<T>) -> Result<String> {
    let reply = match result {
        Ok(value) => Reply::Ok(value),
        Err(error) => Reply::Error(format!("{error:#}")),
    };
    Ok(serde_json::to_string(&reply)? + "\n")
}
