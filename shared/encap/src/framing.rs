//! Packets in a stream: two bytes of length, big-endian, then the packet; as IPsec does it on TCP (RFC 8229, now 9329). Pure.
//!
//! A length that no packet of ours can have ends the stream: whoever sends it is not who we think, or lost count.

/// The longest packet, in bytes. QUIC's are 1,200 to 1,452 here.
pub const MAX_PACKET: usize = 1500;
/// Bytes in front of each.
const PREFIX: usize = 2;

/// A stream that can't be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a packet of {0} bytes is announced; packets have 1 to {MAX_PACKET}")]
pub struct BadLength(u16);

/// Appends a packet to what is to be written; whether it is one that can be sent.
pub fn encode(packet: &[u8], into: &mut Vec<u8>) -> bool {
    let len = match u16::try_from(packet.len()) {
        Ok(len) if is_length(packet.len()) => len,
        _ => return false,
    };
    into.extend_from_slice(&len.to_be_bytes());
    into.extend_from_slice(packet);
    true
}

fn is_length(len: usize) -> bool {
    (1..=MAX_PACKET).contains(&len)
}

/// Takes a stream apart. `handle_bytes`, then `poll_packet` until there is none: then it keeps less than one packet.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// What of it is done with.
    done: usize,
}

impl Decoder {
    /// Takes what has arrived.
    pub fn handle_bytes(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.done);
        self.done = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next packet that is there as a whole.
    ///
    /// # Errors
    /// When the stream can't be read on; again at each later call.
    pub fn poll_packet(&mut self) -> Result<Option<&[u8]>, BadLength> {
        let rest = &self.buffer[self.done..];
        let Some((prefix, rest)) = rest.split_first_chunk::<PREFIX>() else { return Ok(None) };
        let announced = u16::from_be_bytes(*prefix);
        let len = usize::from(announced);
        if !is_length(len) {
            return Err(BadLength(announced));
        }
        if rest.len() < len {
            return Ok(None);
        }
        let start = self.done + PREFIX;
        self.done = start + len;
        Ok(Some(&self.buffer[start..self.done]))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(stream: &[u8], at_once: usize) -> (Vec<Vec<u8>>, Option<BadLength>) {
        let (mut decoder, mut packets) = (Decoder::default(), Vec::new());
        for piece in stream.chunks(at_once) {
            decoder.handle_bytes(piece);
            loop {
                match decoder.poll_packet() {
                    Ok(Some(packet)) => packets.push(packet.to_vec()),
                    Ok(None) => break,
                    Err(error) => return (packets, Some(error)),
                }
            }
            assert!(decoder.buffer.len() - decoder.done < PREFIX + MAX_PACKET);
        }
        (packets, None)
    }

    #[test]
    fn no_packet_has_no_bytes_or_too_many() {
        let mut stream = Vec::new();
        assert!(!encode(&[], &mut stream) && !encode(&[1; MAX_PACKET + 1], &mut stream) && stream.is_empty());
        assert!(encode(&[1; MAX_PACKET], &mut stream));
        for bad in [0, 1501, u16::MAX] {
            let stream = [&stream[..], &bad.to_be_bytes(), &[0; 4000]].concat();
            assert_eq!(read(&stream, 4096), (vec![vec![1; MAX_PACKET]], Some(BadLength(bad))));
        }
        let mut decoder = Decoder::default();
        decoder.handle_bytes(&[0, 0]);
        assert!(decoder.poll_packet().is_err() && decoder.poll_packet().is_err(), "there is no way on");
    }

    proptest! {
        #[test]
        fn what_is_framed_is_read_however_it_arrives(
            packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..=MAX_PACKET), 0..8),
            at_once in 1usize..4096,
        ) {
            let mut stream = Vec::new();
            for packet in &packets {
                prop_assert!(encode(packet, &mut stream));
            }
            prop_assert_eq!(read(&stream, at_once), (packets, None));
        }

        #[test]
        fn any_bytes_are_read_alike_however_they_arrive(
            stream in prop::collection::vec(any::<u8>(), 0..4000), at_once in 1usize..4096,
        ) {
            prop_assert_eq!(read(&stream, at_once), read(&stream, 1));
        }
    }
}
