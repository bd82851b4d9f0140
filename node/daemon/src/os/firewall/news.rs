//! News of changes to the kernel's rules, from nfnetlink.

use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SocketFlags, SocketType, bind,
        netlink::{NETFILTER, SocketAddrNetlink},
        recv, socket_with,
    },
};
use tokio::io::unix::AsyncFd;

/// `NFNLGRP_NFTABLES`, as a bit.
const NFTABLES: u32 = 1 << (7 - 1);
/// `NFNL_SUBSYS_NFTABLES` and `NFT_MSG_NEWGEN`: the last message about each change.
const NEW_GENERATION: u16 = (10 << 8) | 15;
/// What each message begins with: its length, its kind, and what is not looked at.
const HEADER: usize = 16;

/// Hears of changes by anybody, this process too.
#[derive(Debug)]
pub struct News(Option<AsyncFd<OwnedFd>>);

impl News {
    /// Without the kernel's help nothing is ever heard.
    pub fn start() -> Self {
        match open() {
            Ok(socket) => Self(Some(socket)),
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "changes of the firewall will be noticed late");
                Self(None)
            }
        }
    }

    /// Waits for a change.
    pub async fn heard(&mut self) {
        let Some(socket) = &self.0 else { return std::future::pending().await };
        match socket.readable().await {
            Ok(mut ready) => {
                count(socket.get_ref());
                ready.clear_ready();
            }
            Err(_) => self.0 = None,
        }
    }

    /// How many changes were made since the last time that this or [`heard`](Self::heard) told of any; `None` if nobody
    /// knows.
    pub fn count(&mut self) -> Option<usize> {
        self.0.as_ref().and_then(|socket| count(socket.get_ref()))
    }
}

fn open() -> Result<AsyncFd<OwnedFd>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(NETFILTER))
        .context("the kernel's firewall can't be reached")?;
    bind(&socket, &SocketAddrNetlink::new(0, NFTABLES)).context("the kernel does not tell of its firewall")?;
    #[allow(deprecated, reason = "the other way is unsafe; a descriptor that is owned is all that it asks for")]
    Ok(AsyncFd::new(socket)?)
}

/// What changed is not looked at: whoever hears of it looks at the rules.
fn count(socket: &OwnedFd) -> Option<usize> {
    let (mut buffer, mut count) = ([0; 8192], Some(0));
    loop {
        match recv(socket, &mut buffer[..], RecvFlags::empty()) {
            Ok((len, _)) => count = count.map(|count| count + generations(&buffer[..len])),
            // More was told than there was room for.
            Err(Errno::NOBUFS) => count = None,
            Err(Errno::INTR) => {}
            Err(_) => return count,
        }
    }
}

/// How many changes a datagram says are complete.
fn generations(mut messages: &[u8]) -> usize {
    let mut count = 0;
    while let (Some(len), Some(kind)) = (messages.first_chunk(), messages.get(4..).and_then(<[u8]>::first_chunk)) {
        count += usize::from(u16::from_ne_bytes(*kind) == NEW_GENERATION);
        let len = (u32::from_ne_bytes(*len) as usize).max(HEADER).next_multiple_of(4);
        messages = messages.get(len..).unwrap_or_default();
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(HEADER + body.len()).unwrap();
        let mut message = [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], body].concat();
        message.resize(message.len().next_multiple_of(4), 0);
        message
    }

    #[test]
    fn complete_changes_are_counted_whatever_else_is_told() {
        let (rule, generation) = (message((10 << 8) | 6, &[7; 21]), message(NEW_GENERATION, &[1; 8]));
        assert_eq!(generations(&[&rule[..], &generation, &rule, &generation].concat()), 2);
        assert_eq!(generations(&rule), 0);
        assert_eq!(generations(&[]), 0);
        // Cut off, or without sense.
        assert_eq!(generations(&[&rule[..], &generation[..10]].concat()), 1);
        assert_eq!(generations(&[0; 64]), 0);
    }
}
