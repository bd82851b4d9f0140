//! The QUIC endpoint, and how much memory and time a connection may take.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context as _, Result};
use postern_encap::server::Socket;
use postern_model::SecretBytes;
use postern_relay::{Window, endpoint::allow_datagrams};
use quinn::{Connection, Endpoint, TransportConfig, VarInt, crypto::rustls::QuicServerConfig};

use crate::certificates::{DeviceCa, Identity};

/// Streams that an enrolled node may have open: its session, and access requests.
const STREAMS: u32 = 100;
/// Streams that anyone else may have open.
const STREAMS_ANONYMOUS: u32 = 1;
/// Bytes that a node may send ahead of what was read, on one stream and on all. The longest message fits into the first.
const STREAM_WINDOW: u32 = 64 << 10;
const WINDOW: u32 = 256 << 10;
/// Bytes on their way to a node that it has not acknowledged.
const SEND_WINDOW: u64 = 1 << 20;

/// What is derived of the secret.
const PURPOSE: &str = "postern coordinator v1";

/// The QUIC endpoint for nodes, and its socket, to which their streams on TCP are attached. `secret` has to be the same at each start: by it a coordinator tells the nodes of its earlier
/// life that their connections are gone (stateless resets, RFC 9000 section 10.3), and they need not find out by waiting.
///
/// # Errors
/// When the address is taken, or the cryptography can't be set up.
pub(crate) fn bind(
    listen: SocketAddr,
    identity: &Identity,
    ca: &DeviceCa,
    secret: &SecretBytes,
    is_relay: bool,
) -> Result<(Endpoint, Arc<Socket>, quinn::ServerConfig)> {
    let mut protocols = vec![postern_wire::ALPN.to_vec()];
    protocols.extend(is_relay.then(|| postern_wire::relay::ALPN.to_vec()));
    let tls = QuicServerConfig::try_from(identity.node_tls(ca.verifier()?, protocols)?)?;
    let config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    let runtime = quinn::default_runtime().context("no async runtime")?;
    let socket = Socket::new(runtime.wrap_udp_socket(crate::listeners::udp(listen)?)?, crate::listeners::streams());
    let endpoint_config = postern_relay::endpoint::endpoint_config(secret.expose(), PURPOSE);
    let endpoint = Endpoint::new_with_abstract_socket(endpoint_config, Some(config.clone()), socket.clone(), runtime)?;
    Ok((endpoint, socket, config))
}

/// The configuration for one connection. What protocol it speaks is known only after the handshake; if it is the relay's,
/// the window is opened then.
pub(super) fn for_one(config: &quinn::ServerConfig) -> (Arc<quinn::ServerConfig>, Window) {
    let (mut config, window) = (config.clone(), Window::default());
    config.transport_config(Arc::new(transport(&window)));
    (Arc::new(config), window)
}

/// What anyone may take, before it is known who it is. A node in its session says by itself that it counts as gone after 10
/// silent seconds.
fn transport(window: &Window) -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport.max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_ANONYMOUS));
    transport.max_concurrent_uni_streams(VarInt::from_u32(0));
    transport.stream_receive_window(VarInt::from_u32(STREAM_WINDOW));
    transport.receive_window(VarInt::from_u32(WINDOW));
    transport.send_window(SEND_WINDOW);
    allow_datagrams(&mut transport, window);
    transport
}

/// Lets an enrolled device open what a device needs.
pub(super) fn allow_streams(connection: &Connection) {
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(STREAMS));
}
