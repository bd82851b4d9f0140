//! Other programs of the machine, run to their end: no shell in between, bounded in time and output.

use std::{
    io::ErrorKind,
    process::{Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
};

/// How long a program may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much it may print, in bytes: a firewall of many thousand rules is some megabytes.
const MAX_OUTPUT: u64 = 32 << 20;

/// What the program prints, given this to read, when it has done well.
///
/// # Errors
/// When it is missing, refuses, takes too long or says too much.
pub(super) async fn run(program: &str, words: &[&str], input: &str) -> Result<String> {
    let mut command = Command::new(program);
    command.args(words);
    let output = output(command, input).await?;
    if !output.status.success() {
        bail!("'{program}' refuses: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// How the program ends, and what it prints, given this to read. Given up, it is killed.
///
/// # Errors
/// When it is missing, takes too long or says too much.
pub(super) async fn output(mut command: Command, input: &str) -> Result<Output> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == ErrorKind::NotFound && program == "nft" => {
            bail!("the program 'nft' is missing: install the package nftables")
        }
        Err(error) => return Err(error).with_context(|| format!("'{program}' can't be started")),
    };
    let mut stdin = child.stdin.take().with_context(|| format!("'{program}' takes no input"))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let write = async {
        // One that ends early says why on its standard error.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        Ok(())
    };
    let exchange = async {
        let ((), stdout, stderr) = tokio::try_join!(write, read(stdout), read(stderr))?;
        anyhow::Ok(Output { status: child.wait().await?, stdout, stderr })
    };
    tokio::time::timeout(PATIENCE, exchange)
        .await
        .with_context(|| format!("'{program}' did not end within {PATIENCE:?}"))?
        .with_context(|| format!("what '{program}' says can't be read"))
}

async fn read(pipe: Option<impl AsyncRead + Unpin>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(MAX_OUTPUT + 1).read_to_end(&mut bytes).await?;
    }
    if bytes.len() as u64 > MAX_OUTPUT {
        bail!("it says more than {MAX_OUTPUT} bytes");
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_program_says_is_told_and_bounded() {
        assert_eq!(run("cat", &[], "hello").await.unwrap(), "hello");
        let error = run("ls", &["/nowhere/at/all"], "").await.unwrap_err().to_string();
        assert!(error.starts_with("'ls' refuses: ") && error.contains("nowhere"), "{error}");
        let error = format!("{:#}", run("cat", &["/dev/zero"], "").await.unwrap_err());
        assert!(error.contains("it says more than"), "{error}");
        assert!(run("no-such-program-here", &[], "").await.is_err());
    }
}
