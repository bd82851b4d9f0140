//! The admin API's client: over the admin socket of a coordinator on this machine, or over HTTPS with an API key.

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use postern_model::{
    ApiKey,
    token::{Host, HostPort},
};
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    task::JoinHandle,
};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::lines::Lines;
use crate::{
    api::{PREFIX, problem::Problem},
    state_dir::ADMIN_SOCKET,
};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);
/// How long an answer may take; verifying a long audit log takes a while.
const ANSWER: Duration = Duration::from_secs(300);

/// How a coordinator is reached.
#[derive(Debug)]
pub(super) enum Door {
    /// The admin socket in this state directory.
    Socket(PathBuf),
    /// HTTPS at this address, which the API key does not have to agree with.
    Network(HostPort, Box<ApiKey>),
}

/// One request.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Call {
    pub(super) method: Method,
    /// After the API's prefix.
    pub(super) path: String,
    pub(super) body: Option<Value>,
}

/// Why there is no answer, or not the one hoped for.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("no coordinator is running with --state-dir {dir}: start one with '{NAME} serve --state-dir {dir}', or say with --state-dir where another keeps its state", dir = .0.display(), NAME = super::NAME)]
    NotRunning(PathBuf),
    #[error("the admin socket {} may not be opened by this user: ask as the user that runs the coordinator, or with an API key", .0.display())]
    NotAllowed(PathBuf),
    #[error("the coordinator can't be reached on {at} ({cause}): is it running, and is the address right?")]
    Unreachable { at: String, cause: String },
    #[error(
        "the coordinator at {0} was not believed, because its key is not the one that the API key pins: this is another coordinator, or someone in between"
    )]
    WrongPin(HostPort),
    #[error(
        "the coordinator did not answer to the end ({0}); what you asked for may have been done or not, so look before you try again"
    )]
    Lost(String),
    #[error("{0}")]
    Refused(String),
}

impl Failure {
    /// Whether it may be over in a moment: the coordinator restarts.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::NotRunning(_) | Self::Unreachable { .. } | Self::Lost(_))
    }
}

impl Door {
    /// Asks, and waits for the answer: JSON.
    pub(super) async fn call(&self, call: Call) -> Result<String, Failure> {
        let answer = async {
            let Answer { response, driving } = self.ask(call).await?;
            let status = response.status();
            let body = response.into_body().collect().await.map_err(|error| lost(&error))?.to_bytes();
            drop(driving);
            read(status, body)
        };
        tokio::time::timeout(ANSWER, answer).await.map_err(|_| Failure::Lost("no answer in time".into()))?
    }

    /// Asks for what goes on and on: lines.
    pub(super) async fn open(&self, call: Call) -> Result<Lines, Failure> {
        let answer = tokio::time::timeout(ANSWER, self.ask(call)).await;
        let Answer { response, driving } = answer.map_err(|_| Failure::Lost("no answer in time".into()))??;
        if response.status().is_success() {
            return Ok(Lines::new(response, driving));
        }
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| lost(&error))?.to_bytes();
        Err(read(status, body).err().unwrap_or(Failure::Lost("it ended at once".into())))
    }

    /// Asks, and waits until the answer begins.
    async fn ask(&self, call: Call) -> Result<Answer, Failure> {
        match self {
            Self::Socket(dir) => {
                let path = dir.join(ADMIN_SOCKET);
                let stream = UnixStream::connect(&path).await.map_err(|error| socket_failure(&error, dir, &path))?;
                exchange(stream, call, "localhost", None).await
            }
            Self::Network(address, key) => {
                let stream = tokio::time::timeout(CONNECT, connect(address, key)).await;
                let cause = "no answer in time".to_owned();
                let stream = stream.map_err(|_| Failure::Unreachable { at: address.to_string(), cause })??;
                exchange(stream, call, &address.to_string(), Some(key)).await
            }
        }
    }
}

/// An answer that has begun.
struct Answer {
    response: Response<Incoming>,
    driving: Driving,
}

/// The connection goes on for as long as this is there.
pub(super) struct Driving(JoinHandle<hyper::Result<()>>);

impl Drop for Driving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn lost(error: &hyper::Error) -> Failure {
    Failure::Lost(error.to_string())
}

fn socket_failure(error: &io::Error, dir: &Path, path: &Path) -> Failure {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => Failure::NotRunning(dir.to_owned()),
        ErrorKind::PermissionDenied => Failure::NotAllowed(path.to_owned()),
        _ => Failure::Unreachable { at: path.display().to_string(), cause: error.to_string() },
    }
}

async fn connect(address: &HostPort, key: &ApiKey) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Failure> {
    let unreachable =
        |error: &dyn std::error::Error| Failure::Unreachable { at: address.to_string(), cause: error.to_string() };
    let (stream, name) = match &address.host {
        Host::Ip(ip) => (TcpStream::connect((*ip, address.port)).await, ServerName::IpAddress((*ip).into())),
        Host::Name(name) => {
            let server = ServerName::try_from(name.to_string()).map_err(|error| unreachable(&error))?;
            (TcpStream::connect((name.as_str(), address.port)).await, server)
        }
    };
    let stream = stream.map_err(|error| unreachable(&error))?;
    let mut tls = postern_pin::client(key.pin).map_err(|error| unreachable(&error))?.with_no_client_auth();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsConnector::from(Arc::new(tls)).connect(name, stream).await.map_err(|error| {
        let cause = error.get_ref().and_then(|inner| inner.downcast_ref());
        if cause.is_some_and(postern_pin::is_wrong_pin) {
            Failure::WrongPin(address.clone())
        } else {
            unreachable(&error)
        }
    })
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    call: Call,
    host: &str,
    key: Option<&ApiKey>,
) -> Result<Answer, Failure> {
    let request = request(call, host, key)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| lost(&error))?;
    let driving = Driving(tokio::spawn(connection));
    Ok(Answer { response: sender.send_request(request).await.map_err(|error| lost(&error))?, driving })
}

fn request(call: Call, host: &str, key: Option<&ApiKey>) -> Result<Request<Full<Bytes>>, Failure> {
    let request = Request::builder().method(call.method).uri(format!("{PREFIX}{}", call.path));
    let mut request = request.header(header::HOST, host).header(header::ACCEPT, "application/json");
    if let Some(key) = key {
        let value = Zeroizing::new(format!("Bearer {}", *key.expose()));
        let value = header::HeaderValue::from_str(&value).map(|mut value| {
            value.set_sensitive(true);
            value
        });
        request = request.header(header::AUTHORIZATION, value.map_err(|error| Failure::Refused(error.to_string()))?);
    }
    let body = match call.body {
        None => Bytes::new(),
        Some(body) => {
            request = request.header(header::CONTENT_TYPE, "application/json");
            body.to_string().into()
        }
    };
    request.body(Full::new(body)).map_err(|error| Failure::Refused(format!("the request can't be made: {error}")))
}

fn read(status: StatusCode, body: Bytes) -> Result<String, Failure> {
    if status.is_success() {
        return String::from_utf8(body.into()).map_err(|error| Failure::Lost(error.to_string()));
    }
    let problem = serde_json::from_slice::<Problem>(&body);
    Err(Failure::Refused(problem.map_or_else(|_| format!("the coordinator answered {status}"), |it| it.detail)))
}
