//! [`Lines`]: an answer that comes line by line, for as long as it likes.

use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::{Response, body::Incoming};

use super::client::{Driving, Failure};
use crate::api::activity::AFTER;

/// How long nothing may come: the coordinator sends an empty line before that.
const SILENCE: Duration = Duration::from_secs(60);
/// The longest line.
const LONGEST: usize = 1 << 20;

/// Lines as they come.
pub(super) struct Lines {
    /// After which row they begin, if the coordinator says so.
    pub(super) after: Option<u64>,
    body: Incoming,
    /// What came of lines that were not given yet.
    buffer: Vec<u8>,
    /// Up to where there is no line's end in it.
    searched: usize,
    _driving: Driving,
}

impl Lines {
    pub(super) fn new(response: Response<Incoming>, driving: Driving) -> Self {
        let after = response.headers().get(AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        Self { after, body: response.into_body(), buffer: Vec::new(), searched: 0, _driving: driving }
    }

    /// The next line, without its end; `None` when there are no more.
    pub(super) async fn next(&mut self) -> Result<Option<String>, Failure> {
        let lost = |why: &str| Failure::Lost(why.to_owned());
        loop {
            if let Some(end) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<_> = self.buffer.drain(..=self.searched + end).collect();
                line.pop();
                self.searched = 0;
                return String::from_utf8(line).map(Some).map_err(|error| Failure::Lost(error.to_string()));
            }
            self.searched = self.buffer.len();
            if self.searched > LONGEST {
                return Err(lost("a line is too long"));
            }
            let frame = tokio::time::timeout(SILENCE, self.body.frame()).await.map_err(|_| lost("nothing comes"))?;
            match frame {
                Some(frame) => {
                    let frame = frame.map_err(|error| Failure::Lost(error.to_string()))?;
                    self.buffer.extend_from_slice(&frame.into_data().unwrap_or_default());
                }
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(lost("it ended in the middle of a line")),
            }
        }
    }
}
