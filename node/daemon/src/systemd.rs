//! Tells the service manager that the daemon is ready (sd_notify(3)), where there is one.

use std::os::unix::net::UnixDatagram;

/// Ready to serve. Does nothing without a service manager.
pub(crate) fn notify_ready() {
    notify(b"READY=1\n");
}

/// About to stop.
pub(crate) fn notify_stopping() {
    notify(b"STOPPING=1\n");
}

fn notify(state: &[u8]) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let sent = UnixDatagram::unbound().and_then(|socket| match path.to_str().and_then(|path| path.strip_prefix('@')) {
        Some(name) => {
            use std::os::linux::net::SocketAddrExt as _;
            let addr = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
            socket.send_to_addr(state, &addr)
        }
        None => socket.send_to(state, &path),
    });
    if let Err(error) = sent {
        tracing::warn!(%error, "the service manager can't be told");
    }
}
