//! Making the kernel forget the flows that it follows, and so the mappings of a NAT: one message to netfilter.

use std::{
    fs::File,
    io::{Read as _, Write as _},
};

use anyhow::{Context as _, Result, bail};
use rustix::net::{AddressFamily, SocketFlags, SocketType, netlink, socket_with};

/// `nfnetlink_conntrack`'s "delete", which without a flow means all of them.
const DELETE: u16 = 1 << 8 | 2;
const REQUEST_AND_ACKNOWLEDGE: u16 = 1 | 4;
/// The header, and netfilter's own behind it.
const LENGTH: u32 = 16 + 4;

/// Forgets all flows of the namespace of the calling thread.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn flush() -> Result<()> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(netlink::NETFILTER))
        .context("open a netfilter socket")?;
    let mut socket = File::from(socket);
    let mut message = Vec::new();
    message.extend_from_slice(&LENGTH.to_ne_bytes());
    message.extend_from_slice(&DELETE.to_ne_bytes());
    message.extend_from_slice(&REQUEST_AND_ACKNOWLEDGE.to_ne_bytes());
    message.resize(LENGTH as usize, 0);
    socket.write_all(&message).context("ask netfilter to forget its flows")?;
    let mut answer = [0; 1024];
    let len = socket.read(&mut answer).context("hear from netfilter")?;
    let error = answer[..len].get(16..20).and_then(|bytes| Some(i32::from_ne_bytes(bytes.try_into().ok()?)));
    match error.context("netfilter answers too little")? {
        0 => Ok(()),
        error => bail!("netfilter does not forget its flows: {}", std::io::Error::from_raw_os_error(-error)),
    }
}
