//! Pauses between attempts, each twice as long as the one before.

use kontiki_core::Time;

/// When the next attempt is due. Nothing is waited for before the first.
#[derive(Debug)]
pub(super) struct Pause {
    least_ns: u64,
    most_ns: u64,
    /// The next pause, in ns: after an attempt that comes to nothing.
    next_ns: u64,
    due: Option<Time>,
}

impl Pause {
    pub(super) fn new(least_ns: u64, most_ns: u64) -> Pause {
        Pause { least_ns, most_ns, next_ns: least_ns, due: None }
    }

    /// Another attempt has come to nothing.
    pub(super) fn again(&mut self, now: Time) {
        self.due = Some(now.plus_ns(self.next_ns));
        self.next_ns = (2 * self.next_ns).min(self.most_ns);
    }

    /// What comes next is a first attempt again, due at once.
    pub(super) fn over(&mut self) {
        (self.next_ns, self.due) = (self.least_ns, None);
    }

    /// The last attempt came to something; another comes after the least pause all the same.
    pub(super) fn rest(&mut self, now: Time) {
        self.over();
        self.due = Some(now.plus_ns(self.least_ns));
    }

    /// Whether the last attempt came to nothing.
    pub(super) fn is_on(&self) -> bool {
        self.next_ns > self.least_ns
    }

    /// Whether the next attempt is due by now.
    pub(super) fn is_due(&mut self, now: Time) -> bool {
        self.due = self.due.filter(|&due| due > now);
        self.due.is_none()
    }

    /// When it will be, as far as was known when that was asked last.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound() {
        let mut pause = Pause::new(10, 50);
        assert!(pause.is_due(Time(0)) && !pause.is_on());
        for due in [10, 20, 40, 50, 50] {
            pause.again(Time(100));
            assert_eq!((pause.is_due(Time(99 + due)), pause.deadline()), (false, Some(Time(100 + due))));
            assert_eq!((pause.is_due(Time(100 + due)), pause.deadline(), pause.is_on()), (true, None, true));
        }
        pause.rest(Time(0));
        assert!(!pause.is_due(Time(9)) && pause.is_due(Time(10)) && !pause.is_on());
        pause.again(Time(0));
        assert_eq!(pause.deadline(), Some(Time(10)));
        pause.over();
        assert!(pause.is_due(Time(0)) && !pause.is_on());
    }
}
