//! Where the fields of handshake messages lie (sections 5.4.2, 5.4.3 and 5.4.7 of the WireGuard paper). Read and written in
//! place; nothing is authenticated here.

use super::mac::MACS;

/// Length of an initiation.
pub(super) const INITIATION: usize = 148;
/// Length of a response.
pub(super) const RESPONSE: usize = 92;

/// The first message: ephemeral key, sealed static key, sealed timestamp, MACs.
pub(super) struct Initiation<'a> {
    pub(super) sender: u32,
    pub(super) ephemeral: &'a [u8; 32],
    pub(super) sealed_static: &'a [u8; 48],
    pub(super) sealed_timestamp: &'a [u8; 28],
}

impl<'a> Initiation<'a> {
    /// `None` for anything of another kind or length.
    pub(super) fn read(mut message: &'a [u8]) -> Option<Self> {
        let rest = &mut message;
        kind(rest, 1)?;
        let read = Self {
            sender: u32::from_le_bytes(*field(rest)?),
            ephemeral: field(rest)?,
            sealed_static: field(rest)?,
            sealed_timestamp: field(rest)?,
        };
        (rest.len() == MACS).then_some(read)
    }
}

/// The fields of an initiation that is being made; the MACs come last.
pub(super) struct NewInitiation<'a> {
    pub(super) ephemeral: &'a mut [u8; 32],
    pub(super) sealed_static: &'a mut [u8; 48],
    pub(super) sealed_timestamp: &'a mut [u8; 28],
}

impl<'a> NewInitiation<'a> {
    /// Writes what is known from the beginning.
    pub(super) fn begin(message: &'a mut [u8; INITIATION], sender: u32) -> Option<Self> {
        let rest = &mut &mut message[..];
        *field_mut(rest)? = [1, 0, 0, 0];
        *field_mut(rest)? = sender.to_le_bytes();
        Some(Self { ephemeral: field_mut(rest)?, sealed_static: field_mut(rest)?, sealed_timestamp: field_mut(rest)? })
    }
}

/// The second message: ephemeral key, and a seal on nothing, which proves that the keys are the same; MACs.
pub(super) struct Response<'a> {
    pub(super) sender: u32,
    pub(super) receiver: u32,
    pub(super) ephemeral: &'a [u8; 32],
    pub(super) sealed_nothing: &'a [u8; 16],
}

impl<'a> Response<'a> {
    /// `None` for anything of another kind or length.
    pub(super) fn read(mut message: &'a [u8]) -> Option<Self> {
        let rest = &mut message;
        kind(rest, 2)?;
        let read = Self {
            sender: u32::from_le_bytes(*field(rest)?),
            receiver: u32::from_le_bytes(*field(rest)?),
            ephemeral: field(rest)?,
            sealed_nothing: field(rest)?,
        };
        (rest.len() == MACS).then_some(read)
    }
}

/// The fields of a response that is being made; the MACs come last.
pub(super) struct NewResponse<'a> {
    pub(super) ephemeral: &'a mut [u8; 32],
    pub(super) sealed_nothing: &'a mut [u8; 16],
}

impl<'a> NewResponse<'a> {
    /// Writes what is known from the beginning.
    pub(super) fn begin(message: &'a mut [u8; RESPONSE], sender: u32, receiver: u32) -> Option<Self> {
        let rest = &mut &mut message[..];
        *field_mut(rest)? = [2, 0, 0, 0];
        *field_mut(rest)? = sender.to_le_bytes();
        *field_mut(rest)? = receiver.to_le_bytes();
        Some(Self { ephemeral: field_mut(rest)?, sealed_nothing: field_mut(rest)? })
    }
}

/// Asks for a proof of the source address: a sealed cookie.
pub(super) struct CookieReply<'a> {
    pub(super) receiver: u32,
    pub(super) nonce: &'a [u8; 24],
    pub(super) sealed_cookie: &'a [u8; 16],
    pub(super) tag: &'a [u8; 16],
}

impl<'a> CookieReply<'a> {
    /// `None` for anything of another kind or length.
    pub(super) fn read(mut message: &'a [u8]) -> Option<Self> {
        let rest = &mut message;
        kind(rest, 3)?;
        let read = Self {
            receiver: u32::from_le_bytes(*field(rest)?),
            nonce: field(rest)?,
            sealed_cookie: field(rest)?,
            tag: field(rest)?,
        };
        rest.is_empty().then_some(read)
    }
}

fn kind(rest: &mut &[u8], expected: u8) -> Option<()> {
    (*field(rest)? == [expected, 0, 0, 0]).then_some(())
}

/// The next `N` bytes.
fn field<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (field, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(field)
}

fn field_mut<'a, const N: usize>(rest: &mut &'a mut [u8]) -> Option<&'a mut [u8; N]> {
    let (field, after) = std::mem::take(rest).split_first_chunk_mut()?;
    *rest = after;
    Some(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_where_the_paper_says() {
        let mut message = [0; INITIATION];
        let new = NewInitiation::begin(&mut message, 0x0403_0201).unwrap();
        (*new.ephemeral, *new.sealed_static, *new.sealed_timestamp) = ([5; 32], [6; 48], [7; 28]);
        assert_eq!(message[..8], [1, 0, 0, 0, 1, 2, 3, 4]);
        assert_eq!((message[8], message[39], message[40], message[87]), (5, 5, 6, 6));
        assert_eq!((message[88], message[115], message[116]), (7, 7, 0));
        let read = Initiation::read(&message).unwrap();
        assert_eq!((read.sender, read.ephemeral[0], read.sealed_static[0]), (0x0403_0201, 5, 6));
        assert_eq!(read.sealed_timestamp[0], 7);

        let mut message = [0; RESPONSE];
        let new = NewResponse::begin(&mut message, 0x0403_0201, 0x0807_0605).unwrap();
        (*new.ephemeral, *new.sealed_nothing) = ([5; 32], [6; 16]);
        assert_eq!(message[..12], [2, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!((message[12], message[43], message[44], message[59], message[60]), (5, 5, 6, 6, 0));
        let read = Response::read(&message).unwrap();
        assert_eq!((read.sender, read.receiver), (0x0403_0201, 0x0807_0605));
        assert_eq!((read.ephemeral[0], read.sealed_nothing[0]), (5, 6));
    }

    #[test]
    fn another_kind_or_length_is_not_read() {
        let message = |kind: u8, len: usize| {
            let mut message = vec![0; len];
            message[0] = kind;
            message
        };
        for len in 1..200 {
            assert_eq!(Initiation::read(&message(1, len)).is_some(), len == 148);
            assert_eq!(Response::read(&message(2, len)).is_some(), len == 92);
            assert_eq!(CookieReply::read(&message(3, len)).is_some(), len == 64);
        }
        assert!(Initiation::read(&message(2, 148)).is_none());
        let mut reserved = message(1, 148);
        reserved[3] = 1;
        assert!(Initiation::read(&reserved).is_none());
    }
}
