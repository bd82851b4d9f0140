//! Rows to an HTTP receiver: POSTs of JSON lines, again until one is taken. How far it has taken them is kept with the rows, so
//! a restart goes on there; what is sent again has the same ids.

use std::{fmt, sync::Arc, time::Duration};
use std::{fs::File, io::Read as _, net::IpAddr, os::unix::fs::PermissionsExt as _, path::PathBuf, str::FromStr};

use anyhow::{Context as _, Result, bail};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Request, Uri, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::{Source, Trouble};
use crate::activity::{Activity, line};

/// How long one POST may take, with connecting and the answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between the first attempts, and between later ones.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(60);
/// How much of an answer is read; only its status counts.
const ANSWER: usize = 64 << 10;
/// The longest bearer token.
const TOKEN: u64 = 16 << 10;

/// An HTTP receiver's URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpTarget {
    uri: Uri,
    host: String,
    port: u16,
    is_tls: bool,
}

impl FromStr for HttpTarget {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        // Not repeated where it may hold a password.
        let wrong = || "that is no URL to send activity to: write it like https://log.example.com/activity".to_owned();
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong()),
        };
        let authority = uri.authority().ok_or_else(wrong)?;
        if authority.as_str().contains('@') {
            return Err(
                "a URL with a user or password in it shows that to everyone on this machine: put a bearer token into \
                        a file, and name that with --activity-http-token-file"
                    .to_owned(),
            );
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = match authority.as_str().rsplit_once(':') {
            Some((_, port)) if !port.ends_with(']') => {
                authority.port_u16().filter(|it| *it != 0).ok_or_else(|| format!("'{port}' is no port"))?
            }
            _ if is_tls => 443,
            _ => 80,
        };
        if host.is_empty() {
            return Err(wrong());
        }
        Ok(Self { uri, host, port, is_tls })
    }
}

impl fmt::Display for HttpTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uri.fmt(f)
    }
}

impl HttpTarget {
    /// Whether what is sent there passes no network, or only encrypted.
    fn is_private(&self) -> bool {
        self.is_tls || self.host == "localhost" || self.host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
    }
}

/// An HTTP receiver to which rows are sent.
pub(crate) struct HttpSink {
    target: HttpTarget,
    /// Read for each POST, so that it can be replaced.
    token_file: Option<PathBuf>,
    tls: Option<TlsConnector>,
}

impl HttpSink {
    /// Nothing is sent yet.
    ///
    /// # Errors
    /// When this machine has no roots to check an https receiver by, or the token can't be used.
    pub(crate) fn new(target: HttpTarget, token_file: Option<PathBuf>) -> Result<Self> {
        if token_file.is_some() && !target.is_private() {
            bail!("--activity-http-token-file: a token is not sent over plain http; use an https URL");
        }
        let tls = if target.is_tls { Some(connector()?) } else { None };
        let sink = Self { target, token_file, tls };
        sink.token()?;
        Ok(sink)
    }

    /// Sends what comes until told to stop.
    ///
    /// # Errors
    /// When the activity can't be read at all.
    pub(crate) async fn run(self, activity: Activity, stopping: CancellationToken) -> Result<()> {
        let receiver = self.target.to_string();
        let begin = async {
            let after = activity.cursor(&receiver).await?;
            // All that is kept is its queue.
            Source::after(&activity, after, None, &stopping).await
        };
        let mut source = tokio::select! {
            () = stopping.cancelled() => return Ok(()),
            source = begin => source?,
        };
        let (mut trouble, mut pause) = (Trouble::default(), FIRST_PAUSE);
        while source.wait().await {
            let rows = source.read().await;
            if rows.is_empty() {
                continue;
            }
            let lines = Bytes::from(line::lines(&rows)?);
            loop {
                let posted = tokio::select! {
                    () = stopping.cancelled() => return Ok(()),
                    posted = tokio::time::timeout(PATIENCE, self.post(lines.clone())) => posted,
                };
                match posted.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer in time"))) {
                    Ok(()) => break,
                    Err(error) if trouble.is_worth_a_word() => {
                        let error = format!("{error:#}");
                        tracing::warn!(to = %self.target, error, "activity can't be sent; trying again");
                    }
                    Err(_) => {}
                }
                if !source.pause(pause).await {
                    return Ok(());
                }
                pause = (2 * pause).min(LAST_PAUSE);
            }
            pause = FIRST_PAUSE;
            if activity.set_cursor(&receiver, source.feed.after()).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn post(&self, lines: Bytes) -> Result<()> {
        let stream = TcpStream::connect((self.target.host.as_str(), self.target.port)).await?;
        match &self.tls {
            Some(tls) => {
                let name = ServerName::try_from(self.target.host.clone())?;
                self.exchange(tls.connect(name, stream).await?, lines).await
            }
            None => self.exchange(stream, lines).await,
        }
    }

    async fn exchange(&self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, lines: Bytes) -> Result<()> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driving = AbortOnDrop(tokio::spawn(connection));
        let path = self.target.uri.path_and_query().map_or("/", |path| path.as_str());
        let host = self.target.uri.authority().map(ToString::to_string).unwrap_or_default();
        let mut request = Request::post(path)
            .header(header::HOST, host)
            .header(header::CONTENT_TYPE, "application/x-ndjson")
            .header(header::USER_AGENT, "postern-coordinator");
        if let Some(token) = self.token()? {
            let mut value = header::HeaderValue::from_str(&Zeroizing::new(format!("Bearer {}", *token)))
                .context("the bearer token has characters that no header can have")?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        let response = sender.send_request(request.body(Full::new(lines))?).await?;
        let status = response.status();
        // An answer that is too long is cut off; whether the rows were taken is said by then.
        let _ = Limited::new(response.into_body(), ANSWER).collect().await;
        drop(driving);
        if status.is_success() { Ok(()) } else { bail!("the receiver answered {status}") }
    }

    fn token(&self) -> Result<Option<Zeroizing<String>>> {
        let Some(path) = &self.token_file else { return Ok(None) };
        let read = || -> Result<Zeroizing<String>> {
            let file = File::open(path)?;
            if file.metadata()?.permissions().mode() & 0o007 != 0 {
                bail!("everyone on this machine may read it: 'chmod 600' it");
            }
            let mut text = Zeroizing::new(String::new());
            file.take(TOKEN).read_to_string(&mut text)?;
            let token = Zeroizing::new(text.trim().to_owned());
            if token.is_empty() { bail!("it is empty") } else { Ok(token) }
        };
        read().map(Some).with_context(|| format!("the token file {} can't be used", path.display()))
    }
}

struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// TLS that trusts whom this machine trusts.
fn connector() -> Result<TlsConnector> {
    let loaded = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(loaded.certs);
    if roots.is_empty() {
        bail!("this machine has no certificates of authorities to check an https receiver by: install ca-certificates");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_where_and_no_secret() {
        for (text, host, port, is_private) in [
            ("https://log.example.com/activity?x=1", "log.example.com", 443, true),
            ("https://log.example.com:8443", "log.example.com", 8443, true),
            ("http://log.example.com/", "log.example.com", 80, false),
            ("http://127.0.0.1:9000/", "127.0.0.1", 9000, true),
            ("http://[::1]/", "::1", 80, true),
            ("http://[2001:db8::1]:81/", "2001:db8::1", 81, false),
        ] {
            let target: HttpTarget = text.parse().unwrap();
            assert_eq!((target.host.as_str(), target.port, target.is_private()), (host, port, is_private), "{text}");
        }
        for wrong in ["", "log.example.com", "ftp://log.example.com/", "https:///x", "http://h:0/", "http://h:99999/"] {
            assert!(wrong.parse::<HttpTarget>().is_err(), "{wrong}");
        }
        let error = "https://alice:hunter2@log.example.com/".parse::<HttpTarget>().unwrap_err();
        assert!(error.contains("--activity-http-token-file") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn a_token_is_not_sent_in_the_clear_nor_read_from_where_everyone_can() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "hunter2\n").unwrap();
        let sink = |url: &str| HttpSink::new(url.parse().unwrap(), Some(file.clone()));
        let mode = |mode| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o600);
        let refused = sink("http://log.example.com/").err().unwrap();
        assert!(refused.to_string().contains("https"), "{refused}");
        assert_eq!(sink("http://127.0.0.1/").unwrap().token().unwrap().unwrap().as_str(), "hunter2");
        mode(0o644);
        let refused = format!("{:#}", sink("http://127.0.0.1/").err().unwrap());
        assert!(refused.contains("chmod 600") && !refused.contains("hunter2"), "{refused}");
    }
}
