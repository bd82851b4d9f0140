//! The packets of the revocation bench: one UDP flow to each resource, and when the last packet of each came.

use std::{
    collections::HashMap,
    io::Write as _,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::Result;
use rustix::event::{PollFd, PollFlags, poll};

use crate::figures::wall_clock;

/// Between two packets of a flow: what the last packet's time is exact to.
pub(crate) const INTERVAL: Duration = Duration::from_millis(5);

/// Sends to each target, to `port`, `port + 1`, …, until it is ended.
pub(crate) fn send(port: u16, targets: &[IpAddr]) -> Result<()> {
    let mut sockets = Vec::new();
    for (target, port) in targets.iter().zip(port..) {
        let socket = UdpSocket::bind(("0.0.0.0", 0))?;
        socket.set_nonblocking(true)?;
        sockets.push((socket, SocketAddr::new(*target, port)));
    }
    loop {
        for (socket, target) in &sockets {
            // Refused, full, unreachable: that is what is measured.
            let _ = socket.send_to(&[0; 64], target);
        }
        std::thread::sleep(INTERVAL);
    }
}

/// Prints a line of JSON twice a second, until it is ended: for each port when its last packet came, in microseconds since 1970.
pub(crate) fn receive(address: IpAddr, port: u16, count: u16) -> Result<()> {
    let sockets = (port..port + count).map(|port| {
        let socket = UdpSocket::bind((address, port))?;
        socket.set_nonblocking(true)?;
        Ok((port, socket))
    });
    let sockets: Vec<_> = sockets.collect::<std::io::Result<_>>()?;
    let mut last: HashMap<u16, u128> = HashMap::new();
    let mut told = wall_clock();
    let mut buffer = [0; 2048];
    loop {
        let mut fds: Vec<_> = sockets.iter().map(|(_, socket)| PollFd::new(socket, PollFlags::IN)).collect();
        let timeout = rustix::time::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        poll(&mut fds, Some(&timeout))?;
        let ready: Vec<_> = fds.iter().map(|fd| fd.revents().contains(PollFlags::IN)).collect();
        for ((port, socket), _) in sockets.iter().zip(ready).filter(|(_, ready)| *ready) {
            while socket.recv(&mut buffer).is_ok() {
                last.insert(*port, wall_clock().as_micros());
            }
        }
        if wall_clock().saturating_sub(told) >= Duration::from_millis(200) {
            told = wall_clock();
            let mut out = std::io::stdout().lock();
            writeln!(out, "{}", serde_json::to_string(&last)?)?;
            out.flush()?;
        }
    }
}
