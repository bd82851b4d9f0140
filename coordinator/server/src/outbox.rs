//! What is on its way to nodes: an outbox per connection, and the access requests that wait for their answers.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use postern_core::{AccessTicket, Core, Effect};
use postern_model::Moment;
use postern_wire::{AccessReply, CoordinatorMessage, close};
use tokio::sync::{mpsc, oneshot};

use crate::{clock, nodes::close_soon};

/// More messages than this wait for one node only for a while. One change may be more than that, and is sent all the same:
/// a gateway must not lose the revocations of a change because there are many.
const FEW: usize = 1024;
/// How long more than that may wait; then the node is told to come back, and gets a snapshot. It is long enough for a large
/// `Welcome` on a slow line; whoever reads nothing at all is out sooner.
const PATIENCE: Duration = Duration::from_secs(30);

/// One thing for a node's connection, in order.
#[derive(Debug)]
pub(crate) enum Outgoing {
    Message(Box<CoordinatorMessage>),
    /// Close with this code, after what came before.
    Close(u32),
}

/// Where a connection's writer takes what is to be sent.
pub(crate) struct Outbound {
    receiver: mpsc::UnboundedReceiver<Outgoing>,
    waiting: Arc<AtomicUsize>,
}

impl Outbound {
    /// The next thing; `None` once the outbox is closed. Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Option<Outgoing> {
        let outgoing = self.receiver.recv().await;
        if outgoing.is_some() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        outgoing
    }
}

struct Outbox {
    sender: mpsc::UnboundedSender<Outgoing>,
    /// How many things are in it.
    waiting: Arc<AtomicUsize>,
    backlog: Backlog,
    /// The last dispatch that put something in.
    dispatch: u64,
    connection: quinn::Connection,
}

/// Since when many messages wait for one node.
#[derive(Debug, Default)]
struct Backlog {
    since: Option<Moment>,
}

impl Backlog {
    /// Whether they wait for too long; asked with how many those are, before more are put to them.
    fn is_too_long(&mut self, waiting: usize, now: Moment) -> bool {
        if waiting <= FEW {
            self.since = None;
            return false;
        }
        now.since(*self.since.get_or_insert(now)) >= PATIENCE
    }
}

#[derive(Default)]
struct Open {
    outboxes: HashMap<u64, Outbox>,
    dispatches: u64,
}

/// All outboxes.
#[derive(Default)]
pub(crate) struct Outboxes {
    open: Mutex<Open>,
    tickets: Mutex<HashMap<AccessTicket, oneshot::Sender<AccessReply>>>,
}

impl Outboxes {
    /// Opens the outbox of the connection with this number.
    pub(crate) fn open(&self, number: u64, connection: quinn::Connection) -> Outbound {
        let (sender, receiver) = mpsc::unbounded_channel();
        let waiting = Arc::<AtomicUsize>::default();
        let outbound = Outbound { receiver, waiting: Arc::clone(&waiting) };
        let outbox = Outbox { sender, waiting, backlog: Backlog::default(), dispatch: 0, connection };
        lock(&self.open).outboxes.insert(number, outbox);
        outbound
    }

    /// Forgets it.
    pub(crate) fn close(&self, number: u64) {
        lock(&self.open).outboxes.remove(&number);
    }

    /// Where the answer to an access request will come.
    pub(crate) fn expect_answer(&self, ticket: AccessTicket) -> oneshot::Receiver<AccessReply> {
        let (sender, receiver) = oneshot::channel();
        lock(&self.tickets).insert(ticket, sender);
        receiver
    }

    /// Nobody waits for this answer any more.
    pub(crate) fn forget_answer(&self, ticket: AccessTicket) {
        lock(&self.tickets).remove(&ticket);
    }

    /// Carries out what the core wants done. Called under the core's lock, so that all is sent in the order in which it was
    /// decided; nothing here waits.
    pub(crate) fn dispatch(&self, core: &mut Core) {
        let now = clock::moment();
        let mut open = lock(&self.open);
        open.dispatches += 1;
        while let Some(effect) = core.poll_effect() {
            match effect {
                Effect::Send { connection, message, .. } => {
                    open.put(connection, Outgoing::Message(Box::new(message)), now)
                }
                Effect::Close { connection, code, .. } => open.put(connection, Outgoing::Close(code), now),
                Effect::Answer(ticket, reply) => {
                    if let Some(waiting) = lock(&self.tickets).remove(&ticket) {
                        // Whoever asked may have left.
                        let _ = waiting.send(reply);
                    }
                }
            }
        }
    }
}

impl Open {
    fn put(&mut self, number: u64, outgoing: Outgoing, now: Moment) {
        let Some(outbox) = self.outboxes.get_mut(&number) else { return };
        let code = match outgoing {
            Outgoing::Message(_) => None,
            Outgoing::Close(code) => Some(code),
        };
        let is_first = std::mem::replace(&mut outbox.dispatch, self.dispatches) != self.dispatches;
        let is_slow = is_first && outbox.backlog.is_too_long(outbox.waiting.load(Ordering::Relaxed), now);
        // Counted before it can be taken.
        outbox.waiting.fetch_add(1, Ordering::Relaxed);
        if is_slow || outbox.sender.send(outgoing).is_err() {
            // Too slow, or ending: what is lost here is in the next welcome.
            outbox.connection.close(code.unwrap_or(close::RETRY).into(), b"too slow");
            self.outboxes.remove(&number);
        } else if let Some(code) = code {
            // Whoever is shut out does not stay by not reading.
            close_soon(&outbox.connection, code);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_boot(Duration::from_secs(seconds))
    }

    #[test]
    fn few_wait_for_as_long_as_they_like() {
        let mut backlog = Backlog::default();
        assert!((0..10_000).all(|seconds| !backlog.is_too_long(FEW, at(seconds))));
    }

    #[test]
    fn many_wait_for_a_while() {
        let mut backlog = Backlog::default();
        let patience = PATIENCE.as_secs();
        assert!((100..100 + patience).all(|seconds| !backlog.is_too_long(FEW + 1, at(seconds))));
        assert!(backlog.is_too_long(FEW + 1, at(100 + patience)), "however slowly it is read");
    }

    #[test]
    fn whoever_has_caught_up_may_fall_behind_again() {
        let mut backlog = Backlog::default();
        let patience = PATIENCE.as_secs();
        for round in 1..100 {
            let start = round * patience;
            assert!(!backlog.is_too_long(0, at(start)));
            assert!((1..patience).all(|seconds| !backlog.is_too_long(100 * FEW, at(start + seconds))));
        }
    }
}
