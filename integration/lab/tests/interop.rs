//! Our lane against stock wireguard-go, each as the client and as the gateway of the other.
//!
//! ```text
//!   client 203.0.113.30 ── internet ── 203.0.113.20 gateway
//! ```
//!
//! Our side is a lane with a table made by hand; the other is configured with `wg set`, as anyone would.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    num::NonZeroUsize,
    os::fd::AsFd as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
        mpsc::channel,
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use postern_dataplane::{LaneConfig, LaneEvent, LaneHandle, NoRelays, Offloads, Sockets, Tun, clock, spawn};
use postern_engine::{
    CarriedGrant, DropReason, Endpoint, ForwardingTable, Generation, HeldGrant, Peer, PeerStatus, Visible,
};
use postern_lab::{Background, Host, Lab, Segment, eventually, wait::PATIENCE};
use postern_model::{
    DeviceId, Filter, GrantId, NetworkRanges, OverlayAddr, PortRange, PortSet, PresharedKey, PublicKey, ResourceId,
    SecretBytes,
};
use postern_wireguard::PrivateKey;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const CLIENT: &str = "203.0.113.30";
const GATEWAY: &str = "203.0.113.20";
/// Nobody is there.
const NOWHERE: &str = "203.0.113.99";
/// Where the grant leads, on the gateway itself.
const TARGET: &str = "10.0.0.5";
const PORT: u16 = 8080;
const MTU: u16 = 1420;
const LANES: NonZeroUsize = NonZeroUsize::new(2).unwrap();
const CLIENT_KEY: SecretBytes = SecretBytes::new([1; 32]);
const GATEWAY_KEY: SecretBytes = SecretBytes::new([2; 32]);
/// To the protocol, none at all.
const NO_PSK: PresharedKey = PresharedKey::new([0; 32]);
const PSK: PresharedKey = PresharedKey::new([7; 32]);

/// Longer than REKEY_AFTER_TIME, after which the initiator makes a new session: there is no way to make stock WireGuard
/// do it earlier.
const REKEY_WATCH: u64 = 135;

fn ranges() -> NetworkRanges {
    NetworkRanges::from_random([1, 2, 3, 4, 5])
}

fn device() -> Result<OverlayAddr> {
    ranges().device(300).context("in range")
}

fn resource() -> Result<OverlayAddr> {
    ranges().resource(300).context("in range")
}

fn public(key: &SecretBytes) -> PublicKey {
    PrivateKey::from_bytes(key).public()
}

/// Runs `work` in the host. Sockets and devices made there stay there.
fn enter<T: Send>(host: &Host, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let namespace = File::open(format!("/run/netns/{}", host.namespace()))?;
    let work = || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        work()
    };
    match thread::scope(|scope| scope.spawn(work).join()) {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Gives the overlay's device its addresses and routes.
fn bring_up(host: &Host, device: &str, addr: OverlayAddr) -> Result<()> {
    host.ip(&["addr", "add", &format!("{}/32", addr.v4), "dev", device])?;
    host.ip(&["addr", "add", &format!("{}/128", addr.v6), "dev", device, "nodad"])?;
    host.ip(&["link", "set", device, "mtu", &MTU.to_string(), "up"])?;
    for (range, prefix) in ranges().device_ranges().into_iter().chain(ranges().resource_ranges()) {
        host.ip(&["route", "add", &format!("{range}/{prefix}"), "dev", device])?;
    }
    Ok(())
}

/// Our side.
struct Ours {
    lane: LaneHandle,
    port: u16,
}

impl Ours {
    fn start(host: &Host, key: &SecretBytes, own: OverlayAddr, port: u16, table: ForwardingTable) -> Result<Self> {
        let offloads: Offloads = std::env::var("POSTERN_WITHOUT").unwrap_or_default().parse()?;
        let (tun, sockets) = enter(host, || {
            Ok((Tun::create("postern0", MTU, LANES, offloads)?, Sockets::bind(port, LANES, offloads)?))
        })?;
        bring_up(host, tun.name(), own)?;
        let port = sockets.port();
        let (sender, events) = channel();
        let config = LaneConfig { tun, sockets, private: PrivateKey::from_bytes(key), relay: Arc::new(NoRelays) };
        let lane = spawn(config, move |event| drop(sender.send(event)))?;
        let generation = table.generation;
        lane.publish(Arc::new(table));
        ensure!(events.recv_timeout(PATIENCE)? == LaneEvent::Applied { generation, cut: vec![] });
        Ok(Self { lane, port })
    }

    fn peer(&self) -> Result<PeerStatus> {
        let status = self.lane.status().context("the lane is silent")?;
        status.peers.into_iter().next().context("no peer")
    }

    fn endpoint(&self) -> Result<SocketAddr> {
        self.peer()?.endpoint.and_then(Endpoint::direct).context("known")
    }

    fn dropped(&self, reason: DropReason) -> Result<u64> {
        Ok(self.lane.status().context("the lane is silent")?.counters.dropped(reason))
    }
}

/// wireguard-go.
struct Stock {
    host: Host,
    device: String,
    process: Background,
}

impl Stock {
    fn start(host: &Host, key: &SecretBytes, own: OverlayAddr) -> Result<Self> {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        // `wg` finds it by a socket that has the device's name, in a directory that all namespaces share.
        let device = format!("wg{}x{}", std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
        let process = host.spawn("wireguard-go", host.command("wireguard-go").args(["-f", &device]))?;
        let stock = Self { host: host.clone(), device, process };
        eventually("wireguard-go answers", || stock.wg(&["show", &stock.device]))
            .with_context(|| stock.process.log())?;
        let key = stock.secret("key", key.expose())?;
        stock.wg(&["set", &stock.device, "private-key", &key, "listen-port", "51820"])?;
        bring_up(host, &stock.device, own)?;
        Ok(stock)
    }

    fn wg(&self, words: &[&str]) -> Result<String> {
        self.host.run(&[&["wg"], words].concat())?.success()
    }

    /// Writes a secret as `wg` reads it.
    fn secret(&self, name: &str, secret: &[u8; 32]) -> Result<String> {
        let path = self.host.dir().join(name);
        std::fs::write(&path, serde_json::to_string(&SecretBytes::new(*secret))?.trim_matches('"'))?;
        Ok(path.to_string_lossy().into_owned())
    }

    fn set_peer(&self, peer: &PublicKey, words: &[&str]) -> Result<()> {
        self.wg(&[&["set", &self.device, "peer", &peer.to_string()], words].concat())?;
        Ok(())
    }

    /// A column of `wg show`, of its only peer.
    fn show(&self, what: &str) -> Result<String> {
        let shown = self.wg(&["show", &self.device, what])?;
        Ok(shown.split_whitespace().nth(1).context("no peer")?.to_owned())
    }

    fn latest_handshake(&self) -> Result<u64> {
        Ok(self.show("latest-handshakes")?.parse()?)
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        let _ = self.process.terminate();
        let _ = std::fs::remove_file(PathBuf::from(format!("/var/run/wireguard/{}.sock", self.device)));
    }
}

/// Two hosts that reach each other.
struct Scene {
    client: Host,
    gateway: Host,
    _internet: Segment,
    _lab: Lab,
}

impl Scene {
    fn new() -> Result<Self> {
        let mut lab = Lab::new()?;
        let internet = lab.segment("internet")?;
        let (client, gateway) = (lab.host("client")?, lab.host("gateway")?);
        client.link("eth0", &internet, &[&format!("{CLIENT}/24")])?;
        gateway.link("eth0", &internet, &[&format!("{GATEWAY}/24")])?;
        Ok(Self { client, gateway, _internet: internet, _lab: lab })
    }

    /// `count` echo requests, one per `interval` seconds; all must be answered.
    fn ping(&self, to: IpAddr, count: u64, interval: &str) -> Result<()> {
        let words = ["ping", "-n", "-c", &count.to_string(), "-i", interval, "-W", "10", &to.to_string()];
        let output = self.client.run(&words)?.success()?;
        ensure!(output.contains(" 0% packet loss"), "{output}");
        Ok(())
    }

    /// A TCP connection from the client to `to`, served at `served` on the gateway; both ends.
    fn connect(&self, to: IpAddr, served: IpAddr) -> Result<(TcpStream, TcpStream)> {
        let listener = enter(&self.gateway, || Ok(TcpListener::bind((served, PORT))?))?;
        let to = SocketAddr::new(to, PORT);
        let client = enter(&self.client, || Ok(TcpStream::connect_timeout(&to, PATIENCE)?))?;
        let (server, _) = listener.accept()?;
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
        }
        Ok((client, server))
    }

    /// Gives a host another outside address in place of its own.
    fn move_to(host: &Host, from: &str, to: &str) -> Result<()> {
        host.ip(&["addr", "del", &format!("{from}/24"), "dev", "eth0"])?;
        host.ip(&["addr", "add", &format!("{to}/24"), "dev", "eth0"])?;
        Ok(())
    }
}

/// Sends megabytes one way and compares them.
fn transfer(mut from: &TcpStream, mut to: &TcpStream) -> Result<()> {
    let sent: Vec<u8> = (0..4_u32 << 20).map(|i| (i.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
    let mut received = vec![0; sent.len()];
    thread::scope(|scope| {
        let sending = scope.spawn(|| from.write_all(&sent));
        to.read_exact(&mut received)?;
        sending.join().expect("writing does not panic")
    })?;
    ensure!(received == sent, "what arrived is not what was sent");
    Ok(())
}

fn filter() -> Result<Filter> {
    let port = PortRange::new(PORT, PORT).context("a range")?;
    Ok(Filter { tcp: PortSet::from_ranges(vec![port]), udp: PortSet::None, icmp: true })
}

fn peer(key: PublicKey, psk: &PresharedKey, candidates: Vec<SocketAddr>, initiate: bool) -> Arc<Peer> {
    let (relays, holds, carries) = (vec![], initiate, !initiate);
    Arc::new(Peer { key, preshared_key: psk.clone(), candidates, relays, holds, carries, initiate })
}

/// Ours is the gateway and carries the client's grant.
fn our_gateway(psk: &PresharedKey) -> Result<(Scene, Ours, Stock)> {
    let scene = Scene::new()?;
    scene.gateway.ip(&["addr", "add", &format!("{TARGET}/32"), "dev", "lo"])?;
    let own = ranges().device(301).context("in range")?;
    let mut table = ForwardingTable::empty(Generation(1), own, ranges());
    let (client, resource) = (device()?, resource()?);
    let carried = Arc::new(CarriedGrant {
        grant: GrantId::from_bytes([2; 16]),
        client: DeviceId::from_bytes([3; 16]),
        client_addr: client,
        peer: public(&CLIENT_KEY),
        resource: ResourceId::from_bytes([1; 16]),
        resource_addr: resource,
        targets: vec![TARGET.parse()?],
        filter: filter()?,
        expires: clock::now() + Duration::from_secs(3600),
        queried: None,
    });
    table.carried.insert((client.v4.into(), resource.v4.into()), Arc::clone(&carried));
    table.carried.insert((client.v6.into(), resource.v6.into()), carried);
    table.peers.insert(public(&CLIENT_KEY), peer(public(&CLIENT_KEY), psk, vec![], false));
    let ours = Ours::start(&scene.gateway, &GATEWAY_KEY, own, 0, table)?;

    let stock = Stock::start(&scene.client, &CLIENT_KEY, client)?;
    let allowed = ranges().resource_ranges().map(|(range, prefix)| format!("{range}/{prefix}")).join(",");
    let endpoint = format!("{GATEWAY}:{}", ours.port);
    stock.set_peer(&public(&GATEWAY_KEY), &["endpoint", &endpoint, "allowed-ips", &allowed])?;
    if *psk != NO_PSK {
        stock.set_peer(&public(&GATEWAY_KEY), &["preshared-key", &stock.secret("psk", psk.expose())?])?;
    }
    Ok((scene, ours, stock))
}

/// Ours is the client and holds a grant; stock WireGuard has the resource's address itself.
fn our_client(psk: &PresharedKey) -> Result<(Scene, Ours, Stock)> {
    let scene = Scene::new()?;
    let (client, resource) = (device()?, resource()?);
    let stock = Stock::start(&scene.gateway, &GATEWAY_KEY, resource)?;
    let allowed = format!("{}/32,{}/128", client.v4, client.v6);
    stock.set_peer(&public(&CLIENT_KEY), &["allowed-ips", &allowed])?;
    if *psk != NO_PSK {
        stock.set_peer(&public(&CLIENT_KEY), &["preshared-key", &stock.secret("psk", psk.expose())?])?;
    }

    let mut table = ForwardingTable::empty(Generation(1), client, ranges());
    let id = ResourceId::from_bytes([1; 16]);
    let visible = Arc::new(Visible { resource: id, addr: resource, filter: filter()? });
    let held = Arc::new(HeldGrant {
        grant: GrantId::from_bytes([2; 16]),
        resource: id,
        addr: resource,
        peer: public(&GATEWAY_KEY),
        filter: filter()?,
        expires: clock::now() + Duration::from_secs(3600),
    });
    for addr in [IpAddr::from(resource.v4), resource.v6.into()] {
        table.catalogue.insert(addr, Arc::clone(&visible));
        table.held.insert(addr, Arc::clone(&held));
    }
    let candidates = vec![format!("{NOWHERE}:51820").parse()?, format!("{GATEWAY}:51820").parse()?];
    table.peers.insert(public(&GATEWAY_KEY), peer(public(&GATEWAY_KEY), psk, candidates, true));
    let ours = Ours::start(&scene.client, &CLIENT_KEY, client, 0, table)?;
    Ok((scene, ours, stock))
}

#[test]
fn a_stock_client_reaches_the_target_through_our_gateway_and_nothing_else() -> Result<()> {
    let (scene, ours, stock) = our_gateway(&PSK)?;
    for to in [IpAddr::from(resource()?.v4), resource()?.v6.into()] {
        scene.ping(to, 3, "0.2")?;
        let (client, server) = scene.connect(to, TARGET.parse()?)?;
        transfer(&client, &server)?;
        transfer(&server, &client)?;
        ensure!(server.peer_addr()?.ip() == IpAddr::from(device()?.v4), "the target sees the device");
    }
    ensure!(stock.latest_handshake()? > 0 && ours.peer()?.stats.last_handshake.is_some());

    let other_port = SocketAddr::new(resource()?.v4.into(), PORT + 1);
    let refused = enter(&scene.client, || Ok(TcpStream::connect_timeout(&other_port, PATIENCE)?));
    ensure!(refused.is_err() && ours.dropped(DropReason::PortClosed)? > 0);
    // A client that claims to be another one.
    scene.client.ip(&["addr", "add", "100.64.9.9/32", "dev", &stock.device])?;
    let to = resource()?.v4.to_string();
    let foreign = scene.client.run(&["ping", "-n", "-c", "1", "-W", "1", "-I", "100.64.9.9", &to])?;
    ensure!(!foreign.ok() && ours.dropped(DropReason::ForeignSource)? > 0);
    Ok(())
}

#[test]
fn our_client_reaches_a_service_behind_stock_wireguard() -> Result<()> {
    for psk in [&PSK, &NO_PSK] {
        let (scene, ours, stock) = our_client(psk)?;
        for to in [IpAddr::from(resource()?.v4), resource()?.v6.into()] {
            scene.ping(to, 3, "0.2")?;
            let (client, server) = scene.connect(to, to)?;
            transfer(&client, &server)?;
            transfer(&server, &client)?;
        }
        ensure!(stock.latest_handshake()? > 0 && ours.peer()?.stats.last_handshake.is_some());
        ensure!(ours.endpoint()? == format!("{GATEWAY}:51820").parse()?, "the candidate that answered");
    }
    Ok(())
}

#[test]
fn another_preshared_key_makes_no_session() -> Result<()> {
    let (scene, ours, stock) = our_gateway(&PSK)?;
    let wrong = stock.secret("wrong", &[8; 32])?;
    stock.set_peer(&public(&GATEWAY_KEY), &["preshared-key", &wrong])?;
    let to = resource()?.v4;
    let unanswered = scene.client.run(&["ping", "-n", "-c", "1", "-W", "1", &to.to_string()])?;
    ensure!(!unanswered.ok());
    // It was asked for a handshake, and answered, with what the other side can't verify.
    eventually("the gateway has answered", || {
        ensure!(ours.peer()?.stats.sent_bytes > 0);
        Ok(())
    })?;
    ensure!(stock.latest_handshake()? == 0);
    stock.set_peer(&public(&GATEWAY_KEY), &["preshared-key", &stock.secret("right", PSK.expose())?])?;
    scene.ping(to.into(), 1, "1")
}

#[test]
fn a_stock_client_that_moves_keeps_its_connection() -> Result<()> {
    let (scene, ours, _stock) = our_gateway(&PSK)?;
    let (client, server) = scene.connect(resource()?.v4.into(), TARGET.parse()?)?;
    transfer(&client, &server)?;
    Scene::move_to(&scene.client, CLIENT, "203.0.113.31")?;
    transfer(&client, &server)?;
    transfer(&server, &client)?;
    ensure!(ours.endpoint()?.ip() == "203.0.113.31".parse::<IpAddr>()?);
    Ok(())
}

#[test]
fn connections_outlive_moves_of_our_client_and_of_a_stock_gateway() -> Result<()> {
    let (scene, ours, stock) = our_client(&PSK)?;
    let to = resource()?.v4.into();
    let (client, server) = scene.connect(to, to)?;
    transfer(&client, &server)?;
    Scene::move_to(&scene.client, CLIENT, "203.0.113.31")?;
    transfer(&client, &server)?;
    transfer(&server, &client)?;
    ensure!(stock.show("endpoints")?.starts_with("203.0.113.31:"));

    Scene::move_to(&scene.gateway, GATEWAY, "203.0.113.21")?;
    transfer(&server, &client)?;
    transfer(&client, &server)?;
    ensure!(ours.endpoint()?.ip() == "203.0.113.21".parse::<IpAddr>()?);
    Ok(())
}

/// Takes more than two minutes, see [`REKEY_WATCH`].
#[test]
fn a_stock_client_makes_new_keys_without_losing_a_packet() -> Result<()> {
    let (scene, ours, stock) = our_gateway(&PSK)?;
    let to = resource()?.v4.into();
    scene.ping(to, 1, "1")?;
    let (theirs_before, ours_before) = (stock.latest_handshake()?, ours.peer()?.stats.last_handshake);
    scene.ping(to, REKEY_WATCH, "1")?;
    ensure!(stock.latest_handshake()? > theirs_before && ours.peer()?.stats.last_handshake > ours_before);
    Ok(())
}

/// Takes more than two minutes, see [`REKEY_WATCH`].
#[test]
fn our_client_makes_new_keys_without_losing_a_packet() -> Result<()> {
    let (scene, ours, stock) = our_client(&PSK)?;
    let to = resource()?.v4.into();
    scene.ping(to, 1, "1")?;
    let (theirs_before, ours_before) = (stock.latest_handshake()?, ours.peer()?.stats.last_handshake);
    scene.ping(to, REKEY_WATCH, "1")?;
    ensure!(stock.latest_handshake()? > theirs_before && ours.peer()?.stats.last_handshake > ours_before);
    Ok(())
}
