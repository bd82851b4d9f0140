//! The lane: the loop that runs the forwarder. It reads a bounded batch from each source in turn, so that none starves
//! another, and looks for commands before each: a revocation never waits behind a flood.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TryRecvError},
    },
};

use postern_engine::{DropReason, Forwarder, ForwardingTable};
use postern_wireguard::classify;

use crate::{
    FlowReport, LaneEvent, LaneStatus, clock,
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
    Publish(Arc<ForwardingTable>),
    Replay(Vec<Vec<u8>>),
    Refuse(Vec<Vec<u8>>, DropReason),
    Status(SyncSender<LaneStatus>),
    FlowNews(SyncSender<FlowReport>),
    AnnounceStop,
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
    /// Whether it was told that there is news of flows.
    has_told_news: bool,
}

impl<E: FnMut(LaneEvent)> Lane<E> {
    pub(crate) fn new(forwarder: Forwarder, outbox: Outbox<E>, poll: Poll, commands: Receiver<Command>) -> Self {
        Self { forwarder, outbox, poll, commands, inbox: Inbox::new(), packet: vec![0; PACKET], has_told_news: false }
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
        if !self.has_told_news && self.forwarder.has_flow_news() {
            self.has_told_news = true;
            (self.outbox.events)(LaneEvent::FlowNews);
        }
        match self.outbox.take_failure() {
            Some(error) => Err(self.explain(&error)),
            None => Ok(None),
        }
    }

    /// Does what was commanded meanwhile; whether to stop.
    fn obey(&mut self) -> bool {
        loop {
            let mut commands = Vec::new();
            let is_over = loop {
                match self.commands.try_recv() {
                    Ok(command) => commands.push(command),
                    Err(end) => break end == TryRecvError::Disconnected,
                }
            };
            if commands.is_empty() {
                return is_over;
            }
            if commands.iter().any(|command| matches!(command, Command::AnnounceStop)) {
                // Ahead of the tables that it is about, which may move ahead of others.
                self.forwarder.handle_stopping();
            }
            for command in with_newest_table(commands) {
                if self.carry_out(command) {
                    return true;
                }
            }
        }
    }

    /// Does what one command says; whether to stop.
    fn carry_out(&mut self, command: Command) -> bool {
        match command {
            Command::Publish(table) => {
                let generation = table.generation;
                self.forwarder.handle_table(table, &mut self.outbox, clock::now());
                // Only now are the resets out.
                self.outbox.flush();
                let cut = self.forwarder.take_cut();
                (self.outbox.events)(LaneEvent::Applied { generation, cut });
            }
            Command::Replay(packets) => {
                for mut packet in packets {
                    self.forwarder.handle_packet(&mut packet, &mut self.outbox, clock::now());
                }
                self.outbox.flush();
            }
            Command::Refuse(packets, reason) => {
                for packet in packets {
                    self.forwarder.handle_refused(&packet, reason, &mut self.outbox, clock::now());
                }
                self.outbox.flush();
            }
            Command::Status(answer) => {
                let _ = answer.try_send(LaneStatus {
                    peers: self.forwarder.peers(),
                    counters: self.forwarder.counters().clone(),
                    generation: self.forwarder.generation(),
                    in_use: self.forwarder.resources_in_use(),
                });
            }
            Command::FlowNews(answer) => {
                let news = std::iter::from_fn(|| self.forwarder.poll_flow_news()).take(FlowReport::MAX).collect();
                let (has_more, lost) = (self.forwarder.has_flow_news(), self.forwarder.flow_news_lost());
                self.has_told_news = has_more;
                let _ = answer.try_send(FlowReport { news, has_more, lost });
            }
            // Done when it came.
            Command::AnnounceStop => {}
            Command::Stop => return true,
        }
        false
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

/// The same commands with one table at most: the newest one, in place of the first. Each table costs a look at everything
/// that is open, and the newest one says all that those before it did; what needs a table finds one that is no older.
fn with_newest_table(commands: Vec<Command>) -> Vec<Command> {
    let mut newest = commands.iter().rev().find_map(|command| match command {
        Command::Publish(table) => Some(Arc::clone(table)),
        _ => None,
    });
    let keep = |command| match command {
        Command::Publish(_) => newest.take().map(Command::Publish),
        other => Some(other),
    };
    commands.into_iter().filter_map(keep).collect()
}

#[cfg(test)]
mod tests {
    use postern_engine::Generation;
    use postern_model::{NetworkRanges, OverlayAddr};

    use super::*;

    fn publish(generation: u64) -> Command {
        let own = OverlayAddr { v4: [100, 64, 1, 0].into(), v6: [0; 8].into() };
        let ranges = NetworkRanges::from_random([0; 5]);
        Command::Publish(Arc::new(ForwardingTable::empty(Generation(generation), own, ranges)))
    }

    fn seen(commands: Vec<Command>) -> Vec<String> {
        let name = |command: Command| match command {
            Command::Publish(table) => format!("table {}", table.generation.0),
            Command::Replay(_) => "replay".to_owned(),
            Command::Refuse(..) => "refuse".to_owned(),
            Command::Status(_) => "status".to_owned(),
            Command::FlowNews(_) => "news".to_owned(),
            Command::AnnounceStop => "announce".to_owned(),
            Command::Stop => "stop".to_owned(),
        };
        commands.into_iter().map(name).collect()
    }

    #[test]
    fn of_several_tables_only_the_newest_is_put_in_force_and_no_later_than_the_first() {
        let refuse = || Command::Refuse(vec![], DropReason::AccessDenied);
        let commands = vec![refuse(), publish(1), Command::Replay(vec![]), publish(2), publish(3), Command::Stop];
        assert_eq!(seen(with_newest_table(commands)), ["refuse", "table 3", "replay", "stop"]);
        assert_eq!(seen(with_newest_table(vec![publish(4)])), ["table 4"]);
        assert_eq!(seen(with_newest_table(vec![refuse()])), ["refuse"]);
    }
}
