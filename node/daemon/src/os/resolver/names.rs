//! The names that systemd-resolved is to ask this node for, told to it in a task of their own: the bus, or it, may take their
//! time, and only the latest wish counts.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Result;
use postern_dataplane::clock;
use postern_model::Fqdn;
use tokio::{sync::watch, task::JoinHandle};

use crate::log_limit::LogLimit;

/// Tells them until it is dropped.
#[derive(Debug)]
pub struct Names {
    wish: watch::Sender<(u64, BTreeSet<Fqdn>)>,
    /// The number of the last wish that was told, or refused.
    tried: watch::Receiver<u64>,
    task: JoinHandle<()>,
}

impl Names {
    /// Begins with none. `tell` says all names at once, in place of those before; what was refused is said again after `retry`.
    pub(in crate::os) fn start<F>(retry: Duration, tell: impl Fn(BTreeSet<Fqdn>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let (wish, wished) = watch::channel((0, BTreeSet::new()));
        let (done, tried) = watch::channel(0);
        Self { wish, tried, task: tokio::spawn(follow(wished, done, retry, tell)) }
    }

    /// Wishes for these names in place of those before. What is returned ends once they were told or refused, or others are
    /// wished for.
    pub fn set(&self, names: BTreeSet<Fqdn>) -> impl Future<Output = ()> + Send + use<> {
        self.wish.send_if_modified(|(number, wished)| {
            let is_new = *wished != names;
            if is_new {
                (*number, *wished) = (*number + 1, names);
            }
            is_new
        });
        let (number, mut tried) = (self.wish.borrow().0, self.tried.clone());
        async move {
            let _ = tried.wait_for(|tried| *tried >= number).await;
        }
    }

    /// Ends it.
    pub async fn end(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow<F>(
    mut wish: watch::Receiver<(u64, BTreeSet<Fqdn>)>,
    tried: watch::Sender<u64>,
    retry: Duration,
    tell: impl Fn(BTreeSet<Fqdn>) -> F,
) where
    F: Future<Output = Result<()>>,
{
    let mut log = LogLimit::default();
    let mut refused = false;
    loop {
        tokio::select! {
            changed = wish.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(retry), if refused => {}
        }
        let (number, names) = wish.borrow_and_update().clone();
        let told = tell(names).await;
        refused = told.is_err();
        if let Err(error) = told
            && let Some(unsaid) = log.admit(clock::now())
        {
            tracing::warn!(error = format!("{error:#}"), unsaid, "aliases of resources may not be found; trying again");
        }
        tried.send_replace(number);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::{Mutex, Notify, mpsc};

    use super::*;

    fn name(text: &str) -> BTreeSet<Fqdn> {
        [text.parse().unwrap()].into()
    }

    #[tokio::test]
    async fn whoever_wishes_does_not_wait_and_only_the_latest_wish_is_told() {
        let (told, mut heard) = mpsc::unbounded_channel();
        let answer = Arc::new(Notify::new());
        let names = {
            let answer = Arc::clone(&answer);
            Names::start(Duration::ZERO, move |names| {
                let (told, answer) = (told.clone(), Arc::clone(&answer));
                async move {
                    told.send(names)?;
                    answer.notified().await;
                    Ok(())
                }
            })
        };
        let first = names.set(name("a.example.com"));
        assert_eq!(heard.recv().await.unwrap(), name("a.example.com"));
        // It hangs; meanwhile others are wished for.
        drop(names.set(name("b.example.com")));
        let last = names.set(name("c.example.com"));
        answer.notify_one();
        first.await;
        assert_eq!(heard.recv().await.unwrap(), name("c.example.com"));
        answer.notify_one();
        last.await;
        names.set(name("c.example.com")).await;
        names.end().await;
        assert_eq!(heard.recv().await, None, "what is so already is not told");
    }

    #[tokio::test]
    async fn what_is_refused_is_told_again() {
        let (told, mut heard) = mpsc::unbounded_channel();
        let answers = Arc::new(Mutex::new(vec![Ok(()), Err(anyhow::anyhow!("not now"))]));
        let names = Names::start(Duration::from_millis(1), move |names| {
            let (told, answers) = (told.clone(), Arc::clone(&answers));
            async move {
                told.send(names)?;
                answers.lock().await.pop().unwrap()
            }
        });
        names.set(name("a.example.com")).await;
        for _ in 0..2 {
            assert_eq!(heard.recv().await.unwrap(), name("a.example.com"));
        }
    }
}
