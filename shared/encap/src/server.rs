//! [`Socket`]: what a QUIC server listens on. One UDP socket, and any number of streams, which to quinn are further addresses.
//!
//! - Packets of a stream come from the stream's IP address and TCP port, as IPv6 and with a flow label that is not 0: no UDP packet
//!   ever comes from such an address, so nobody can speak for a stream, and the IP address is still the real one for all
//!   who look at it. What quinn sends there goes into that stream, and is dropped when the stream is gone or full.
//! - STUN requests are answered here and never reach quinn.
//! - Streams are bounded in all, for each source prefix, and in how long they may be silent.

use std::{
    collections::HashMap,
    fmt, io,
    io::IoSliceMut,
    net::{IpAddr, SocketAddr, SocketAddrV6},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use postern_wire::stun;
use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};

pub use crate::stream::Ended;
use crate::{
    clock,
    pace::Pace,
    shares::{Prefix, Share, Shares},
    stream::{self, Arrived},
};

/// Streams at once, if not told otherwise.
pub const STREAMS: usize = 8192;
/// Of which one source may have so many: a company comes from one address when it has one proxy.
const STREAMS_EACH: usize = 1024;
/// How long a stream may be silent. Nodes send something every few seconds.
const IDLE: Duration = Duration::from_secs(60);
/// STUN answers in a second, to all together: what is asked in others' names is to flood nobody.
const STUN_ANSWERS: u32 = 2000;

/// There are as many streams as there may be, in all or from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there are too many streams of QUIC packets, in all or from that source")]
pub struct Full;

/// Whether a connection's packets come in a stream and not by UDP.
pub fn is_in_stream(remote: SocketAddr) -> bool {
    matches!(remote, SocketAddr::V6(addr) if addr.flowinfo() != 0)
}

/// Give it to `quinn::Endpoint::new_with_abstract_socket`, and streams to [`Socket::attach`]. They end when it is dropped.
pub struct Socket {
    udp: Arc<dyn AsyncUdpSocket>,
    streams: Arc<Streams>,
    shares: Arc<Shares>,
    /// Locked by the endpoint's driver alone.
    inbox: Mutex<mpsc::Receiver<Arrived>>,
    arrived: mpsc::Sender<Arrived>,
    /// Whether streams are looked at before UDP: by turns, so that neither keeps the other waiting.
    streams_first: AtomicBool,
    answers: Mutex<Pace>,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("udp", &self.udp).field("streams", &self.streams()).finish_non_exhaustive()
    }
}

impl Socket {
    /// Around a UDP socket of quinn's runtime, with room for so many streams.
    pub fn new(udp: Arc<dyn AsyncUdpSocket>, streams: usize) -> Arc<Self> {
        let (arrived, inbox) = mpsc::channel(stream::INCOMING);
        Arc::new(Self {
            udp,
            streams: Arc::new(Streams { most: streams, open: RwLock::default() }),
            shares: Shares::new(STREAMS_EACH),
            inbox: Mutex::new(inbox),
            arrived,
            streams_first: AtomicBool::new(false),
            answers: Mutex::new(Pace::new(STUN_ANSWERS, clock::now())),
        })
    }

    /// How many streams are open.
    pub fn streams(&self) -> usize {
        self.streams.open.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Makes a stream whose TLS handshake is done a part of this socket, for as long as the returned future runs; it ends
    /// with the stream, or with this socket. Whoever accepts connections calls it.
    ///
    /// # Errors
    /// When there are too many.
    pub fn attach<S>(
        &self,
        stream: S,
        from: SocketAddr,
    ) -> Result<impl Future<Output = Ended> + Send + 'static + use<S>, Full>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let share = self.shares.take(Prefix::of(from.ip())).ok_or(Full)?;
        let (outgoing, to_write) = mpsc::channel(stream::OUTGOING);
        let addr = self.streams.add(from, outgoing)?;
        let place = Place { streams: Arc::clone(&self.streams), addr, _share: share };
        let arrived = self.arrived.clone();
        Ok(async move {
            let place = place;
            stream::carry(stream, place.addr, to_write, arrived, Some(IDLE)).await
        })
    }

    fn poll_udp(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(self.udp.poll_recv(cx, bufs, metas))?;
        for (buf, meta) in bufs.iter_mut().zip(metas.iter_mut()).take(count) {
            if let SocketAddr::V6(addr) = &mut meta.addr {
                // Linux says 0 anyway; but a packet must not speak for a stream.
                addr.set_flowinfo(0);
            }
            let (len, stride) = (meta.len.min(buf.len()), meta.stride);
            let told = *meta;
            // What is left may be nothing; quinn then reads nothing in it.
            meta.len = sift(&mut buf[..len], stride, |datagram| {
                let is_stun = stun::is_stun(datagram);
                if is_stun {
                    self.answer(datagram, &told);
                }
                !is_stun
            });
        }
        Poll::Ready(Ok(count))
    }

    fn answer(&self, request: &[u8], meta: &RecvMeta) {
        if !self.answers.lock().unwrap_or_else(PoisonError::into_inner).take(clock::now()) {
            return;
        }
        if let Some(answer) = stun::answer(request, meta.addr) {
            // From where it was asked; an answer that does not fit into the socket's buffer now is asked for again.
            let _ = self.udp.try_send(&Transmit {
                destination: meta.addr,
                ecn: None,
                contents: &answer,
                segment_size: None,
                src_ip: meta.dst_ip,
            });
        }
    }

    fn poll_streams(&self, cx: &mut Context<'_>, bufs: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]) -> Poll<usize> {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        let count = fill(&mut inbox, cx, bufs, metas);
        // That all senders are gone can't be: one of them is here.
        if count == 0 { Poll::Pending } else { Poll::Ready(count) }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Those who write to streams hear that there is nothing more to come.
        self.streams.open.write().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        // Streams never make anybody wait.
        Arc::clone(&self.udp).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if !is_in_stream(transmit.destination) {
            return self.udp.try_send(transmit);
        }
        let open = self.streams.open.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(outgoing) = open.get(&transmit.destination) {
            send(outgoing, transmit);
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let streams_first = self.streams_first.fetch_not(Ordering::Relaxed);
        if streams_first && let Poll::Ready(count) = self.poll_streams(cx, bufs, metas) {
            return Poll::Ready(Ok(count));
        }
        if let Poll::Ready(received) = self.poll_udp(cx, bufs, metas) {
            return Poll::Ready(received);
        }
        if streams_first {
            return Poll::Pending;
        }
        self.poll_streams(cx, bufs, metas).map(Ok)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.udp.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.udp.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.udp.may_fragment()
    }
}

/// Hands a stream what quinn sends: one packet, or several of one length that a UDP socket would cut. What the stream has no room
/// for is lost, as it would be in a network.
pub(crate) fn send(outgoing: &mpsc::Sender<Vec<u8>>, transmit: &Transmit<'_>) {
    let len = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
    for packet in transmit.contents.chunks(len) {
        if outgoing.try_send(packet.to_vec()).is_err() {
            break;
        }
    }
}

/// Gives quinn what has arrived in streams, as far as there is room; how many packets. Registers for more when it is fewer.
pub(crate) fn fill(
    inbox: &mut mpsc::Receiver<Arrived>,
    cx: &mut Context<'_>,
    bufs: &mut [IoSliceMut<'_>],
    metas: &mut [RecvMeta],
) -> usize {
    let (mut count, room) = (0, bufs.len().min(metas.len()));
    while count < room
        && let Poll::Ready(Some((addr, packet))) = inbox.poll_recv(cx)
    {
        // Longer ones are none of QUIC's.
        if let Some(buf) = bufs[count].get_mut(..packet.len()) {
            buf.copy_from_slice(&packet);
            let mut meta = RecvMeta::default();
            (meta.addr, meta.len, meta.stride) = (addr, packet.len(), packet.len());
            metas[count] = meta;
            count += 1;
        }
    }
    count
}

/// Moves those of a buffer's datagrams together that are kept, each `stride` long but for the last; how many bytes that are.
fn sift(buf: &mut [u8], stride: usize, mut keep: impl FnMut(&[u8]) -> bool) -> usize {
    let (mut kept, mut at) = (0, 0);
    while at < buf.len() {
        let end = (at + stride.max(1)).min(buf.len());
        if keep(&buf[at..end]) {
            buf.copy_within(at..end, kept);
            kept += end - at;
        }
        at = end;
    }
    kept
}

/// The open streams, by their addresses.
struct Streams {
    most: usize,
    open: RwLock<HashMap<SocketAddr, mpsc::Sender<Vec<u8>>>>,
}

impl Streams {
    fn add(&self, from: SocketAddr, outgoing: mpsc::Sender<Vec<u8>>) -> Result<SocketAddr, Full> {
        let ip = match from.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= self.most {
            return Err(Full);
        }
        // One address and port may have several streams: with other addresses of this machine, or behind a proxy of its own.
        let mut addrs = (1..=u32::MAX).map(|label| SocketAddr::V6(SocketAddrV6::new(ip, from.port(), label, 0)));
        let addr = addrs.find(|addr| !open.contains_key(addr)).ok_or(Full)?;
        open.insert(addr, outgoing);
        Ok(addr)
    }
}

/// A stream's place, until dropped.
struct Place {
    streams: Arc<Streams>,
    addr: SocketAddr,
    _share: Share,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.streams.open.write().unwrap_or_else(PoisonError::into_inner).remove(&self.addr);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_moves_together_and_the_last_may_be_shorter() {
        let mut buf = *b"aaSSbbSSc";
        let kept = sift(&mut buf, 2, |datagram| datagram != b"SS");
        assert_eq!(&buf[..kept], b"aabbc");
        let mut buf = *b"SSSSS";
        assert_eq!(sift(&mut buf, 2, |_| false), 0);
        assert_eq!(sift(&mut buf, 0, |_| true), 5, "whatever the kernel says, it ends");
    }

    #[test]
    fn an_address_is_free_again_when_its_stream_is_gone_and_the_number_is_bounded() {
        let streams = Arc::new(Streams { most: 2, open: RwLock::default() });
        let from = "192.0.2.1:4000".parse().unwrap();
        let add = || streams.add(from, mpsc::channel(1).0);
        let (first, second) = (add().unwrap(), add().unwrap());
        assert_ne!(first, second);
        assert!(is_in_stream(first) && first.ip().to_canonical() == from.ip() && first.port() == from.port());
        assert!(!is_in_stream(from) && !is_in_stream("[::ffff:192.0.2.1]:4000".parse().unwrap()));
        assert_eq!(add(), Err(Full));
        let share = Shares::new(1).take(Prefix::of(from.ip())).unwrap();
        drop(Place { streams: Arc::clone(&streams), addr: first, _share: share });
        assert_eq!(add(), Ok(first));
    }
}
