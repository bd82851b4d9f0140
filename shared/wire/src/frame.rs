//! Frames: a 4-byte big-endian length, then one CBOR map `{ "kind": …, "body": … }`.
//!
//! CBOR (RFC 8949) describes itself, so unknown fields are skipped and an unknown kind is told from a broken frame.
//! Lengths are checked against a limit before anything is allocated.

use serde::{
    Deserialize, Serialize,
    de::{self, DeserializeOwned, value::MapDeserializer},
};

/// The largest frame that a receiver takes, by what has been proven of the sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// From anyone: an enrolment or its answer. 16 KiB.
    Anonymous,
    /// From an authenticated node. 64 KiB.
    Node,
    /// From the pinned coordinator: a snapshot may be long: a gateway with 100,000 grants has one of 48 MB. 64 MiB.
    Coordinator,
}

impl Limit {
    /// In bytes, without the prefix.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Anonymous => 16 << 10,
            Self::Node => 64 << 10,
            Self::Coordinator => 64 << 20,
        }
    }
}

/// Why a frame could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Longer than the limit.
    #[error("a frame of {len} bytes exceeds the limit of {limit}")]
    TooLong {
        /// As announced.
        len: usize,
        /// As allowed.
        limit: usize,
    },
    /// A message of a kind that this version does not know. Answer it, and go on.
    #[error("unknown message kind '{0}'")]
    UnknownKind(String),
    /// Not a message.
    #[error("malformed message: {0}")]
    Malformed(String),
}

const PREFIX: usize = 4;

/// A message as one frame, prefix included.
///
/// # Errors
/// When it is longer than the receiver's `limit`.
pub fn encode<M: Serialize>(message: &M, limit: Limit) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; PREFIX];
    ciborium::into_writer(message, &mut frame).map_err(|e| FrameError::Malformed(e.to_string()))?;
    let len = frame.len() - PREFIX;
    if len > limit.bytes() {
        return Err(FrameError::TooLong { len, limit: limit.bytes() });
    }
    frame[..PREFIX].copy_from_slice(&u32::try_from(len).expect("below the limit").to_be_bytes());
    Ok(frame)
}

/// Cuts a stream of bytes into messages.
///
/// Give it what arrives with [`handle_bytes`](Self::handle_bytes), then call [`poll_message`](Self::poll_message)
/// until it returns `None`.
#[derive(Debug)]
pub struct Decoder {
    limit: Limit,
    buffer: Vec<u8>,
}

impl Decoder {
    /// A decoder that refuses frames longer than `limit`.
    pub fn new(limit: Limit) -> Self {
        Self { limit, buffer: Vec::new() }
    }

    /// Whether nothing of a further message has arrived.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Takes what arrived.
    pub fn handle_bytes(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message.
    ///
    /// # Errors
    /// After [`FrameError::UnknownKind`] the stream goes on with the next message; after any other it is of no use.
    pub fn poll_message<M: DeserializeOwned>(&mut self) -> Result<Option<M>, FrameError> {
        let Some(prefix) = self.buffer.first_chunk::<PREFIX>() else { return Ok(None) };
        let len = u32::from_be_bytes(*prefix) as usize;
        if len > self.limit.bytes() {
            return Err(FrameError::TooLong { len, limit: self.limit.bytes() });
        }
        let Some(body) = self.buffer.get(PREFIX..PREFIX + len) else { return Ok(None) };
        let message = decode(body);
        self.buffer.drain(..PREFIX + len);
        message.map(Some)
    }
}

fn decode<M: DeserializeOwned>(body: &[u8]) -> Result<M, FrameError> {
    /// Only to tell an unknown kind from a known one that is broken.
    #[derive(Deserialize)]
    struct Kind {
        kind: String,
    }
    ciborium::from_reader(body).map_err(|error| match ciborium::from_reader::<Kind, _>(body) {
        Ok(Kind { kind }) if !is_known::<M>(&kind) => FrameError::UnknownKind(kind),
        _ => FrameError::Malformed(error.to_string()),
    })
}

/// Whether `M` has messages of this kind. A message of a known kind is never skipped, whatever is wrong inside.
fn is_known<M: DeserializeOwned>(kind: &str) -> bool {
    /// What stands in the way of a message that has a kind and nothing else.
    #[derive(Debug, thiserror::Error)]
    enum Obstacle {
        #[error("its kind")]
        Kind,
        #[error("anything else")]
        Other,
    }

    impl de::Error for Obstacle {
        fn custom<T: std::fmt::Display>(_: T) -> Self {
            Self::Other
        }

        fn unknown_variant(_: &str, _: &'static [&'static str]) -> Self {
            Self::Kind
        }
    }

    let only_kind = MapDeserializer::<_, Obstacle>::new(std::iter::once(("kind", kind)));
    !matches!(M::deserialize(only_kind), Err(Obstacle::Kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(tag = "kind", content = "body", rename_all = "snake_case")]
    enum Message {
        Number { n: u32 },
        Shape { shape: Shape },
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Shape {
        Round,
    }

    #[derive(Serialize)]
    #[serde(tag = "kind", content = "body", rename_all = "snake_case")]
    enum Newer {
        Number { n: u32, more: &'static str },
        Shape { shape: &'static str },
        Colour,
    }

    fn poll(bytes: &[u8]) -> Result<Option<Message>, FrameError> {
        let mut decoder = Decoder::new(Limit::Anonymous);
        decoder.handle_bytes(bytes);
        decoder.poll_message()
    }

    #[test]
    fn unknown_fields_are_skipped_and_unknown_kinds_told_apart() {
        let known = encode(&Newer::Number { n: 7, more: "x" }, Limit::Node).unwrap();
        assert_eq!(poll(&known).unwrap(), Some(Message::Number { n: 7 }));
        let unknown = encode(&Newer::Colour, Limit::Node).unwrap();
        assert!(matches!(poll(&unknown), Err(FrameError::UnknownKind(kind)) if kind == "colour"));
    }

    /// Invariant: a message that this version ought to act on is never skipped as if it were new to it.
    #[test]
    fn a_known_kind_with_an_unknown_value_inside_is_not_an_unknown_kind() {
        let known = encode(&Newer::Shape { shape: "round" }, Limit::Node).unwrap();
        assert_eq!(poll(&known).unwrap(), Some(Message::Shape { shape: Shape::Round }));
        let newer = encode(&Newer::Shape { shape: "square" }, Limit::Node).unwrap();
        assert!(matches!(poll(&newer), Err(FrameError::Malformed(_))));
    }

    #[test]
    fn a_length_is_refused_before_its_bytes_come() {
        assert!(matches!(poll(&u32::MAX.to_be_bytes()), Err(FrameError::TooLong { .. })));
    }

    proptest! {
        #[test]
        fn messages_survive_any_split(numbers in prop::collection::vec(any::<u32>(), 1..20), cut in 1usize..9) {
            let bytes: Vec<u8> =
                numbers.iter().flat_map(|n| encode(&Message::Number { n: *n }, Limit::Node).unwrap()).collect();
            let mut decoder = Decoder::new(Limit::Node);
            let mut seen = Vec::new();
            for piece in bytes.chunks(cut) {
                decoder.handle_bytes(piece);
                while let Some(message) = decoder.poll_message().unwrap() {
                    let Message::Number { n } = message else { panic!("not what was sent") };
                    seen.push(n);
                }
            }
            prop_assert_eq!(seen, numbers);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = poll(&bytes);
            let mut framed = u32::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
            framed.extend(bytes);
            let _ = poll(&framed);
        }
    }
}
