//! Connections through both lanes.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    thread,
};

use super::{PATIENCE, PORT, Pair};

/// Listens where the grant leads.
pub(crate) fn listen(pair: &Pair) -> TcpListener {
    pair.gateway.netns.enter(|| TcpListener::bind((pair.target, PORT)).unwrap())
}

pub(crate) fn connect(pair: &Pair, to: IpAddr, port: u16) -> io::Result<TcpStream> {
    let stream = pair.client.netns.enter(|| TcpStream::connect_timeout(&SocketAddr::new(to, port), PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// A connection through both lanes, both ends.
pub(crate) fn connected(pair: &Pair, to: IpAddr) -> (TcpStream, TcpStream) {
    let listener = listen(pair);
    let client = connect(pair, to, PORT).unwrap();
    let (server, _) = listener.accept().unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    server.set_write_timeout(Some(PATIENCE)).unwrap();
    (client, server)
}

/// Sends megabytes one way and compares them.
pub(crate) fn transfer(mut from: &TcpStream, mut to: &TcpStream) {
    let sent: Vec<u8> = (0..8_u32 << 20).map(|i| (i.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
    let mut received = vec![0; sent.len()];
    thread::scope(|scope| {
        scope.spawn(|| from.write_all(&sent).unwrap());
        to.read_exact(&mut received).unwrap();
    });
    assert!(received == sent, "what arrived is not what was sent");
}

pub(crate) fn assert_reset(mut stream: &TcpStream) {
    let error = stream.read(&mut [0; 16]).expect_err("the connection ends with a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}
