//! Waiting for what the system lacks: when an operation that found too little of it is tried again.

use kontiki_core::Time;
use kontiki_io::IoError;

use crate::limits::MIN_RETRY_NS;

/// What was lacking, if anything is, and for how long and until when nothing that lacked it is tried again. The pause
/// doubles each time, up to a bound.
#[derive(Debug)]
pub(crate) struct Backoff {
    most_ns: u64,
    lacking: Option<(IoError, u64, Time)>,
}

impl Backoff {
    pub(crate) fn new(most_ns: u64) -> Backoff {
        Backoff { most_ns, lacking: None }
    }

    /// Something was lacking. The pause before it is tried again, in ns.
    pub(crate) fn lacked(&mut self, error: IoError, now: Time) -> u64 {
        let pause = self.lacking.map_or(MIN_RETRY_NS, |(_, pause, _)| (2 * pause).min(self.most_ns));
        self.lacking = Some((error, pause, now.plus_ns(pause)));
        pause
    }

    /// There is enough again.
    pub(crate) fn over(&mut self) {
        self.lacking = None;
    }

    /// What is tried next is another thing: it need not wait.
    pub(crate) fn at_once(&mut self) {
        if let Some((_, _, due)) = &mut self.lacking {
            *due = Time(0);
        }
    }

    pub(crate) fn error(&self) -> Option<IoError> {
        self.lacking.map(|(error, ..)| error)
    }

    /// When it is tried again, while something is lacking.
    pub(crate) fn due(&self) -> Option<Time> {
        self.lacking.map(|(_, _, due)| due)
    }

    /// Whether nothing is to be tried yet.
    pub(crate) fn holds(&self, now: Time) -> bool {
        self.due().is_some_and(|due| now < due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kontiki_io::IoErrorKind;

    #[test]
    fn pauses_double_up_to_a_bound() {
        let error = IoError { kind: IoErrorKind::Shortage, errno: 12 };
        let mut backoff = Backoff::new(5 * MIN_RETRY_NS);
        assert!(!backoff.holds(Time(0)));
        for pause in [1, 2, 4, 5, 5] {
            assert_eq!(backoff.lacked(error, Time(7)), pause * MIN_RETRY_NS);
            let due = Time(7).plus_ns(pause * MIN_RETRY_NS);
            assert_eq!((backoff.due(), backoff.error()), (Some(due), Some(error)));
            assert!(backoff.holds(Time(due.0 - 1)) && !backoff.holds(due));
        }
        backoff.at_once();
        assert!(!backoff.holds(Time(0)));
        assert_eq!(backoff.lacked(error, Time(7)), 5 * MIN_RETRY_NS, "if that lacks it too, it is as before");
        backoff.over();
        assert_eq!(backoff.lacked(error, Time(0)), MIN_RETRY_NS, "a new beginning");
    }
}
