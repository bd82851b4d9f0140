//! [`Recorder`]: the thread that takes news from the lane, writes it down, and ships it.
//!
//! An entry that comes alone is on its way after a moment; many are written together, about once a second, since each time
//! costs the disk a flush.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use postern_dataplane::{FlowReport, clock};
use postern_model::{DeviceId, Moment, activity::SpoolId};
use postern_wire::NodeMessage;

use super::{entries::Entries, shipping::Shipping, spool::Spool};
use crate::{clock::since_epoch, log_limit::LogLimit};

/// News after a silence waits for so long, for more of it.
const GATHER: Duration = Duration::from_millis(100);
/// The disk is not written to more often than this.
const PACE: Duration = Duration::from_secs(1);
/// After a failure, so long until the next attempt.
const RETRY: Duration = Duration::from_secs(5);

/// Sends a message in the session.
pub type Send = Box<dyn Fn(NodeMessage) + std::marker::Send>;
/// Takes what the lane has to tell; `None` when it has ended.
type Source = Box<dyn FnMut() -> Option<FlowReport> + std::marker::Send>;

enum Command {
    News,
    Session(Option<Send>),
    Recorded(SpoolId, u64),
    Finish,
}

/// For `postern status`.
#[derive(Debug, Default)]
pub struct ActivityCounts {
    waiting: AtomicU64,
    dropped: AtomicU64,
}

impl ActivityCounts {
    /// Entries that the coordinator does not have yet.
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Entries lost since the node started: for want of room, or because they could not be written.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// A running recorder. Dropped, it writes down what there is, and ends, without being waited for.
#[derive(Debug)]
pub struct Recorder {
    commands: Sender<Command>,
    counts: Arc<ActivityCounts>,
    thread: Option<JoinHandle<()>>,
}

impl Recorder {
    /// Starts one with the spool in `dir`, which may take so many bytes. `source` is asked when there is news.
    ///
    /// # Errors
    /// When the system is out of threads or random numbers.
    pub fn start(
        dir: PathBuf,
        gateway: DeviceId,
        limit: u64,
        source: impl FnMut() -> Option<FlowReport> + std::marker::Send + 'static,
    ) -> io::Result<Self> {
        let (commands, received) = channel();
        let counts = Arc::new(ActivityCounts::default());
        let worker = Worker {
            dir,
            gateway,
            limit,
            source: Box::new(source),
            entries: Entries::new(getrandom::u64()?),
            counts: Arc::clone(&counts),
            shipping: None,
            open_at: None,
            session: None,
            write_at: None,
            written_at: None,
            lost_by_lane: 0,
            lost_here: 0,
            log: LogLimits { dropped: LogLimit::new(1, HOUR), failed: LogLimit::default() },
        };
        let thread = thread::Builder::new().name("postern-activity".into()).spawn(move || worker.run(&received))?;
        Ok(Self { commands, counts, thread: Some(thread) })
    }

    /// The lane has news.
    pub fn handle_news(&self) {
        self.command(Command::News);
    }

    /// A session begins, in which this sends; or there is none any more.
    pub fn set_session(&self, session: Option<Send>) {
        self.command(Command::Session(session));
    }

    /// The coordinator has entries on its disk.
    pub fn handle_recorded(&self, spool: SpoolId, up_to: u64) {
        self.command(Command::Recorded(spool, up_to));
    }

    /// How it goes.
    pub fn counts(&self) -> &ActivityCounts {
        &self.counts
    }

    /// Takes the last news, writes it down, and ends; to be called before the lane ends. Takes as long as the disk does.
    pub fn finish(mut self) {
        self.command(Command::Finish);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    fn command(&self, command: Command) {
        let _ = self.commands.send(command);
    }
}

const HOUR: Duration = Duration::from_secs(3600);

struct LogLimits {
    dropped: LogLimit,
    failed: LogLimit,
}

/// The thread's state.
struct Worker {
    dir: PathBuf,
    gateway: DeviceId,
    limit: u64,
    source: Source,
    entries: Entries,
    counts: Arc<ActivityCounts>,
    /// `None` until the spool can be opened.
    shipping: Option<Shipping>,
    /// When to try that again.
    open_at: Option<Moment>,
    session: Option<Send>,
    write_at: Option<Moment>,
    written_at: Option<Moment>,
    lost_by_lane: u64,
    /// For want of a spool.
    lost_here: u64,
    log: LogLimits,
}

impl Worker {
    fn run(mut self, commands: &Receiver<Command>) {
        self.open();
        // The lane may have said so before there was anybody to hear it, and says it only once.
        self.note_news();
        loop {
            self.ship();
            self.count();
            let command = match self.next_timer() {
                Some(due) => commands.recv_timeout(due.since(clock::now())),
                None => commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match command {
                Ok(Command::News) => self.note_news(),
                Ok(Command::Session(session)) => {
                    if let Some(shipping) = &mut self.shipping {
                        shipping.set_connected(session.is_some());
                    }
                    self.session = session;
                }
                Ok(Command::Recorded(spool, up_to)) => {
                    let recorded = self.shipping.as_mut().map(|shipping| shipping.handle_recorded(spool, up_to));
                    self.note_failure(recorded.unwrap_or(Ok(())));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Command::Finish) | Err(RecvTimeoutError::Disconnected) => break,
            }
            let now = clock::now();
            if self.open_at.is_some_and(|at| at <= now) {
                self.open();
            }
            if self.write_at.is_some_and(|at| at <= now) {
                self.write();
            }
        }
        self.write();
        let closed = self.shipping.take().map(|shipping| shipping.spool.close());
        self.note_failure(closed.unwrap_or(Ok(())));
    }

    fn next_timer(&self) -> Option<Moment> {
        self.open_at.into_iter().chain(self.write_at).min()
    }

    fn open(&mut self) {
        self.open_at = None;
        let opened = random_id().and_then(|fresh| Spool::open(&self.dir, self.gateway, fresh, self.limit));
        match opened {
            Ok(spool) => {
                let mut shipping = Shipping::new(spool);
                shipping.set_connected(self.session.is_some());
                self.shipping = Some(shipping);
            }
            Err(error) => {
                self.note_failure(Err(error));
                self.open_at = Some(clock::now() + RETRY);
            }
        }
    }

    fn note_news(&mut self) {
        let now = clock::now();
        let paced = self.written_at.map_or(now, |at| at + PACE);
        self.write_at.get_or_insert((now + GATHER).max(paced));
    }

    /// Takes the lane's news and writes it down.
    fn write(&mut self) {
        self.write_at = None;
        while let Some(report) = (self.source)() {
            self.lost_by_lane = report.lost;
            if !report.news.is_empty() {
                self.written_at = Some(clock::now());
            }
            let (moment, since_epoch) = (clock::now(), since_epoch());
            let mut failed = Ok(());
            for news in &report.news {
                let entry = self.entries.entry(news, moment, since_epoch);
                match &mut self.shipping {
                    Some(shipping) => failed = failed.and(shipping.spool.append(entry)),
                    None => self.lost_here += 1,
                }
            }
            let synced = self.shipping.as_mut().map_or(Ok(()), |shipping| shipping.spool.sync());
            self.note_failure(failed.and(synced));
            if !report.has_more {
                break;
            }
        }
    }

    /// Sends what may be sent.
    fn ship(&mut self) {
        let (Some(shipping), Some(send)) = (&mut self.shipping, &self.session) else { return };
        match shipping.poll_message() {
            Ok(Some(message)) => send(message),
            Ok(None) => {}
            Err(error) => self.note_failure(Err(error)),
        }
    }

    fn count(&mut self) {
        let spool = self.shipping.as_ref().map(|shipping| &shipping.spool);
        let dropped = self.lost_by_lane + self.lost_here + spool.map_or(0, Spool::dropped);
        if dropped > self.counts.dropped.swap(dropped, Ordering::Relaxed)
            && self.log.dropped.admit(clock::now()).is_some()
        {
            tracing::warn!(
                dropped,
                "records of flows were dropped: the coordinator is away for too long, or the disk is too slow"
            );
        }
        self.counts.waiting.store(spool.map_or(0, Spool::waiting), Ordering::Relaxed);
    }

    fn note_failure(&mut self, result: io::Result<()>) {
        if let Err(error) = result
            && let Some(unsaid) = self.log.failed.admit(clock::now())
        {
            let dir = self.dir.display();
            tracing::error!(%error, unsaid, "records of flows can't be kept in {dir}");
        }
    }
}

fn random_id() -> io::Result<SpoolId> {
    let mut id = [0; 16];
    getrandom::fill(&mut id)?;
    Ok(SpoolId(id))
}
