//! What the lane tells of a flow, as an entry of the spool.

use std::time::Duration;

use postern_engine::{FlowChange, FlowNews};
use postern_model::{
    Moment, Timestamp,
    activity::{FlowEntry, FlowEvent},
};

/// Turns news into entries.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entries {
    /// The lane counts flows from 1 at each start; together with this they are unlike those before.
    first_flow: u64,
}

impl Entries {
    /// For one run of the lane, with random bits. They leave room above for counting, within what an `i64` holds.
    pub(super) fn new(random: u64) -> Self {
        Self { first_flow: random >> 16 }
    }

    /// An entry without a number yet. `moment` and `since_epoch` are the same point in time.
    pub(super) fn entry(&self, news: &FlowNews, moment: Moment, since_epoch: Duration) -> FlowEntry {
        let wall_clock = |at: Moment| {
            let millis = since_epoch.saturating_sub(moment.since(at)).as_millis();
            Timestamp::from_unix_millis(i64::try_from(millis).unwrap_or(i64::MAX))
        };
        let event = match news.change {
            FlowChange::Opened => FlowEvent::Opened,
            FlowChange::Closed { opened_at, up, down, end } => {
                FlowEvent::Closed { opened_at: wall_clock(opened_at), up, down, end }
            }
        };
        FlowEntry {
            number: 0,
            at: wall_clock(news.at),
            flow: self.first_flow + news.flow,
            grant: news.grant.grant,
            device: news.grant.client,
            resource: news.grant.resource,
            protocol: news.protocol,
            port: news.port,
            queried: news.grant.queried.clone(),
            event,
        }
    }
}
