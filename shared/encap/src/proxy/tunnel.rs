//! Asking a proxy to connect (CONNECT, RFC 9110 section 9.3.6), and reading its answer's head, which is bounded.

use std::io;

use postern_model::token::HostPort;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use zeroize::Zeroizing;

use super::{Proxy, ProxyError};

/// The longest head of an answer, in bytes.
const HEAD: usize = 8 << 10;
/// How much of what a proxy says is shown.
const SHOWN: usize = 80;

/// Asks, and returns once everything that follows on the connection is the target's.
pub(super) async fn ask<S>(stream: &mut S, proxy: &Proxy, target: &HostPort) -> Result<(), ProxyError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let broken = |error| ProxyError::Broken { proxy: proxy.to_string(), error };
    stream.write_all(request(proxy, target).as_bytes()).await.map_err(broken)?;
    stream.flush().await.map_err(broken)?;
    let head = head(stream).await.map_err(broken)?;
    judge(&head, proxy, target)
}

fn request(proxy: &Proxy, target: &HostPort) -> Zeroizing<String> {
    let mut text = Zeroizing::new(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"));
    if let Some(credentials) = &proxy.credentials {
        // Not by `format!`, which would leave a copy.
        text.reserve_exact(64 + credentials.len());
        text.push_str("Proxy-Authorization: Basic ");
        text.push_str(credentials);
        text.push_str("\r\n");
    }
    text.push_str("\r\n");
    text
}

/// Up to the empty line. A page about a refusal may follow, which nobody reads; the target itself speaks only after the client has.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let len = stream.read(&mut buffer).await?;
        if len == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it hung up"));
        }
        // The end may lie across two reads.
        let from = head.len().saturating_sub(3);
        head.extend_from_slice(&buffer[..len]);
        if let Some(at) = head[from..].windows(4).position(|window| window == b"\r\n\r\n") {
            head.truncate(from + at);
            return Ok(head);
        }
        if head.len() > HEAD {
            return Err(io::Error::other("it says too much"));
        }
    }
}

fn judge(head: &[u8], proxy: &Proxy, target: &HostPort) -> Result<(), ProxyError> {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let code = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1));
    let code = code.filter(|code| code.len() == 3).and_then(|code| code.parse::<u16>().ok());
    match code {
        Some(200..=299) => Ok(()),
        // Some say 401, which is for servers, when they do not like a password.
        Some(401 | 407) if proxy.credentials.is_none() => {
            Err(ProxyError::Unauthorized { proxy: proxy.to_string(), var: proxy.var })
        }
        Some(401 | 407) => Err(ProxyError::WrongPassword { proxy: proxy.to_string(), var: proxy.var }),
        Some(_) => {
            let is_shown = |c: &char| c.is_ascii_graphic() || *c == ' ';
            let said = line.split_once(' ').map_or("", |(_, said)| said).chars().filter(is_shown).take(SHOWN);
            let (proxy, target) = (proxy.to_string(), target.to_string());
            Err(ProxyError::Refused { proxy, target, said: said.collect() })
        }
        None => Err(ProxyError::NoProxy { proxy: proxy.to_string(), var: proxy.var }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(text: &str) -> Proxy {
        Proxy::parse("HTTPS_PROXY", text).unwrap()
    }

    fn target() -> HostPort {
        "coordinator.example.com:8443".parse().unwrap()
    }

    /// What a proxy that says this is told, and what comes of it.
    async fn asked(proxy: &Proxy, pieces: &[&[u8]]) -> (String, Result<(), ProxyError>) {
        let (mut near, mut far) = tokio::io::duplex(64 << 10);
        let target = target();
        let says = async {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(far.read_u8().await.unwrap());
            }
            for piece in pieces {
                far.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            drop(far);
            String::from_utf8(request).unwrap()
        };
        let (said, outcome) = tokio::join!(says, ask(&mut near, proxy, &target));
        (said, outcome)
    }

    #[tokio::test]
    async fn a_target_is_asked_for_and_what_it_says_is_left_alone() {
        let (request, outcome) =
            asked(&proxy("http://proxy.example.com:3128"), &[b"HTTP/1.1 200 Connection established\r\n", b"\r", b"\n"])
                .await;
        outcome.unwrap();
        assert_eq!(
            request,
            "CONNECT coordinator.example.com:8443 HTTP/1.1\r\nHost: coordinator.example.com:8443\r\n\r\n"
        );
        let (request, outcome) =
            asked(&proxy("http://alice:secret@192.0.2.1:3128"), &[b"HTTP/1.0 200 OK\r\nVia: x\r\n\r\n"]).await;
        outcome.unwrap();
        assert!(request.contains("\r\nProxy-Authorization: Basic YWxpY2U6c2VjcmV0\r\n\r\n"), "{request}");
    }

    #[tokio::test]
    async fn refusals_say_what_to_do_and_no_password() {
        let cases: [(&str, &[u8], &str); 7] = [
            ("http://alice:secret@192.0.2.1:3128", b"HTTP/1.0 401 Unauthorized\r\n\r\n", "does not accept the name"),
            ("http://192.0.2.1:3128", b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "set them in HTTPS_PROXY"),
            ("http://alice:secret@192.0.2.1:3128", b"HTTP/1.1 407 Who?\r\n\r\n", "does not accept the name"),
            ("http://alice:secret@192.0.2.1:3128", b"HTTP/1.1 403 Not \x1b[31mthere\r\n\r\n", "'403 Not [31mthere'"),
            ("http://192.0.2.1:3128", b"SSH-2.0-OpenSSH\r\n\r\n", "no HTTP proxy"),
            ("http://192.0.2.1:3128", b"HTTP/1.1 200", "hung up"),
            ("http://192.0.2.1:3128", &[b'a'; 20_000], "too much"),
        ];
        for (text, says, expected) in cases {
            let error = asked(&proxy(text), &[says]).await.1.unwrap_err();
            let told = format!("{error} {error:?}");
            assert!(error.to_string().contains(expected), "{told}");
            assert!(!told.contains("secret") && !told.contains("YWxp"), "{told}");
        }
    }
}
