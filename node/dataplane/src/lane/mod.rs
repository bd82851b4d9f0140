//! A lane: a thread with a queue of the TUN device and a pair of sockets of its own. It takes a bounded batch from each
//! source in turn, so that none starves another.
//!
//! - [`shared`]: what all lanes have in common
//! - [`egress`], [`ingress`]: a batch on its way out, and in; [`exit`]: where the output goes
//! - [`poll`]: what it waits for; [`losses`]: what the kernel lost meanwhile
//!
//! The first lane takes the commands too, and what comes from relays. It looks for them before each batch: a revocation never waits behind a flood.

pub(crate) mod egress;
pub(crate) mod exit;
pub(crate) mod ingress;
pub(crate) mod losses;
pub(crate) mod poll;
pub(crate) mod shared;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, MutexGuard,
        mpsc::{Receiver, SyncSender, TryRecvError},
    },
};

use postern_engine::{DropReason, ForwardingTable};
use postern_model::{PublicKey, RelayId};
use postern_packet::Ecn;

use self::{
    egress::Egress,
    exit::Exit,
    ingress::Ingress,
    losses::Losses,
    poll::{Poll, Ready},
    shared::{Core, Shared},
};
use crate::{FlowReport, LaneEvent, LaneStatus, clock};

/// What the lanes are told, in this order.
pub(crate) enum Command {
    Publish(Arc<ForwardingTable>),
    Replay(Vec<Vec<u8>>),
    Refuse(Vec<Vec<u8>>, DropReason),
    Status(SyncSender<LaneStatus>),
    FlowNews(SyncSender<FlowReport>),
    RelayPresence(RelayId, PublicKey, bool),
    SendDatagrams(Vec<(SocketAddr, Vec<u8>)>),
    NetworkChanged,
    AnnounceStop,
    Stop,
}

/// Why a lane ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It was told to, or another has ended.
    Stopped,
    /// It can't go on.
    Failed(String),
}

/// The thread's state.
pub(crate) struct Lane {
    pub(crate) number: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) egress: Egress,
    pub(crate) ingress: Ingress,
    pub(crate) exit: Exit,
    pub(crate) poll: Poll,
    /// Of the first lane.
    pub(crate) commands: Option<Receiver<Command>>,
    /// Of the first lane, for all of them.
    pub(crate) losses: Option<Losses>,
    /// The device's name.
    pub(crate) interface: String,
}

impl Lane {
    /// Runs until told to stop, or until the device is gone.
    pub(crate) fn run(&mut self) -> End {
        loop {
            let ready = match self.poll.wait() {
                Ok(ready) => ready,
                Err(error) => return End::Failed(error.to_string()),
            };
            self.shared.begin_turn(self.number);
            let end = self.turn(ready);
            self.shared.end_turn(self.number);
            match end {
                Ok(None) => {}
                Ok(Some(end)) => return end,
                Err(error) => return End::Failed(format!("the TUN device {} is gone: {error}", self.interface)),
            }
        }
    }

    /// Handles what there is, once.
    fn turn(&mut self, ready: Ready) -> io::Result<Option<End>> {
        let shared = Arc::clone(&self.shared);
        if ready.woken {
            shared.waker(self.number).drain();
        }
        if self.obey() || shared.is_over() {
            return Ok(Some(End::Stopped));
        }
        if ready.timer {
            self.timeout(&shared);
        }
        for (is_ready, is_v6) in [(ready.v4, false), (ready.v6, true)] {
            if is_ready {
                self.ingress.turn(is_v6, &shared, &mut self.exit);
                if self.obey() {
                    return Ok(Some(End::Stopped));
                }
            }
        }
        if ready.woken && self.number == 0 && self.ingress.relayed(&shared, &mut self.exit) {
            // The others have their turn first.
            shared.wake();
        }
        if ready.tun {
            self.egress.turn(&shared, &mut self.exit)?;
        }
        self.settle(&shared)?;
        self.exit.take_failure().map_or(Ok(None), Err)
    }

    /// Does what the forwarder wants done by now.
    fn timeout(&mut self, shared: &Shared) {
        let mut core = shared.core();
        shared.disarm(&mut core);
        let now = clock::now();
        let (forwarder, mut sink) = core.parts(&mut self.exit);
        if forwarder.poll_timeout().is_some_and(|at| at <= now) {
            forwarder.handle_timeout(&mut sink, now);
        }
        drop(core);
        self.exit.batch.flush();
    }

    /// Tells what came of this turn, and sees to it that the next one comes in time.
    fn settle(&mut self, shared: &Shared) -> io::Result<()> {
        let mut core = shared.core();
        for (reason, count) in self.exit.take_lost() {
            core.forwarder.counters_mut().add(reason, count as u64);
        }
        core.forwarder.counters_mut().add(DropReason::RelayFull, shared.relayed.take_lost() as u64);
        if let Some(place) = self.exit.batch.take_gone() {
            core.sources.forget(place);
        }
        if !core.has_told_news && core.forwarder.has_flow_news() {
            core.has_told_news = true;
            (core.events)(LaneEvent::FlowNews);
        }
        shared.arm(&mut core)
    }

    /// Does what was commanded meanwhile; whether to stop.
    fn obey(&mut self) -> bool {
        loop {
            let Some(received) = &self.commands else { return false };
            let mut commands = Vec::new();
            let is_over = loop {
                match received.try_recv() {
                    Ok(command) => commands.push(command),
                    Err(end) => break end == TryRecvError::Disconnected,
                }
            };
            if commands.is_empty() {
                return is_over;
            }
            if commands.iter().any(|command| matches!(command, Command::AnnounceStop)) {
                // Ahead of the tables that it is about, which may move ahead of others.
                self.shared.core().forwarder.handle_stopping();
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
        let shared = Arc::clone(&self.shared);
        let now = clock::now();
        if let (Command::Status(_), Some(losses)) = (&command, &mut self.losses) {
            losses.look();
        }
        let mut core = shared.core();
        match command {
            Command::Publish(table) => self.publish(&shared, core, table),
            Command::Replay(packets) => {
                let (forwarder, mut sink) = core.parts(&mut self.exit);
                for packet in packets {
                    forwarder.handle_packet(&packet, &mut sink, now);
                }
                drop(core);
                self.exit.batch.flush();
            }
            Command::Refuse(packets, reason) => {
                let (forwarder, mut sink) = core.parts(&mut self.exit);
                for packet in packets {
                    forwarder.handle_refused(&packet, reason, &mut sink, now);
                }
                drop(core);
                self.exit.batch.flush();
            }
            Command::Status(answer) => {
                let mut counters = core.forwarder.counters().clone();
                if let Some(losses) = &self.losses {
                    losses.add_to(&mut counters);
                }
                let _ = answer.try_send(LaneStatus {
                    peers: core.forwarder.peers(),
                    counters,
                    generation: core.forwarder.generation(),
                    in_use: core.forwarder.resources_in_use(),
                });
            }
            Command::FlowNews(answer) => {
                let forwarder = &mut core.forwarder;
                let news = std::iter::from_fn(|| forwarder.poll_flow_news()).take(FlowReport::MAX).collect();
                let (has_more, lost) = (forwarder.has_flow_news(), forwarder.flow_news_lost());
                core.has_told_news = has_more;
                let _ = answer.try_send(FlowReport { news, has_more, lost });
            }
            Command::RelayPresence(relay, peer, is_there) => {
                let (forwarder, mut sink) = core.parts(&mut self.exit);
                forwarder.handle_relay_presence(relay, &peer, is_there, &mut sink, now);
                drop(core);
                self.exit.batch.flush();
            }
            Command::SendDatagrams(datagrams) => {
                let sources = &core.sources;
                let datagrams: Vec<_> = datagrams
                    .into_iter()
                    .map(|(to, datagram)| (sources.destination(to, Ecn::NotCapable), datagram))
                    .collect();
                drop(core);
                for (destination, datagram) in datagrams {
                    self.exit.batch.push(destination, &datagram);
                }
                self.exit.batch.flush();
            }
            Command::NetworkChanged => {
                core.sources.forget_all();
                let (forwarder, mut sink) = core.parts(&mut self.exit);
                forwarder.handle_network_changed(&mut sink, now);
                drop(core);
                self.exit.batch.flush();
            }
            // Done when it came.
            Command::AnnounceStop => {}
            Command::Stop => return true,
        }
        false
    }

    /// Puts a table in force, and says so once nothing moves any more by the one before.
    fn publish(&mut self, shared: &Shared, mut core: MutexGuard<'_, Core>, table: Arc<ForwardingTable>) {
        let generation = table.generation;
        let (forwarder, mut sink) = core.parts(&mut self.exit);
        forwarder.handle_table(table, &mut sink, clock::now());
        drop(core);
        self.exit.batch.flush();
        if !shared.wait_for_others(self.number) {
            return;
        }
        let mut core = shared.core();
        let cut = core.forwarder.take_cut();
        (core.events)(LaneEvent::Applied { generation, cut });
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
            Command::RelayPresence(..) => "presence".to_owned(),
            Command::SendDatagrams(_) => "datagrams".to_owned(),
            Command::NetworkChanged => "network".to_owned(),
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
