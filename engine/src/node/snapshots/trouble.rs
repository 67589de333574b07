//! What goes wrong with snapshots: told when it begins, now and then as long as it lasts, and when it is over; meanwhile it
//! stands in the status.

use kontiki_core::{LogIndex, Time};
use kontiki_io::{IoErrorKind, tell};

use crate::limits::{MAX_TROUBLE_CHARS, TROUBLE_REPEAT_NS};
use crate::node::group::Group;
use crate::node::host::Host;
use crate::status::SnapshotTrouble;

/// What can go wrong, in the order in which it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// None is made: attempts fail, or the one that is being made waits for something.
    NotMade,
    /// They take longer than the log needs to grow by all that is retained.
    Slow,
    /// Another's is needed, and cannot be fetched.
    NotFetched,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::NotMade, Kind::Slow, Kind::NotFetched];

    /// In a few words: the note in the status.
    const fn name(self) -> &'static str {
        match self {
            Kind::NotMade => "no snapshot",
            Kind::Slow => "slow snapshot",
            Kind::NotFetched => "no snapshot fetched",
        }
    }

    const fn advice(self) -> &'static str {
        match self {
            Kind::NotMade => {
                "the log grows meanwhile, beyond retention_bytes, and refuses writes once it is full: remove the cause; it is tried again by itself"
            }
            Kind::Slow => {
                "the log grows meanwhile, beyond retention_bytes: a higher snapshot_bytes_per_s (or none), a quicker disk, or fewer writes"
            }
            Kind::NotFetched => "this replica stays behind meanwhile: remove the cause; it is tried again by itself",
        }
    }
}

/// One that lasts.
#[derive(Debug)]
struct Lasting {
    reason: String,
    attempts: u64,
    since: Time,
    told: Time,
    /// What was applied when it was met last.
    applied: LogIndex,
}

/// All that last, at the places of their kinds.
#[derive(Debug, Default)]
pub(in crate::node) struct Troubles([Option<Lasting>; Kind::ALL.len()]);

impl Troubles {
    /// It is met, or met again. Whether that is news: it is the first time, or was not told for long.
    fn meet(&mut self, kind: Kind, reason: &str, applied: LogIndex, now: Time) -> bool {
        let Some(place) = self.0.get_mut(kind as usize) else { return false };
        let is_new = place.is_none();
        let lasting = place.get_or_insert_with(|| Lasting { reason: String::new(), attempts: 0, since: now, told: now, applied });
        (lasting.attempts, lasting.applied) = (lasting.attempts + 1, applied);
        if lasting.reason != reason {
            lasting.reason.clear();
            lasting.reason.extend(reason.chars().take(MAX_TROUBLE_CHARS).map(|c| if c.is_control() { ' ' } else { c }));
        }
        let is_news = is_new || now.since(lasting.told) >= TROUBLE_REPEAT_NS;
        if is_news {
            lasting.told = now;
        }
        is_news
    }

    fn over(&mut self, kind: Kind) -> Option<Lasting> {
        self.0.get_mut(kind as usize).and_then(Option::take)
    }

    /// Whether any lasts.
    pub(super) fn any(&self) -> bool {
        self.0.iter().any(Option::is_some)
    }

    fn get(&self, kind: Kind) -> Option<&Lasting> {
        self.0.get(kind as usize).and_then(Option::as_ref)
    }
}

impl Group {
    pub(super) fn meets(&mut self, kind: Kind, reason: &str, now: Time) {
        if self.troubles.meet(kind, reason, self.queue.applied(), now)
            && let Some(Lasting { reason, attempts, since, .. }) = self.troubles.get(kind)
        {
            let (attempts, for_s, advice) = (*attempts, now.since(*since) / 1_000_000_000, kind.advice());
            tell!(warn, %reason, attempts, for_s, "{}: {advice}", kind.name());
        }
    }

    pub(super) fn is_over(&mut self, kind: Kind, now: Time) {
        if let Some(Lasting { since, .. }) = self.troubles.over(kind) {
            let for_s = now.since(since) / 1_000_000_000;
            tell!(info, for_s, "{}: that is over", kind.name());
        }
    }

    /// What lasts without an attempt that fails: the store waits for something, or is slower than the log.
    pub(super) fn watch_snapshots(&mut self, host: &Host, now: Time) {
        let is_due =
            |troubles: &Troubles, kind| troubles.get(kind).is_none_or(|lasting: &Lasting| now.since(lasting.told) >= TROUBLE_REPEAT_NS);
        let waits = if host.store.fetching().is_some() { Kind::NotFetched } else { Kind::NotMade };
        if let Some(error) = host.store.lacking().filter(|_| is_due(&self.troubles, waits)) {
            let full = error.kind == IoErrorKind::Full;
            if let Some(progress) = host.store.fetching() {
                let (bytes, index) = (progress.offer.bytes, progress.offer.base.index);
                let reason = if full {
                    format!(
                        "the disk is full: the snapshot as of entry {index} takes {bytes} bytes, of which {} are here",
                        progress.durable
                    )
                } else {
                    format!("it waits for what the system lacks: {error}")
                };
                self.meets(Kind::NotFetched, &reason, now);
            } else if host.store.writing().is_some() {
                self.meets(Kind::NotMade, &format!("it waits for what the system lacks: {error}"), now);
            }
        }
        if let Some(Lasting { applied, .. }) = self.troubles.get(Kind::NotFetched)
            && self.queue.applied() > *applied
        {
            self.is_over(Kind::NotFetched, now);
        }
        let grown = host.wal.durable_position().saturating_sub(self.snapshots.mark);
        let bound = host.config.retention_bytes.max(2 * host.config.snapshot_bytes_of_log());
        if grown > bound
            && let Some((base, bytes)) = host.store.writing()
        {
            if is_due(&self.troubles, Kind::Slow) {
                let reason = format!(
                    "the log has grown by {grown} bytes since the last snapshot, and of the next, as of entry {}, {bytes} bytes are written",
                    base.index
                );
                self.meets(Kind::Slow, &reason, now);
            }
        } else if grown <= bound {
            self.is_over(Kind::Slow, now);
        }
    }

    /// What lasts, for people.
    pub(in crate::node) fn snapshot_troubles(&self, host: &Host, now: Time) -> Vec<SnapshotTrouble> {
        let lasting = Kind::ALL.into_iter().filter_map(|kind| Some((kind, self.troubles.get(kind)?)));
        let lasting = lasting.map(|(kind, Lasting { reason, attempts, since, .. })| {
            let for_s = now.since(*since) / 1_000_000_000;
            let times = if *attempts == 1 { String::new() } else { format!(", met {attempts} times") };
            SnapshotTrouble { kind: kind.name(), reason: format!("{reason} (for {for_s} s{times}): {}", kind.advice()) }
        });
        let damaged =
            host.store.damaged().map(|(name, flaw)| SnapshotTrouble { kind: "damaged snapshot", reason: format!("{name}: {flaw}") });
        lasting.chain(damaged.take(2)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Told at first, and then once an interval however often it is met; anew once it was over.
    #[test]
    fn what_lasts_is_told_at_first_and_then_at_a_bounded_rate() {
        let (mut troubles, applied, second) = (Troubles::default(), LogIndex(7), 1_000_000_000);
        let told = (0..3600).filter(|s| troubles.meet(Kind::NotMade, "why", applied, Time(s * second))).count() as u64;
        assert_eq!(told, 3600 * second / TROUBLE_REPEAT_NS);
        assert_eq!(troubles.get(Kind::NotMade).map(|lasting| (lasting.attempts, lasting.since)), Some((3600, Time(0))));
        assert!(troubles.get(Kind::NotFetched).is_none(), "each kind lasts by itself");
        assert!(troubles.over(Kind::NotMade).is_some() && troubles.over(Kind::NotMade).is_none());
        assert!(troubles.meet(Kind::NotMade, "why", applied, Time(3600 * second)));
    }

    #[test]
    fn whatever_the_reason_is_it_is_a_short_line() {
        let mut troubles = Troubles::default();
        troubles.meet(Kind::NotMade, &"a\nb\u{1b}".repeat(1000), LogIndex(1), Time(0));
        let reason = troubles.get(Kind::NotMade).map(|lasting| lasting.reason.clone()).unwrap_or_default();
        assert!(reason.chars().count() == MAX_TROUBLE_CHARS && !reason.contains(char::is_control), "{reason:?}");
    }
}
