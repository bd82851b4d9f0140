//! A byte that says what is read, one by which the bytes arrive (0: as one frame, which is given its length; else so many at
//! a time), and what a peer sends.

use std::time::Duration;

use postern_engine::Engine;
use postern_wire::{
    AccessReply, CoordinatorMessage, Decoder, EnrolReply, ExplainReply, FrameError, Limit, NodeMessage, Opening, frame,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    packets::Bytes,
    setting::{engine, now},
};

/// A stream is read the same however its bytes arrive, and a message that was read is written as one that reads the same.
pub fn check(data: &[u8]) {
    let mut bytes = Bytes(data);
    let (what, at_once) = (bytes.byte(), usize::from(bytes.byte()));
    let framed;
    let stream = if at_once == 0 {
        framed = [&u32::try_from(bytes.0.len()).unwrap_or(u32::MAX).to_be_bytes(), bytes.0].concat();
        &framed
    } else {
        bytes.0
    };
    match what % 6 {
        0 => drop(read::<Opening>(stream, at_once, Limit::Anonymous)),
        1 => drop(read::<NodeMessage>(stream, at_once, Limit::Node)),
        2 => obey(read::<CoordinatorMessage>(stream, at_once, Limit::Coordinator)),
        3 => drop(read::<EnrolReply>(stream, at_once, Limit::Coordinator)),
        4 => drop(read::<AccessReply>(stream, at_once, Limit::Coordinator)),
        _ => drop(read::<ExplainReply>(stream, at_once, Limit::Coordinator)),
    }
}

/// The messages of a stream up to the first that can't be read.
fn read<M: Serialize + DeserializeOwned>(stream: &[u8], at_once: usize, limit: Limit) -> Vec<M> {
    let whole = read_in_pieces::<M>(stream, stream.len().max(1), limit);
    let pieces = read_in_pieces::<M>(stream, at_once.max(1), limit);
    let written =
        |messages: &[M]| messages.iter().map(|m| frame::encode(m, Limit::Coordinator).ok()).collect::<Vec<_>>();
    assert_eq!(written(&whole.0), written(&pieces.0));
    assert_eq!(whole.1, pieces.1);
    for frame in written(&whole.0).into_iter().flatten() {
        let (again, error) = read_in_pieces::<M>(&frame, frame.len(), Limit::Coordinator);
        assert_eq!((written(&again), error), (vec![Some(frame)], None));
    }
    whole.0
}

fn read_in_pieces<M: DeserializeOwned>(stream: &[u8], at_once: usize, limit: Limit) -> (Vec<M>, Option<String>) {
    let mut decoder = Decoder::new(limit);
    let mut messages = Vec::new();
    for piece in stream.chunks(at_once) {
        decoder.handle_bytes(piece);
        loop {
            match decoder.poll_message() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                // What this version does not know is skipped.
                Err(FrameError::UnknownKind(_)) => {}
                Err(error) => return (messages, Some(error.to_string())),
            }
        }
    }
    (messages, None)
}

/// Whatever the coordinator says, a node takes it, and its timers come to an end.
fn obey(messages: Vec<CoordinatorMessage>) {
    let mut engine = engine();
    for message in messages {
        engine.handle_message(message, now());
        settle(&mut engine);
    }
    for _ in 0..8 {
        let Some(at) = engine.poll_timeout() else { return };
        engine.handle_timeout(at.max(now()) + Duration::from_secs(1));
        settle(&mut engine);
    }
}

fn settle(engine: &mut Engine) {
    while engine.poll_event().is_some() {}
}
