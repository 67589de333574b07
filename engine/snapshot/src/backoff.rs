//! Waiting for what the disk or the system lacks: when an operation that found too little of it is tried again.

use kontiki_core::Time;
use kontiki_io::IoError;

use crate::limits::{MAX_RETRY_NS, MIN_RETRY_NS};

/// What was lacking, if anything is, and for how long nothing is tried again. The pause doubles each time.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    lacking: Option<(IoError, u64, Time)>,
}

impl Backoff {
    pub(crate) fn lacked(&mut self, error: IoError, now: Time) {
        let pause = self.lacking.map_or(MIN_RETRY_NS, |(_, pause, _)| (2 * pause).min(MAX_RETRY_NS));
        self.lacking = Some((error, pause, now));
    }

    pub(crate) fn over(&mut self) {
        self.lacking = None;
    }

    pub(crate) fn error(&self) -> Option<IoError> {
        self.lacking.map(|(error, ..)| error)
    }

    /// From when on it is tried again.
    pub(crate) fn due(&self) -> Time {
        self.lacking.map_or(Time(0), |(_, pause, since)| since.plus_ns(pause))
    }
}
