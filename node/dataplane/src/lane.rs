//! The lane: the loop that runs the forwarder. It reads a bounded batch from each source in turn, so that none starves
//! another, and looks for commands before each: a revocation never waits behind a flood.

use std::{
    io,
    sync::mpsc::{Receiver, SyncSender, TryRecvError},
};

use postern_engine::{DropReason, Forwarder, ForwardingTable};
use postern_wireguard::classify;

use crate::{
    LaneEvent, LaneStatus, clock,
    inbox::Inbox,
    outbox::Outbox,
    poll::{Poll, Ready},
};

/// How many packets are read from TUN before the other sources have their turn.
const PACKETS: usize = 64;
/// The longest packet that TUN may hand over.
const PACKET: usize = 65_536;

/// What the lane is told, in this order.
pub(crate) enum Command {
    Publish(std::sync::Arc<ForwardingTable>),
    Replay(Vec<Vec<u8>>),
    Refuse(Vec<Vec<u8>>, DropReason),
    Status(SyncSender<LaneStatus>),
    Stop,
}

/// Why the lane ended.
pub(crate) enum End {
    /// It was told to.
    Stopped,
    /// It can't go on.
    Failed(String),
}

/// The thread's state.
pub(crate) struct Lane<E> {
    pub(crate) forwarder: Forwarder,
    pub(crate) outbox: Outbox<E>,
    pub(crate) poll: Poll,
    pub(crate) commands: Receiver<Command>,
    inbox: Inbox,
    packet: Vec<u8>,
}

impl<E: FnMut(LaneEvent)> Lane<E> {
    pub(crate) fn new(forwarder: Forwarder, outbox: Outbox<E>, poll: Poll, commands: Receiver<Command>) -> Self {
        Self { forwarder, outbox, poll, commands, inbox: Inbox::new(), packet: vec![0; PACKET] }
    }

    /// Runs until told to stop, or until the device is gone.
    pub(crate) fn run(&mut self) -> End {
        loop {
            match self.turn() {
                Ok(None) => {}
                Ok(Some(end)) => return end,
                Err(error) => return End::Failed(error.to_string()),
            }
        }
    }

    /// Waits once and handles what there is.
    fn turn(&mut self) -> io::Result<Option<End>> {
        self.poll.arm(self.forwarder.poll_timeout())?;
        let Ready { tun, v4, v6 } = self.poll.wait()?;
        if self.obey() {
            return Ok(Some(End::Stopped));
        }
        let now = clock::now();
        if self.forwarder.poll_timeout().is_some_and(|at| at <= now) {
            self.forwarder.handle_timeout(&mut self.outbox, now);
            self.outbox.flush();
        }
        for (is_ready, is_v6) in [(v4, false), (v6, true)] {
            if is_ready {
                self.datagrams(is_v6);
                if self.obey() {
                    return Ok(Some(End::Stopped));
                }
            }
        }
        if tun {
            self.packets()?;
        }
        for _ in 0..self.outbox.take_full() {
            self.forwarder.counters_mut().count(DropReason::SocketFull);
        }
        match self.outbox.take_failure() {
            Some(error) => Err(self.explain(&error)),
            None => Ok(None),
        }
    }

    /// Does what was commanded meanwhile; whether to stop.
    fn obey(&mut self) -> bool {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Publish(table)) => {
                    let generation = table.generation;
                    self.forwarder.handle_table(table, &mut self.outbox, clock::now());
                    // Only now are the resets out.
                    self.outbox.flush();
                    (self.outbox.events)(LaneEvent::Applied(generation));
                }
                Ok(Command::Replay(packets)) => {
                    for mut packet in packets {
                        self.forwarder.handle_packet(&mut packet, &mut self.outbox, clock::now());
                    }
                    self.outbox.flush();
                }
                Ok(Command::Refuse(packets, reason)) => {
                    for packet in packets {
                        self.forwarder.handle_refused(&packet, reason, &mut self.outbox, clock::now());
                    }
                    self.outbox.flush();
                }
                Ok(Command::Status(answer)) => {
                    let _ = answer.try_send(LaneStatus {
                        peers: self.forwarder.peers(),
                        counters: self.forwarder.counters().clone(),
                        generation: self.forwarder.generation(),
                        in_use: self.forwarder.resources_in_use(),
                    });
                }
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return true,
                Err(TryRecvError::Empty) => return false,
            }
        }
    }

    /// One batch of datagrams.
    fn datagrams(&mut self, is_v6: bool) {
        let Self { forwarder, outbox, inbox, .. } = self;
        let sockets = &outbox.sockets;
        let Some(socket) = (if is_v6 { sockets.v6.as_ref() } else { Some(&sockets.v4) }) else { return };
        let messages = match inbox.receive(socket) {
            Ok(messages) => messages,
            Err(error) => {
                // Errors of the network are told once and are over.
                tracing::debug!(%error, "receive");
                return;
            }
        };
        let now = clock::now();
        for message in messages {
            for (nth, datagram) in message.datagrams().enumerate() {
                if let (0, Some(to), Some(_)) = (nth, message.to, classify(datagram)) {
                    outbox.note_source(message.from, to);
                }
                forwarder.handle_datagram(message.from, datagram, outbox, now);
            }
        }
        outbox.flush();
    }

    /// One batch of packets from TUN.
    fn packets(&mut self) -> io::Result<()> {
        let now = clock::now();
        for _ in 0..PACKETS {
            match self.outbox.tun.read(&mut self.packet) {
                Ok(0) => break,
                Ok(len) => self.forwarder.handle_packet(&mut self.packet[..len], &mut self.outbox, now),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.explain(&error)),
            }
        }
        self.outbox.flush();
        Ok(())
    }

    fn explain(&self, error: &io::Error) -> io::Error {
        let name = self.outbox.tun.name();
        io::Error::new(error.kind(), format!("the TUN device {name} is gone: {error}"))
    }
}
