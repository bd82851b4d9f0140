//! Access activity on a gateway: which clients' flows begin and end, and how many bytes of inner packets passed in each.
//!
//! The packet path counts into the flow and, when a flow begins or ends, adds to a bounded queue; nothing is allocated for
//! a packet. The shell takes the news when it has time. When it does not for long, the oldest beginnings are given up
//! first: the end of a flow says all that its beginning did.
//!
//! A TCP connection is over when both ends have said so and heard of it, or one has reset it, but is told of only after a
//! short silence: its last segments still count, and whoever forges a reset does not hide what follows. Data after that is
//! a flow of its own.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use postern_model::{GrantId, Moment, Protocol, activity::FlowEnd};
use postern_packet::TcpSegment;
use rustc_hash::FxHashMap;

use super::{
    flows::{GatewayFlow, GatewayFlows, MAX_FLOWS, State, Tuple},
    tcp::{Connection, End},
};
use crate::CarriedGrant;

/// What the queue holds at most: the ends of all flows at once, and as much again.
const MAX_NEWS: usize = 2 * MAX_FLOWS;
/// A queue that was long is given back when it is empty, down to this.
const KEPT: usize = 1024;
/// A connection that is over is told of after so long without a segment.
pub(super) const SETTLE: Duration = Duration::from_millis(500);

/// What happened to a flow of a client through this gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowNews {
    /// Which flow: counted from 1 by this forwarder.
    pub flow: u64,
    /// When.
    pub at: Moment,
    /// The grant under which it began.
    pub grant: Arc<CarriedGrant>,
    /// TCP, UDP or echo.
    pub protocol: Protocol,
    /// The resource's port; 0 for an echo.
    pub port: u16,
    /// What.
    pub change: FlowChange,
}

/// A beginning or an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowChange {
    /// The client opened it.
    Opened,
    /// It is over.
    Closed {
        /// When it was opened.
        opened_at: Moment,
        /// Bytes of inner packets from the client.
        up: u64,
        /// Bytes of inner packets to the client.
        down: u64,
        /// Why.
        end: FlowEnd,
    },
}

/// What is kept of a flow in order to tell of it.
#[derive(Debug)]
pub(super) struct Account {
    flow: u64,
    grant: Arc<CarriedGrant>,
    opened_at: Moment,
    pub(super) up: u64,
    pub(super) down: u64,
    /// Whether its end waits for a silence.
    is_settling: bool,
    /// Whether its end has been told.
    is_told: bool,
}

/// All that is to be told.
#[derive(Debug)]
pub(super) struct Activity {
    last_flow: u64,
    /// Beginnings and ends, each with its place among all.
    opened: VecDeque<(u64, FlowNews)>,
    closed: VecDeque<(u64, FlowNews)>,
    next_place: u64,
    max: usize,
    lost: u64,
    /// Connections that are over, and when to see whether they are silent.
    settling: VecDeque<(Moment, Tuple, u64)>,
    /// How many flows were cut, by grant.
    cut: FxHashMap<GrantId, u64>,
    /// How a flow ends that the table does not allow any more.
    pub(super) end_of_unallowed: FlowEnd,
}

impl Default for Activity {
    fn default() -> Self {
        Self::with_room(MAX_NEWS)
    }
}

impl Activity {
    /// With room for so much that was not taken yet.
    pub(super) fn with_room(max: usize) -> Self {
        Self {
            last_flow: 0,
            opened: VecDeque::new(),
            closed: VecDeque::new(),
            next_place: 0,
            max,
            lost: 0,
            settling: VecDeque::new(),
            cut: FxHashMap::default(),
            end_of_unallowed: FlowEnd::Cut,
        }
    }

    /// A flow begins.
    pub(super) fn open(&mut self, inside: &Tuple, grant: &Arc<CarriedGrant>, now: Moment) -> Account {
        self.last_flow += 1;
        let grant = Arc::clone(grant);
        let account =
            Account { flow: self.last_flow, grant, opened_at: now, up: 0, down: 0, is_settling: false, is_told: false };
        self.push(&account, inside, FlowChange::Opened, now);
        account
    }

    /// A packet of a flow passes.
    pub(super) fn note(&mut self, flow: &mut GatewayFlow, from: End, segment: Option<&TcpSegment>, now: Moment) {
        if let (State::Tcp(connection), Some(segment)) = (&flow.state, segment)
            && begins_anew(connection, from, segment, flow.account.is_told)
        {
            self.close(flow, FlowEnd::Finished, now);
            flow.account = self.open(&flow.inside, &flow.grant, now);
        }
        flow.note(from, segment, now);
        if flow.state.is_over() && !flow.account.is_settling {
            flow.account.is_settling = true;
            self.settling.push_back((now + SETTLE, flow.inside, flow.account.flow));
        }
    }

    /// Tells of connections that are over, and silent.
    pub(super) fn settle(&mut self, flows: &mut GatewayFlows, now: Moment) {
        while let Some((_, inside, id)) = self.settling.pop_front_if(|(due, ..)| *due <= now) {
            let Some(flow) = flows.by_inside(&inside).filter(|flow| flow.account.flow == id) else { continue };
            if now.since(flow.seen) < SETTLE {
                self.settling.push_back((now + SETTLE, inside, id));
            } else {
                self.close(flow, FlowEnd::Finished, now);
                flow.account.is_told = true;
            }
        }
    }

    /// When [`settle`](Self::settle) is due.
    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        self.settling.front().map(|(due, ..)| *due)
    }

    /// A flow ends because of the table, or the time.
    pub(super) fn cut(&mut self, flow: &GatewayFlow, now: Moment) {
        let end = self.end_of_unallowed;
        if self.close(flow, end, now) == Some(FlowEnd::Cut) {
            *self.cut.entry(flow.grant.grant).or_default() += 1;
        }
    }

    /// A flow ends, unless it has; then, how. One whose ends are done with it has ended by itself.
    pub(super) fn close(&mut self, flow: &GatewayFlow, end: FlowEnd, now: Moment) -> Option<FlowEnd> {
        let account = &flow.account;
        if account.is_told {
            return None;
        }
        let end = if flow.state.is_closed() { FlowEnd::Finished } else { end };
        let Account { opened_at, up, down, .. } = *account;
        self.push(account, &flow.inside, FlowChange::Closed { opened_at, up, down, end }, now);
        Some(end)
    }

    fn push(&mut self, account: &Account, inside: &Tuple, change: FlowChange, now: Moment) {
        let is_opening = change == FlowChange::Opened;
        if self.opened.len() + self.closed.len() >= self.max {
            self.lost += 1;
            if self.opened.pop_front().is_none() {
                if is_opening {
                    return;
                }
                self.closed.pop_front();
            }
        }
        let news = FlowNews {
            flow: account.flow,
            at: now,
            grant: Arc::clone(&account.grant),
            protocol: inside.protocol,
            port: inside.service_port,
            change,
        };
        let queue = if is_opening { &mut self.opened } else { &mut self.closed };
        queue.push_back((self.next_place, news));
        self.next_place += 1;
    }

    /// The next thing to tell, in order.
    pub(super) fn poll(&mut self) -> Option<FlowNews> {
        let first = |queue: &VecDeque<(u64, FlowNews)>| queue.front().map(|(place, _)| *place);
        let queue = match (first(&self.opened), first(&self.closed)) {
            (Some(opened), Some(closed)) if opened < closed => &mut self.opened,
            (Some(_), None) => &mut self.opened,
            _ => &mut self.closed,
        };
        let (_, news) = queue.pop_front()?;
        if queue.is_empty() {
            queue.shrink_to(KEPT);
        }
        Some(news)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.opened.is_empty() && self.closed.is_empty()
    }

    /// How much was given up.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    /// How many flows were cut since the last time, by grant, in no order.
    pub(super) fn take_cut(&mut self) -> Vec<(GrantId, u64)> {
        self.cut.drain().collect()
    }
}

/// Whether a segment is of another connection with the same ports, or belongs to one that was told to be over.
fn begins_anew(connection: &Connection, from: End, segment: &TcpSegment, is_told: bool) -> bool {
    connection.is_restarted_by(from, segment) || (is_told && segment.payload > 0)
}
