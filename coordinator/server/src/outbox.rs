//! What is on its way to nodes: an outbox per connection, and the access requests that wait for their answers.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use postern_core::{AccessTicket, Core, Effect};
use postern_wire::{AccessReply, CoordinatorMessage, close};
use tokio::sync::{mpsc, oneshot};

use crate::nodes::close_soon;

/// More messages than this do not wait for one node; it is told to come back, and gets a snapshot then.
const CAPACITY: usize = 1024;

/// One thing for a node's connection, in order.
#[derive(Debug)]
pub(crate) enum Outgoing {
    Message(Box<CoordinatorMessage>),
    /// Close with this code, after what came before.
    Close(u32),
}

struct Outbox {
    sender: mpsc::Sender<Outgoing>,
    connection: quinn::Connection,
}

/// All outboxes.
#[derive(Default)]
pub(crate) struct Outboxes {
    open: Mutex<HashMap<u64, Outbox>>,
    tickets: Mutex<HashMap<AccessTicket, oneshot::Sender<AccessReply>>>,
}

impl Outboxes {
    /// Opens the outbox of the connection with this number.
    pub(crate) fn open(&self, number: u64, connection: quinn::Connection) -> mpsc::Receiver<Outgoing> {
        let (sender, receiver) = mpsc::channel(CAPACITY);
        lock(&self.open).insert(number, Outbox { sender, connection });
        receiver
    }

    /// Forgets it.
    pub(crate) fn close(&self, number: u64) {
        lock(&self.open).remove(&number);
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
        while let Some(effect) = core.poll_effect() {
            match effect {
                Effect::Send { connection, message, .. } => self.put(connection, Outgoing::Message(Box::new(message))),
                Effect::Close { connection, code, .. } => self.put(connection, Outgoing::Close(code)),
                Effect::Answer(ticket, reply) => {
                    if let Some(waiting) = lock(&self.tickets).remove(&ticket) {
                        // Whoever asked may have left.
                        let _ = waiting.send(reply);
                    }
                }
            }
        }
    }

    fn put(&self, number: u64, outgoing: Outgoing) {
        let mut open = lock(&self.open);
        let Some(outbox) = open.get(&number) else { return };
        let code = match outgoing {
            Outgoing::Message(_) => None,
            Outgoing::Close(code) => Some(code),
        };
        if outbox.sender.try_send(outgoing).is_err() {
            // Too slow, or ending: what is lost here is in the next welcome.
            outbox.connection.close(code.unwrap_or(close::RETRY).into(), b"too slow");
            open.remove(&number);
        } else if let Some(code) = code {
            // Whoever is shut out does not stay by not reading.
            close_soon(&outbox.connection, code);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
