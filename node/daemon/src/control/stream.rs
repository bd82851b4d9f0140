//! Frames on QUIC streams.

use anyhow::{Context as _, Result, bail};
use postern_wire::{Decoder, FrameError, Limit, frame};
use quinn::{RecvStream, SendStream};
use serde::{Serialize, de::DeserializeOwned};

/// Reads the coordinator's messages from a stream.
pub(crate) struct Reader {
    stream: RecvStream,
    decoder: Decoder,
}

impl Reader {
    pub(crate) fn new(stream: RecvStream) -> Self {
        Self { stream, decoder: Decoder::new(Limit::Coordinator) }
    }

    /// The next message; `None` at the stream's end. One of a kind that a newer coordinator sends is skipped.
    pub(crate) async fn next<M: DeserializeOwned>(&mut self) -> Result<Option<M>> {
        let mut buffer = [0; 16 << 10];
        loop {
            match self.decoder.poll_message() {
                Ok(Some(message)) => return Ok(Some(message)),
                Ok(None) => {}
                Err(FrameError::UnknownKind(kind)) => {
                    tracing::debug!(kind, "the coordinator sent a message of a kind that this version does not know");
                    continue;
                }
                Err(error) => return Err(error).context("the coordinator's message can't be read"),
            }
            match self.stream.read(&mut buffer).await? {
                Some(len) => self.decoder.handle_bytes(&buffer[..len]),
                None if self.decoder.is_empty() => return Ok(None),
                None => bail!("the coordinator stopped in the middle of a message"),
            }
        }
    }
}

/// Writes one message.
pub(crate) async fn send(stream: &mut SendStream, message: &impl Serialize, limit: Limit) -> Result<()> {
    Ok(stream.write_all(&frame::encode(message, limit)?).await?)
}
