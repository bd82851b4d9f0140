//! A kernel that does not cut batches of datagrams (EIO, as of a device that can't, or of a path with IPsec): transfers go on
//! without them, nothing else is given up, and it is said once. Needs root.
//!
//! Such a kernel can't be had everywhere, so that the refusal is made in the system call's place, which in this program is
//! this file's: everything but a batch goes on to the kernel.
#![allow(unsafe_code, reason = "what stands in for a function of C is one")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

#[allow(dead_code, reason = "other tests use all of it")]
mod scene;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use rustix::io::Errno;
use tracing::{
    Event, Level, Metadata, Subscriber,
    span::{Attributes, Id, Record},
};

use scene::{
    GATEWAY_TOO, Pair, resource,
    streams::{connected, transfer},
};

/// How often a socket may find out that it can't: nothing more is tried after the first refusal, but what is under way.
const FEW: usize = 8;

/// How often a batch was refused, by socket.
static REFUSED: Mutex<BTreeMap<libc::c_int, usize>> = Mutex::new(BTreeMap::new());
/// How many datagrams went to IPv4 addresses without a word about ECN.
static WITHOUT_ECN: AtomicUsize = AtomicUsize::new(0);
/// How often it was said.
static SAID: AtomicUsize = AtomicUsize::new(0);

/// In place of the C library's.
///
/// # Safety
/// As `sendmsg(2)`.
#[unsafe(no_mangle)]
unsafe extern "C" fn sendmsg(fd: libc::c_int, message: *const libc::msghdr, flags: libc::c_int) -> libc::ssize_t {
    // SAFETY: the caller's message is whole, as the kernel would need it.
    let (is_batch, has_ecn, to) = unsafe {
        let has = |level, kind| has_control(message, level, kind);
        (has(libc::SOL_UDP, libc::UDP_SEGMENT), has(libc::IPPROTO_IP, libc::IP_TOS), (*message).msg_namelen)
    };
    if is_batch {
        *REFUSED.lock().unwrap().entry(fd).or_default() += 1;
        // SAFETY: it is the calling thread's own.
        unsafe { *libc::__errno_location() = Errno::IO.raw_os_error() };
        return -1;
    }
    if !has_ecn && to as usize == size_of::<libc::sockaddr_in>() {
        WITHOUT_ECN.fetch_add(1, Ordering::Relaxed);
    }
    // SAFETY: what the caller has promised for the one, it has promised for the other.
    unsafe { libc::syscall(libc::SYS_sendmsg, fd, message, flags) as libc::ssize_t }
}

/// Whether this kind of control message is with it.
///
/// # Safety
/// As `sendmsg(2)`.
unsafe fn has_control(message: *const libc::msghdr, level: libc::c_int, kind: libc::c_int) -> bool {
    // SAFETY: the control messages lie within the buffer that the message names, and these go from one to the next.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(message);
        while let Some(header) = control.as_ref() {
            if (header.cmsg_level, header.cmsg_type) == (level, kind) {
                return true;
            }
            control = libc::CMSG_NXTHDR(message, control);
        }
    }
    false
}

/// Hears what the lanes say.
struct Listener;

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target().starts_with("postern_dataplane") && *metadata.level() <= Level::INFO
    }

    fn event(&self, event: &Event<'_>) {
        event.record(&mut |_: &tracing::field::Field, value: &dyn fmt::Debug| {
            if format!("{value:?}").contains("does not cut batches") {
                SAID.fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[test]
fn without_segmentation_transfers_go_on_from_the_same_address_and_it_is_said_once() {
    tracing::subscriber::set_global_default(Listener).unwrap();
    let mut pair = Pair::new();
    // Not the address that the gateway's kernel would choose.
    pair.candidate = GATEWAY_TOO.parse().unwrap();
    pair.grant();
    let (client, server) = connected(&pair, resource().v4.into());
    for _ in 0..2 {
        transfer(&server, &client);
        transfer(&client, &server);
    }
    let refused = REFUSED.lock().unwrap().clone();
    // The IPv4 sockets of both ends.
    assert_eq!(refused.len(), 2, "{refused:?}");
    assert!(refused.values().all(|count| *count <= FEW), "{refused:?}");
    assert_eq!(SAID.load(Ordering::Relaxed), 1, "for all sockets of this process");
    assert_eq!(WITHOUT_ECN.load(Ordering::Relaxed), 0, "ECN goes on");
    assert_eq!(pair.client.endpoint().unwrap().ip(), pair.candidate);
}
