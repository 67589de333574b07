//! Listens to what the nodes say to their operator, and to what strikes them: a log of the run that one can read, and the marks in it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::cluster::marks;
use crate::world::trace::Counts;

/// A handle to what was heard; a subscriber, if its thread makes it that.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listener(Arc<Heard>);

#[derive(Debug, Default)]
struct Heard {
    said: Mutex<Said>,
    damages: AtomicU64,
    losses: AtomicU64,
    now_ns: AtomicU64,
    /// Who has the word: the id of a node, or zero for the world.
    speaker: AtomicU64,
    /// Lines to keep.
    keep: usize,
}

#[derive(Debug, Default)]
struct Said {
    counts: Counts,
    lines: VecDeque<String>,
}

impl Listener {
    /// A listener that remembers this many lines.
    pub(crate) fn keeping(lines: usize) -> Listener {
        Listener(Arc::new(Heard { keep: lines, ..Heard::default() }))
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.0.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on it is this node (zero: the world) that speaks, at this world time.
    pub(crate) fn give_word(&self, speaker: u64, now_ns: u64) {
        self.0.speaker.store(speaker, Ordering::Relaxed);
        self.0.now_ns.store(now_ns, Ordering::Relaxed);
    }

    pub(crate) fn counts(&self) -> Counts {
        self.said().counts.clone()
    }

    /// The last that was said.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.said().lines.iter().cloned().collect()
    }

    /// How often a recovery has found damage, and how often one has found that something may be lost.
    pub(crate) fn damages_and_losses(&self) -> (u64, u64) {
        (self.0.damages.load(Ordering::Relaxed), self.0.losses.load(Ordering::Relaxed))
    }

    fn keep(&self, message: &Message) {
        if self.0.keep == 0 {
            return;
        }
        let (now_ns, speaker) = (self.0.now_ns.load(Ordering::Relaxed), self.0.speaker.load(Ordering::Relaxed));
        let who = if speaker == 0 { "world".to_owned() } else { format!("node {speaker}") };
        let line = format!("{:>12.6}  {who:<7} {}{}", now_ns as f64 / 1e9, message.text, message.fields);
        let mut said = self.said();
        if said.lines.len() == self.0.keep {
            said.lines.pop_front();
        }
        said.lines.push_back(line);
    }
}

#[derive(Default)]
struct Message {
    text: String,
    fields: String,
}

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.text = format!("{value:?}");
        } else {
            self.fields += &format!(" {}={value:?}", field.name());
        }
    }
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO && metadata.target().starts_with("kontiki")
    }

    fn event(&self, event: &Event<'_>) {
        let mut message = Message::default();
        event.record(&mut message);
        if let Some(mark) = marks::of_message(&message.text) {
            self.said().counts.add(mark);
            self.0.damages.fetch_add(u64::from(mark == marks::DAMAGE), Ordering::Relaxed);
            self.0.losses.fetch_add(u64::from(mark == marks::LOSSES), Ordering::Relaxed);
        }
        self.keep(&message);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_kept_with_time_and_speaker_and_counted_if_it_is_a_mark() {
        let listener = Listener::keeping(2);
        tracing::subscriber::with_default(listener.clone(), || {
            tracing::info!("forgotten: two lines follow");
            listener.give_word(3, 1_500_000_000);
            tracing::warn!(lost = 7, "log recovered with losses: this replica refetches");
            listener.give_word(0, 2_000_000_000);
            tracing::info!("pause of node 1");
            tracing::debug!("nobody listens to this");
        });
        let counts: Vec<_> = listener.counts().iter().collect();
        assert_eq!(counts, [(marks::LOSSES, 1)]);
        assert_eq!(listener.damages_and_losses(), (0, 1));
        let lines = listener.lines();
        assert_eq!(lines[0].trim(), "1.500000  node 3  log recovered with losses: this replica refetches lost=7");
        assert_eq!(lines[1].trim(), "2.000000  world   pause of node 1");
    }
}
