//! Which of the kernel's offloads are used. All of them, unless one is switched off: each can be done without, more slowly.

use std::str::FromStr;

/// The offloads that may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offloads {
    /// TCP super-packets, read from and written to TUN (TSO).
    pub tcp: bool,
    /// UDP super-packets, read from and written to TUN (USO; Linux 6.2).
    pub udp: bool,
    /// Many datagrams sent as one (UDP GSO).
    pub send: bool,
    /// Many datagrams received as one (UDP GRO).
    pub receive: bool,
}

impl Offloads {
    /// All of them.
    pub const ALL: Self = Self { tcp: true, udp: true, send: true, receive: true };
}

impl Default for Offloads {
    fn default() -> Self {
        Self::ALL
    }
}

/// What is switched off: names of offloads, with commas between them.
impl FromStr for Offloads {
    type Err = UnknownOffload;

    fn from_str(text: &str) -> Result<Self, UnknownOffload> {
        let mut offloads = Self::ALL;
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let offload = match name {
                "tso" => &mut offloads.tcp,
                "uso" => &mut offloads.udp,
                "gso" => &mut offloads.send,
                "gro" => &mut offloads.receive,
                _ => return Err(UnknownOffload(name.to_owned())),
            };
            *offload = false;
        }
        Ok(offloads)
    }
}

/// There is no offload of that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no offload: there are tso, uso, gso and gro")]
pub struct UnknownOffload(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_is_off() {
        assert_eq!("".parse(), Ok(Offloads::ALL));
        assert_eq!("tso, gro".parse(), Ok(Offloads { tcp: false, receive: false, ..Offloads::ALL }));
        assert_eq!("uso,gso".parse(), Ok(Offloads { udp: false, send: false, ..Offloads::ALL }));
        let error = "tso,lro".parse::<Offloads>().unwrap_err();
        assert!(error.to_string().contains("\"lro\""), "{error}");
    }
}
