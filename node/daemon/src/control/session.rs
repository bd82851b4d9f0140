//! The session: one connection at a time, made again whenever it breaks.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use postern_dataplane::clock;
use postern_model::{Fqdn, Moment, ResourceId};
use postern_wire::{
    AccessReply, AccessRequest, CoordinatorMessage, Eviction, ExplainReply, ExplainRequest, Hello, Limit, NodeMessage,
    Opening, close,
};
use serde::de::DeserializeOwned;
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
};

use super::{
    attend::{self, Anew, attend},
    close_code,
    connect::{Connected, Goodbye, Transport, Way},
    stream, tls,
};
use crate::state_dir::Identity;

/// The first pause before another attempt, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// A session that lived for so long was a good one: the next attempt after it comes soon again.
const GOOD: Duration = Duration::from_secs(10);
/// How long an access request may take.
const ACCESS: Duration = Duration::from_secs(15);

/// What the session has to say, in order.
#[derive(Debug)]
pub enum SessionEvent {
    /// A connection is there, in which this hello was said; the welcome comes next. It may take the place of an earlier one of
    /// which no end was told.
    Connected(Session, Box<Hello>),
    /// From the coordinator.
    Message(CoordinatorMessage),
    /// The connection broke, or could not be made; another attempt follows.
    Disconnected(String),
    /// The coordinator does not want this node any more. No attempt follows.
    Evicted(Eviction),
}

/// An open connection, for sending.
#[derive(Debug, Clone)]
pub struct Session {
    connection: quinn::Connection,
    transport: Transport,
    /// Without a bound of its own: nearly all of it answers a message of the coordinator, one for one, and who sends a
    /// thousand grants at once is to hear of all of them.
    outgoing: mpsc::UnboundedSender<NodeMessage>,
    /// Told of what is sent, so that somebody looks whether anything comes back.
    busy: Arc<Notify>,
}

impl Session {
    /// What carries it.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// Sends a message, unless the session is ending: the next one begins with a snapshot.
    pub fn send(&self, message: NodeMessage) {
        self.busy.notify_one();
        let _ = self.outgoing.send(message);
    }

    /// Asks why a resource can be reached, or not; `None` when the coordinator could not be asked.
    pub async fn explain(self, resource: ResourceId) -> Option<ExplainReply> {
        let ask = self.ask(Opening::Explain(ExplainRequest { resource }));
        match tokio::time::timeout(ACCESS, ask).await {
            Ok(Ok(reply)) => Some(reply),
            Ok(Err(error)) => {
                tracing::debug!(error = format!("{error:#}"), "a question got no answer");
                None
            }
            Err(_) => None,
        }
    }

    /// One question on a stream of its own, and its answer.
    async fn ask<T: DeserializeOwned>(&self, question: Opening) -> Result<T> {
        self.busy.notify_one();
        let (mut send, receive) = self.connection.open_bi().await?;
        stream::send(&mut send, &question, Limit::Node).await?;
        let _ = send.finish();
        stream::Reader::new(receive).next().await?.context("no answer")
    }

    /// Asks for access; `None` when the coordinator could not be asked.
    pub async fn request_access(self, resource: ResourceId, queried: Option<Fqdn>) -> Option<AccessReply> {
        let ask = self.ask(Opening::AccessRequest(AccessRequest { resource, queried }));
        match tokio::time::timeout(ACCESS, ask).await {
            Ok(Ok(reply)) => Some(reply),
            Ok(Err(error)) => {
                tracing::debug!(error = format!("{error:#}"), "an access request got no answer");
                None
            }
            Err(_) => None,
        }
    }
}

/// Keeps a session for as long as it lives; dropped, it says goodbye.
#[derive(Debug)]
pub struct SessionKeeper {
    task: JoinHandle<()>,
    changes: watch::Sender<()>,
}

impl Drop for SessionKeeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl SessionKeeper {
    /// Connects, and connects again. `hello` is asked for at each connection; the identity is the latest one then.
    pub fn start(
        identity: watch::Receiver<Arc<Identity>>,
        hello: watch::Receiver<Hello>,
        events: mpsc::Sender<SessionEvent>,
    ) -> Self {
        let (changes, news) = watch::channel(());
        let keeping = Keeping { hello, events, changes: news, better: None, tcp_at_once: false };
        Self { task: tokio::spawn(keeping.keep(identity)), changes }
    }

    /// The machine's network is not as it was: a connection has to prove itself, and one that is not there is tried at once.
    pub fn handle_network_changed(&self) {
        self.changes.send_replace(());
    }
}

/// What goes on from one connection to the next.
struct Keeping {
    hello: watch::Receiver<Hello>,
    events: mpsc::Sender<SessionEvent>,
    changes: watch::Receiver<()>,
    /// Connected already, while the last session was still there.
    better: Option<Box<Connected>>,
    /// Whether UDP did not work in this network.
    tcp_at_once: bool,
}

impl Keeping {
    async fn keep(mut self, identity: watch::Receiver<Arc<Identity>>) {
        let mut pause = Pause::default();
        loop {
            let who = Arc::clone(&identity.borrow());
            let mut welcomed = None;
            let event = match self.run(&who, &mut welcomed).await {
                End::Exchanged => continue,
                End::Evicted(eviction) => SessionEvent::Evicted(eviction),
                End::Broken(error) => SessionEvent::Disconnected(error),
                End::Lost(why) => {
                    // What did not work where the machine was before says nothing here.
                    pause = Pause::default();
                    self.tcp_at_once = false;
                    SessionEvent::Disconnected(why.into())
                }
            };
            let is_over = matches!(event, SessionEvent::Evicted(_));
            if self.events.send(event).await.is_err() || is_over {
                return;
            }
            let length = pause.after(welcomed.map(|at| clock::now().since(at)));
            tokio::select! {
                () = tokio::time::sleep(jittered(length)) => {}
                // Where there was no way there may be one now.
                () = attend::changed(&mut self.changes) => {
                    pause = Pause::default();
                    self.tcp_at_once = false;
                }
            }
        }
    }
}

/// How long to wait before the next attempt: longer each time, until a session was a good one.
#[derive(Debug)]
pub(crate) struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(PAUSES.0)
    }
}

impl Pause {
    /// After an attempt whose session lived for so long since its welcome, if it got one.
    pub(crate) fn after(&mut self, lived: Option<Duration>) -> Duration {
        // A session that breaks each time right after its welcome costs the coordinator a snapshot each time.
        if lived.is_some_and(|lived| lived >= GOOD) {
            self.0 = PAUSES.0;
        }
        let pause = self.0;
        self.0 = (pause * 2).min(PAUSES.1);
        pause
    }
}

/// A pause between half of this and all of it, so that a restarted server is not met by all of its nodes at once.
pub(crate) fn jittered(pause: Duration) -> Duration {
    let jitter = getrandom::u32().map_or(0.5, |bits| f64::from(bits) / f64::from(u32::MAX));
    pause.mul_f64(0.5 + jitter / 2.0)
}

enum End {
    Evicted(Eviction),
    Broken(String),
    /// The network changed, and the coordinator does not answer any more.
    Lost(&'static str),
    /// There is a better connection.
    Exchanged,
}

impl Keeping {
    async fn run(&mut self, identity: &Identity, welcomed: &mut Option<Moment>) -> End {
        let mut evicted = None;
        match self.connect_and_converse(identity, welcomed, &mut evicted).await {
            _ if evicted.is_some() => End::Evicted(evicted.unwrap_or(Eviction::Revoked)),
            Ok(Anew::Better(better)) => {
                tracing::info!("connected by UDP again");
                self.better = Some(better);
                End::Exchanged
            }
            Ok(Anew::Lost(why)) => End::Lost(why),
            Err(error) if tls::is_wrong_pin(&error) => {
                End::Broken(format!("the coordinator at {} has another key than the pin says", identity.coordinator))
            }
            Err(error) => match close_code(&error) {
                Some(close::UNAUTHORIZED) => End::Evicted(Eviction::Revoked),
                Some(close::SUPERSEDED) => End::Evicted(Eviction::Superseded),
                Some(close::RETRY) => End::Broken("the coordinator is restarting".into()),
                _ => End::Broken(format!("{error:#}")),
            },
        }
    }

    async fn connect_and_converse(
        &mut self,
        identity: &Identity,
        welcomed: &mut Option<Moment>,
        evicted: &mut Option<Eviction>,
    ) -> Result<Anew> {
        let key = rcgen::KeyPair::from_pem(&identity.device_key).context("the device key is damaged")?;
        let credential = tls::DeviceCredential { certificate: identity.certificate.clone(), key };
        let way = Way::new(identity.coordinator.clone(), identity.pin, Some(credential))?;
        let connected = match self.better.take() {
            Some(better) => *better,
            None => way.connect_amid(self.tcp_at_once, &mut self.changes).await?,
        };
        self.tcp_at_once = connected.transport != Transport::Udp;
        let connected = Goodbye(Some(connected));
        let conversing = self.converse(connected.get(), &way, welcomed, evicted).await;
        match connected.get().stream_end() {
            Some(why) if conversing.as_ref().is_err_and(|error| close_code(error).is_none()) => bail!(why),
            _ => conversing,
        }
    }

    async fn converse(
        &mut self,
        connected: &Connected,
        way: &Way,
        welcomed: &mut Option<Moment>,
        evicted: &mut Option<Eviction>,
    ) -> Result<Anew> {
        let (connection, events) = (&connected.connection, &self.events);
        let hello = self.hello.borrow().clone();
        let (mut send, receive) = connection.open_bi().await?;
        stream::send(&mut send, &Opening::Hello(hello.clone()), Limit::Node).await?;
        let (outgoing, mut to_send) = mpsc::unbounded_channel();
        let busy = Arc::new(Notify::new());
        let told = Arc::clone(&busy);
        let session = Session { connection: connection.clone(), transport: connected.transport, outgoing, busy: told };
        let mut reader = stream::Reader::new(receive);
        let mut session = Some((session, Box::new(hello)));
        let listen = async {
            while let Some(message) = reader.next::<CoordinatorMessage>().await? {
                if let CoordinatorMessage::Evicted { reason } = &message {
                    *evicted = Some(*reason);
                }
                if let CoordinatorMessage::Welcome(_) = &message
                    && let Some((session, told)) = session.take()
                {
                    *welcomed = Some(clock::now());
                    events.send(SessionEvent::Connected(session, told)).await?;
                }
                events.send(SessionEvent::Message(message)).await?;
            }
            // The reason for which it ended says more than the end of the stream does.
            Err(anyhow::Error::from(connection.closed().await))
        };
        let speak = async {
            while let Some(message) = to_send.recv().await {
                stream::send(&mut send, &message, Limit::Node).await?;
            }
            // Nobody has anything to say any more: that alone does not end the session.
            std::future::pending::<Result<Anew>>().await
        };
        tokio::select! {
            ended = listen => ended,
            ended = speak => ended,
            anew = attend(connected, way, &mut self.changes, &busy) => Ok(anew),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_until_a_session_has_lived_for_a_while() {
        let mut pause = Pause::default();
        let mut after = |lived: Option<u64>| pause.after(lived.map(Duration::from_secs)).as_millis();
        assert_eq!([after(None), after(None), after(None)], [200, 400, 800]);
        // Welcomed, and broken at once: that must not become a loop without a pause.
        assert_eq!([after(Some(0)), after(Some(9)), after(Some(1)), after(None)], [1600, 3200, 5000, 5000]);
        assert_eq!([after(Some(10)), after(None)], [200, 400]);
    }
}
