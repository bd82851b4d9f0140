//! [`Coordinator`]: the handle that the API, the sessions and the timers share.

use std::{convert::Infallible, sync::Arc, time::Duration};

use postern_core::{Command, Core, EnrolProof, Enrolment, Env, Proposal, Refusal, Touched};
use postern_model::{
    DenyReason, DeviceId, Filter, Moment, Posture, ResourceId, Sha256, Timestamp,
    audit::{Actor, AuditEntry},
    change::{Batch, Change},
    token::HostPort,
};
use postern_policy::{Answer, Answered};
use postern_store::{AuditQuery, AuditReport, Reader, Store, StoreError};
use postern_wire::{AccessReply, AccessRequest, EnrolRefusal, ExplainReply, Hello, Lack, NodeMessage};
use tokio::sync::{Mutex, Notify};
use tokio_util::sync::CancellationToken;

use crate::{activity::Activity, clock, nodes::Registry, outbox::Outboxes};

/// Through which door a request to the admin API came; an axum `Extension` on every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiOrigin {
    /// The admin socket in the state directory: whoever may open it is an admin. These requests also carry the
    /// extension [`Actor::AdminSocket`].
    Socket,
    /// HTTPS: whoever shows an API key is.
    Network,
}

/// Why a command did not happen. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The core says no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It could not be recorded.
    #[error(transparent)]
    Fault(#[from] StoreError),
    /// The coordinator is shutting down.
    #[error("the coordinator is shutting down; try again when it is back")]
    Stopped,
}

/// Why something could not be recorded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the coordinator is shutting down")]
    Stopped,
}

/// Why what a device says on a connection does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Stale {
    #[error("the device is revoked or removed")]
    ShutOut,
    #[error("the device's session is another connection's")]
    Superseded,
}

/// A device on one of its connections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller {
    pub(crate) device: DeviceId,
    /// SHA-256 of the key that it has shown to hold.
    pub(crate) key: Sha256,
    pub(crate) connection: u64,
}

/// The running coordinator; clones are the same one.
#[derive(Clone)]
pub struct Coordinator {
    brain: Arc<Mutex<Brain>>,
    pub(crate) outboxes: Arc<Outboxes>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) activity: Activity,
    reader: Arc<std::sync::Mutex<Reader>>,
    timer: Arc<Notify>,
    stopping: CancellationToken,
    pin: Sha256,
    public_address: HostPort,
}

/// What moves together, under one lock.
struct Brain {
    core: Core,
    store: Store,
}

impl Coordinator {
    /// A coordinator over a loaded core and the store that it came from.
    pub(crate) fn new(
        core: Core,
        store: Store,
        activity: Activity,
        pin: Sha256,
        public_address: HostPort,
        stopping: CancellationToken,
    ) -> Result<Self, StoreError> {
        let reader = Arc::new(std::sync::Mutex::new(store.reader()?));
        Ok(Self {
            brain: Arc::new(Mutex::new(Brain { core, store })),
            outboxes: Arc::default(),
            registry: Arc::default(),
            activity,
            reader,
            timer: Arc::default(),
            stopping,
            pin,
            public_address,
        })
    }

    /// Carries out an admin's command: when this returns `Ok`, it is on disk and everyone concerned is being told.
    /// Dropping the future does not take the command back.
    ///
    /// # Errors
    /// When the command was refused or could not be recorded; then nothing changed.
    pub async fn submit(&self, actor: Actor, command: Command) -> Result<Touched, SubmitError> {
        let done = self.transact(move |core, env| core.propose_command(&actor, &command, env), |_, _| {}).await;
        match done {
            Ok(outcome) => Ok(outcome?),
            Err(Fault::Store(error)) => Err(error.into()),
            Err(Fault::Stopped) => Err(SubmitError::Stopped),
        }
    }

    /// Looks at the state as last committed. `f` must be quick: changes wait for it.
    pub async fn read<R>(&self, f: impl FnOnce(&Core) -> R) -> R {
        f(&self.brain.lock().await.core)
    }

    /// Looks at the state as last committed, with all that a proposal has at hand; for what takes its time.
    ///
    /// # Errors
    /// When the coordinator is shutting down.
    pub(crate) async fn look<R: Send + 'static>(
        &self,
        f: impl FnOnce(&Core, &mut Env<'_>) -> R + Send + 'static,
    ) -> Result<R, SubmitError> {
        let brain = Arc::clone(&self.brain).lock_owned().await;
        let work = move || {
            let (now, moment) = (clock::now(), clock::moment());
            f(&brain.core, &mut Env { now, moment, random: &mut random })
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| SubmitError::Stopped)
    }

    /// Reads the audit log.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn audit(&self, query: AuditQuery) -> Result<Vec<AuditEntry>, SubmitError> {
        self.read_log(move |reader| reader.audit(query)).await
    }

    /// Verifies the audit log from its first entry on.
    ///
    /// # Errors
    /// When the database can't be read; a broken chain is not an error but in the report.
    pub async fn audit_verify(&self) -> Result<AuditReport, SubmitError> {
        self.read_log(Reader::audit_verify).await
    }

    /// Why a device may or may not reach a resource, as far as its user may know.
    pub(crate) async fn explain_to(&self, device: DeviceId, resource: ResourceId) -> ExplainReply {
        let explanation = self.read(|core| core.explain(device, resource, clock::now())).await.for_device();
        let (open, reason) = match explanation.decision {
            Ok(filter) => (filter, None),
            Err(reason) => (Filter::default(), Some(reason)),
        };
        let lack = |lack: Answered| Lack {
            is_known: lack.answer != Answer::Unknown,
            test: lack.text,
            hint: lack.hint.unwrap_or_default(),
        };
        let ways = explanation.ways.into_iter().map(|way| way.into_iter().map(lack).collect()).collect();
        ExplainReply { open, reason, ways, has_untold: explanation.has_untold }
    }

    /// SHA-256 of the coordinator's public key: what join tokens and API keys pin.
    pub fn identity_pin(&self) -> Sha256 {
        self.pin
    }

    /// Says when the coordinator stops.
    pub(crate) fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    /// Where nodes and API clients reach this coordinator.
    pub fn public_address(&self) -> HostPort {
        self.public_address.clone()
    }

    /// Enrols a device, or says why not.
    pub(crate) async fn enrol(&self, proof: EnrolProof) -> Result<Result<Enrolment, EnrolRefusal>, Fault> {
        infallible(self.transact(move |core, env| Ok(core.propose_enrolment(&proof, env)), |_, _| {}).await)
    }

    /// A node's session begins: what it changes is recorded, then it is welcomed.
    pub(crate) async fn connect(
        &self,
        device: DeviceId,
        connection: u64,
        hello: Hello,
        from: std::net::SocketAddr,
        renew_in: Duration,
    ) -> Result<(), Fault> {
        let (hello, registry) = (Arc::new(hello), Arc::clone(&self.registry));
        let proposed = Arc::clone(&hello);
        let propose = move |core: &Core, env: &mut Env<'_>| Ok(core.propose_connect(device, &proposed, from, env));
        let connected = move |core: &mut Core, now: Timestamp| {
            core.handle_connected(device, connection, &hello, from, renew_in, (now, clock::moment()));
            registry.begin_session(device, connection);
        };
        infallible(self.transact(propose, connected).await)
    }

    /// The connection with this number is gone.
    pub(crate) async fn disconnect(&self, device: DeviceId, connection: u64) {
        self.outboxes.close(connection);
        self.registry.remove(device, connection);
        self.handle(|core, _| core.handle_disconnected(device, connection, clock::moment())).await;
    }

    /// Nothing was heard on this connection for so long: its session is over, and the connection is about to be closed.
    pub(crate) async fn fell_silent(&self, device: DeviceId, connection: u64, silence: Duration) {
        self.handle(|core, _| {
            let heard = clock::moment().since_boot().saturating_sub(silence);
            core.handle_disconnected(device, connection, Moment::from_boot(heard));
        })
        .await;
    }

    /// A message in the session.
    pub(crate) async fn message(&self, device: DeviceId, connection: u64, message: NodeMessage) {
        self.handle(|core, now| core.handle_message(device, connection, message, (now, clock::moment()))).await;
    }

    /// Whether what this caller says counts: it is in good standing, and the session is its connection's.
    pub(crate) async fn check(&self, caller: Caller) -> Result<(), Stale> {
        self.read(|core| check(core, &self.registry, caller)).await
    }

    /// What a device now says of itself.
    pub(crate) async fn posture(&self, caller: Caller, posture: Posture) -> Result<Result<(), Stale>, Fault> {
        let registry = Arc::clone(&self.registry);
        let propose = move |core: &Core, env: &mut Env<'_>| {
            check(core, &registry, caller)?;
            Ok(core.propose_posture(caller.device, &posture, env))
        };
        self.transact(propose, |_, _| {}).await
    }

    /// Whether the posture that is recorded of a device counts now.
    pub(crate) async fn posture_counts(&self, device: DeviceId) -> bool {
        self.read(|core| core.posture_counts(device, clock::now())).await
    }

    /// A device's connection comes from elsewhere from now on.
    pub(crate) async fn moved(
        &self,
        device: DeviceId,
        connection: u64,
        from: std::net::SocketAddr,
    ) -> Result<(), Fault> {
        let propose = move |core: &Core, env: &mut Env<'_>| Ok(core.propose_move(device, connection, from, env));
        infallible(self.transact(propose, |_, _| {}).await)
    }

    /// A device said of itself what is recorded already.
    pub(crate) async fn posture_again(&self, device: DeviceId, connection: u64) {
        self.handle(|core, now| core.handle_posture_again(device, connection, now)).await;
    }

    /// An access request, to its end.
    pub(crate) async fn access(&self, caller: Caller, request: AccessRequest) -> Result<AccessReply, Stale> {
        let (outboxes, registry) = (Arc::clone(&self.outboxes), Arc::clone(&self.registry));
        // Whoever waits for the answer is entered before anything can answer it.
        let (tell, told) = tokio::sync::oneshot::channel();
        let propose = move |core: &Core, env: &mut Env<'_>| {
            check(core, &registry, caller)?;
            let proposal = core.propose_access(caller.device, &request, env);
            let _ = tell.send((proposal.outcome, outboxes.expect_answer(proposal.outcome)));
            Ok(proposal)
        };
        let fault = AccessReply::Denied { reason: DenyReason::CoordinatorFault };
        let done = self.transact(propose, |_, _| {}).await;
        if let Ok(Err(stale)) = done {
            return Err(stale);
        }
        let Ok((ticket, answer)) = told.await else { return Ok(fault) };
        // A guard, since whoever asked may leave in the middle.
        let _forget = Forget(&self.outboxes, ticket);
        Ok(match done {
            Ok(_) => answer.await.unwrap_or(fault),
            Err(error) => {
                tracing::error!(%error, "an access decision could not be recorded, so access was denied");
                fault
            }
        })
    }

    /// Ends leases when they end, until the coordinator stops.
    pub(crate) async fn run_timers(self) {
        loop {
            let wait = self.read(|core| core.poll_timeout(clock::now(), clock::moment())).await;
            tokio::select! {
                () = self.stopping.cancelled() => return,
                () = self.timer.notified() => continue,
                () = sleep(wait) => {}
            }
            let done = infallible(self.transact(|core, env| Ok(core.propose_timeout(env)), |_, _| {}).await);
            if let Err(error) = done {
                // Nodes end leases by themselves; this is only what is recorded of it.
                tracing::error!(%error, "the end of leases could not be recorded; trying again");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }

    /// Proposes, commits, applies, tells; all or nothing. `then` comes after the commit, before anyone is told.
    ///
    /// Runs to its end even when the future is dropped.
    async fn transact<T, E>(
        &self,
        propose: impl FnOnce(&Core, &mut Env<'_>) -> Result<Proposal<T>, E> + Send + 'static,
        then: impl FnOnce(&mut Core, Timestamp) + Send + 'static,
    ) -> Result<Result<T, E>, Fault>
    where
        T: Send + 'static,
        E: Send + 'static,
    {
        let mut brain = Arc::clone(&self.brain).lock_owned().await;
        let (outboxes, registry) = (Arc::clone(&self.outboxes), Arc::clone(&self.registry));
        let (timer, activity) = (Arc::clone(&self.timer), self.activity.clone());
        let work = move || -> Result<Result<T, E>, Fault> {
            let Brain { core, store } = &mut *brain;
            let (now, moment) = (clock::now(), clock::moment());
            let proposal = match propose(core, &mut Env { now, moment, random: &mut random }) {
                Ok(proposal) => proposal,
                Err(refusal) => return Ok(Err(refusal)),
            };
            let _whole = Whole;
            if !proposal.batch.audit.is_empty() {
                store.commit(&proposal.batch)?;
                activity.decided(core.state(), &proposal.batch, now);
            }
            let shut_out = shut_out_by(&proposal.batch);
            // From here on it is so: how soon it is enforced is counted from now.
            let outcome = core.apply(proposal, now, clock::moment());
            then(core, now);
            outboxes.dispatch(core);
            shut_out.into_iter().for_each(|device| registry.shut_out(device));
            timer.notify_one();
            Ok(Ok(outcome))
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| Fault::Stopped)?
    }

    async fn handle(&self, f: impl FnOnce(&mut Core, Timestamp)) {
        let mut brain = self.brain.lock().await;
        let _whole = Whole;
        f(&mut brain.core, clock::now());
        self.outboxes.dispatch(&mut brain.core);
        self.timer.notify_one();
    }

    async fn read_log<R: Send + 'static>(
        &self,
        f: impl FnOnce(&Reader) -> Result<R, StoreError> + Send + 'static,
    ) -> Result<R, SubmitError> {
        let reader = Arc::clone(&self.reader);
        let read = move || f(&reader.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        Ok(tokio::task::spawn_blocking(read).await.map_err(|_| SubmitError::Stopped)??)
    }
}

impl std::fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Coordinator({})", self.public_address)
    }
}

fn check(core: &Core, registry: &Registry, caller: Caller) -> Result<(), Stale> {
    if !core.authorize_device(caller.device, &caller.key) {
        return Err(Stale::ShutOut);
    }
    if registry.has_session(caller.device, caller.connection) { Ok(()) } else { Err(Stale::Superseded) }
}

/// Random bytes, for ids.
pub(crate) fn random(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the system gives random bytes");
}

/// The devices that may not be connected any more.
fn shut_out_by(batch: &Batch) -> Vec<DeviceId> {
    let shut_out = |change: &Change| match change {
        Change::RemoveDevice(id) => Some(*id),
        Change::PutDevice(device) if device.revoked => Some(device.id),
        _ => None,
    };
    batch.changes.iter().filter_map(shut_out).collect()
}

/// While something is done to memory that has to be done whole. If it panics in the middle, memory is not what the
/// database says, and all that follows would be decided by it: the program ends, and starts anew from the database.
struct Whole;

impl Drop for Whole {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("a change was left half done; the coordinator ends, to start anew from its database");
            std::process::abort();
        }
    }
}

struct Forget<'a>(&'a Outboxes, postern_core::AccessTicket);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.forget_answer(self.1);
    }
}

fn infallible<T>(result: Result<Result<T, Infallible>, Fault>) -> Result<T, Fault> {
    result.map(|Ok(value)| value)
}

async fn sleep(wait: Option<Duration>) {
    match wait {
        // Wall-clock time may be set back; no lease is then looked at later than this.
        Some(wait) => tokio::time::sleep(wait.min(Duration::from_secs(60))).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt as _, process::Command};

    use super::*;

    /// Set for the process that is to end.
    const PANIC: &str = "POSTERN_TEST_PANIC";

    #[test]
    fn a_panic_in_the_middle_of_a_change_ends_the_program() {
        if std::env::var_os(PANIC).is_some() {
            let _whole = Whole;
            panic!("in the middle");
        }
        let name = "coordinator::tests::a_panic_in_the_middle_of_a_change_ends_the_program";
        let mut again = Command::new(std::env::current_exe().unwrap());
        let ended = again.args(["--exact", name]).env(PANIC, "1").output().unwrap();
        // SIGABRT; a mere failure of the test would be an exit code.
        assert_eq!(ended.status.signal(), Some(6), "{ended:?}");
    }
}
