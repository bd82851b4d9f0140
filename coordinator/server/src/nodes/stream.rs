//! Frames on QUIC streams.

use std::time::Duration;

use postern_wire::{Decoder, FrameError, Limit, frame};
use quinn::{Connection, RecvStream, SendStream};
use rustls_pki_types::CertificateDer;
use serde::{Serialize, de::DeserializeOwned};

/// How long the first frame of a stream may take.
const OPENING: Duration = Duration::from_secs(5);
/// How long a node may take none of what is sent to it.
const STALL: Duration = Duration::from_secs(5);

/// Why a stream can't go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Read(#[from] quinn::ReadError),
    #[error(transparent)]
    Write(#[from] quinn::WriteError),
    #[error("the stream ended in the middle of a message")]
    Truncated,
    #[error("no message came in time")]
    TimedOut,
    #[error("the node does not read what it is sent")]
    Stalled,
}

/// Reads messages from a stream.
pub(super) struct Reader {
    stream: RecvStream,
    decoder: Decoder,
}

impl Reader {
    pub(super) fn new(stream: RecvStream, limit: Limit) -> Self {
        Self { stream, decoder: Decoder::new(limit) }
    }

    /// The next message; `None` at the stream's end.
    pub(super) async fn next<M: DeserializeOwned>(&mut self) -> Result<Option<M>, StreamError> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(message) = self.decoder.poll_message()? {
                return Ok(Some(message));
            }
            match self.stream.read(&mut buffer).await? {
                Some(len) => self.decoder.handle_bytes(&buffer[..len]),
                None if self.decoder.is_empty() => return Ok(None),
                None => return Err(StreamError::Truncated),
            }
        }
    }

    /// The message that opens the stream.
    pub(super) async fn opening<M: DeserializeOwned>(&mut self) -> Result<M, StreamError> {
        match tokio::time::timeout(OPENING, self.next()).await {
            Ok(message) => message?.ok_or(StreamError::Truncated),
            Err(_) => Err(StreamError::TimedOut),
        }
    }
}

/// Writes one message. As long as the node goes on reading it may take its time: the first may be a large one.
pub(super) async fn send(stream: &mut SendStream, message: &impl Serialize, limit: Limit) -> Result<(), StreamError> {
    let frame = frame::encode(message, limit)?;
    let mut rest = frame.as_slice();
    while !rest.is_empty() {
        let written = tokio::time::timeout(STALL, stream.write(rest)).await.map_err(|_| StreamError::Stalled)??;
        rest = &rest[written..];
    }
    Ok(())
}

/// Ends the stream, and waits for a moment until the node has all of it, so that closing the connection next does not
/// cut it off.
pub(super) async fn finish(stream: &mut SendStream) {
    if stream.finish().is_ok() {
        let _ = tokio::time::timeout(Duration::from_secs(2), stream.stopped()).await;
    }
}

/// The certificate that the node has shown, if it has.
pub(super) fn certificate(connection: &Connection) -> Option<CertificateDer<'static>> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    chain.first().cloned()
}
