//! The command line's side of the local API.

use std::{io::ErrorKind, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
};
use zeroize::Zeroizing;

use super::protocol::{MAX_LINE, Reply, Request};
use crate::state_dir::SOCKET;

/// The longest that a request may take: enrolling and coming up over a bad connection.
const PATIENCE: Duration = Duration::from_secs(120);

/// A connection to a running daemon; `None` when there is none with this state directory.
///
/// # Errors
/// When there is one, and this user may not speak to it.
pub async fn connect(state_dir: &Path) -> Result<Option<UnixStream>> {
    let path = state_dir.join(SOCKET);
    match UnixStream::connect(&path).await {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => Ok(None),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            bail!("this user may not speak to the daemon ({}): run the command as root", path.display())
        }
        Err(error) => Err(error).with_context(|| format!("the daemon's socket {} can't be opened", path.display())),
    }
}

/// Asks, and waits for the answer.
///
/// # Errors
/// With what the daemon says is wrong, or when it does not answer.
pub async fn ask<T: DeserializeOwned>(mut stream: UnixStream, request: &Request) -> Result<T> {
    let mut line = Zeroizing::new(serde_json::to_string(request)?);
    line.push('\n');
    let exchange = async {
        stream.write_all(line.as_bytes()).await?;
        let mut answer = String::new();
        BufReader::new(stream.take(MAX_LINE as u64)).read_line(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = tokio::time::timeout(PATIENCE, exchange).await.context("the daemon does not answer")??;
    if answer.is_empty() {
        bail!("the daemon ended before it answered; see its log");
    }
    match serde_json::from_str(&answer).context("the daemon's answer can't be read; is it of another version?")? {
        Reply::Ok(value) => Ok(value),
        Reply::Error(message) => bail!(message),
    }
}
