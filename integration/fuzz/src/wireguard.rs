//! What happens between a client, a gateway and whoever is in between, as operations of two bytes or more: see [`World::step`].

use std::{collections::HashSet, time::Duration};

use postern_model::{Moment, SecretBytes};
use postern_wireguard::{
    Admission, Gate, HEADER, Kind, MIN_BUFFER, OVERHEAD, Opened, PrivateKey, Sealed, Tunnel, classify, receiver_index,
};

use crate::packets::Bytes;

/// More steps only take time.
const STEPS: usize = 100;
const BUFFER: usize = 2_048 + OVERHEAD;
const FROM: ([u8; 4], u16) = ([192, 0, 2, 1], 51_820);

/// The gateway opens only what the client has sealed, and once.
pub fn check(data: &[u8]) {
    let mut bytes = Bytes(data);
    let mut world = World::new();
    for _ in 0..STEPS {
        if bytes.is_empty() {
            break;
        }
        world.step(&mut bytes);
    }
}

struct World {
    client: Tunnel,
    gateway: Tunnel,
    gate: Gate,
    client_key: PrivateKey,
    now: Moment,
    /// Datagrams of the client with what is in them, or `None` for handshakes and keepalives.
    sent: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// Which of these were opened.
    opened: HashSet<usize>,
    buffer: Vec<u8>,
}

impl World {
    fn new() -> Self {
        let now = Moment::from_boot(Duration::from_secs(1_000));
        let [client_key, gateway_key] = [1, 2].map(|byte| PrivateKey::from_bytes(&SecretBytes::new([byte; 32])));
        let mut world = Self {
            client: Tunnel::new(&client_key, gateway_key.public(), None, 1, now),
            gateway: Tunnel::new(&gateway_key, client_key.public(), None, 2, now),
            gate: Gate::new(&gateway_key, now),
            client_key,
            now,
            sent: Vec::new(),
            opened: HashSet::new(),
            buffer: vec![0; BUFFER],
        };
        world.shake_hands();
        assert!(world.client.has_session(now) && world.gateway.has_session(now));
        world
    }

    fn step(&mut self, bytes: &mut Bytes<'_>) {
        match bytes.byte() % 7 {
            0 => self.seal(usize::from(bytes.word())),
            1 => self.deliver(usize::from(bytes.byte()), false),
            6 => self.deliver(usize::from(bytes.byte()), true),
            2 => self.deliver_altered(usize::from(bytes.byte()), usize::from(bytes.word()), bytes.byte()),
            3 => {
                let len = usize::from(bytes.byte());
                self.deliver_forged(bytes.take(len));
            }
            4 => self.wait(Duration::from_secs(bytes.byte().into())),
            _ => self.shake_hands(),
        }
    }

    /// The client seals a packet, which waits on the way.
    fn seal(&mut self, len: usize) {
        let len = 20 + len % 1_500;
        let mut packet = vec![7; len];
        packet[..4].copy_from_slice(&[0x45, 0, (len >> 8) as u8, len as u8]);
        if let Sealed::Datagram(datagram) = self.client.seal(&packet, &mut self.buffer, self.now) {
            assert!(datagram.len() <= packet.len() + OVERHEAD);
            let datagram = datagram.to_vec();
            self.sent.push((datagram, Some(packet)));
        }
    }

    /// One of the datagrams arrives as it was sent, perhaps for the second time: by itself, or as in a batch.
    fn deliver(&mut self, which: usize, in_place: bool) {
        let Some(which) = which.checked_rem(self.sent.len()) else { return };
        let (mut datagram, packet) = self.sent[which].clone();
        let opened = if in_place {
            open_in_place(&mut self.gateway, &mut datagram, self.now)
        } else {
            match self.gateway.handle_datagram(&datagram, &mut self.buffer, self.now) {
                Ok(Opened::Packet(opened)) => Some(opened.to_vec()),
                _ => None,
            }
        };
        if let Some(opened) = opened {
            assert_eq!(Some(opened), packet);
            assert!(self.opened.insert(which), "opened twice");
        }
    }

    /// One of the datagrams arrives, and somebody has changed it.
    fn deliver_altered(&mut self, which: usize, at: usize, bits: u8) {
        let Some(which) = which.checked_rem(self.sent.len()) else { return };
        let mut datagram = self.sent[which].0.clone();
        let at = at % datagram.len();
        datagram[at] ^= bits.max(1);
        self.deliver_forged(&datagram);
    }

    /// Something arrives that the client has not sent.
    fn deliver_forged(&mut self, datagram: &[u8]) {
        if self.sent.iter().any(|(sent, _)| sent == datagram) {
            return;
        }
        if classify(datagram) == Some(Kind::Initiation) {
            let mut out = [0; MIN_BUFFER];
            match self.gate.admit(datagram, FROM.into(), &mut out, self.now) {
                Admission::Cookie(cookie) => assert!(cookie.len() < datagram.len()),
                // The last two fields of an initiation prove only that its sender knows the gateway's public key; whatever is
                // behind its own key is for the tunnel to find out.
                Admission::Peer(key) => assert_eq!(key, self.client_key.public()),
                Admission::Invalid | Admission::Limited => {}
            }
        }
        let before = self.gateway.stats();
        assert_eq!(open_in_place(&mut self.gateway, &mut datagram.to_vec(), self.now), None, "forged");
        let result = self.gateway.handle_datagram(datagram, &mut self.buffer, self.now);
        if let Ok(opened) = result {
            assert_eq!(opened, Opened::Nothing, "forged");
        }
        let after = self.gateway.stats();
        assert_eq!((after.received_bytes, after.sent_bytes), (before.received_bytes, before.sent_bytes));
    }

    /// Time passes, and both do what is due. What the client sends arrives.
    fn wait(&mut self, time: Duration) {
        self.now = self.now + time;
        while let Some(datagram) = self.client.handle_timeout(&mut self.buffer, self.now) {
            let datagram = datagram.to_vec();
            self.exchange(datagram);
        }
        while self.gateway.handle_timeout(&mut self.buffer, self.now).is_some() {}
        for tunnel in [&self.client, &self.gateway] {
            assert!(tunnel.poll_timeout().is_none_or(|at| at > self.now), "nothing is due");
        }
    }

    fn shake_hands(&mut self) {
        let datagram = self.client.start_handshake(&mut self.buffer, self.now).map(<[u8]>::to_vec);
        if let Some(datagram) = datagram {
            self.exchange(datagram);
        }
    }

    /// What the client sends arrives, and so does the answer, until nobody has one.
    fn exchange(&mut self, mut datagram: Vec<u8>) {
        let mut other = vec![0; BUFFER];
        loop {
            self.sent.push((datagram.clone(), None));
            let Ok(Opened::Reply { datagram: reply, .. }) =
                self.gateway.handle_datagram(&datagram, &mut self.buffer, self.now)
            else {
                return;
            };
            assert!(reply.len() < datagram.len(), "nothing grows");
            let Ok(Opened::Reply { datagram: reply, .. }) = self.client.handle_datagram(reply, &mut other, self.now)
            else {
                return;
            };
            datagram = reply.to_vec();
        }
    }
}

/// As it is done for many: the packet, cut to its length, if it was the first to come with this counter.
fn open_in_place(tunnel: &mut Tunnel, datagram: &mut [u8], now: Moment) -> Option<Vec<u8>> {
    let index = receiver_index(datagram)?;
    let plain = tunnel.opener(index, now).ok()?.open(datagram).ok()?;
    tunnel.accept(index, plain.counter, datagram.len(), plain.len > 0, now).ok()?;
    let packet = &datagram[HEADER..HEADER + plain.len];
    let parsed = postern_packet::parse(packet).ok()?;
    Some(packet[..parsed.len].to_vec())
}
