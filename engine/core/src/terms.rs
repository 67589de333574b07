//! What is believed of the terms that peers name. A term is for good: one message with the greatest would end all
//! elections.

use crate::limits::{DOUBT_NS, MAX_TERM, MAX_TERM_STEP, TERM_STEP_NS};
use crate::raft::Raft;
use crate::{Effects, Term, Time};

/// Up to where a peer's term is believed for now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Belief {
    highest: Term,
    since: Time,
    /// When a term was first named that was not believed, since this node last went up for that.
    doubted: Option<Time>,
}

impl Belief {
    pub(crate) fn new(own: Term, now: Time) -> Belief {
        Belief { highest: Term(own.0.saturating_add(MAX_TERM_STEP).min(MAX_TERM)), since: now, doubted: None }
    }

    /// The highest term that is believed at `now` by a node in term `own`.
    fn highest(&mut self, own: Term, now: Time) -> Term {
        if now.since(self.since) >= TERM_STEP_NS {
            *self = Belief { doubted: self.doubted, ..Belief::new(own, now) };
        }
        self.highest.max(own)
    }

    /// A term was named that is not believed. Whether such have been named for long enough.
    fn is_insisted_on(&mut self, now: Time) -> bool {
        let doubted = self.doubted.filter(|since| now.since(*since) <= DOUBT_NS);
        let insisted = doubted.is_some_and(|since| now.since(since) >= TERM_STEP_NS);
        self.doubted = if insisted { Some(now) } else { doubted.or(Some(now)) };
        insisted
    }
}

impl Raft {
    /// Whether a peer's term can be true. One that cannot is counted.
    pub(crate) fn credible_term(&mut self, term: Term) -> bool {
        let credible = (1..=self.belief.highest(self.hard.term, self.now).0).contains(&term.0);
        if !credible {
            self.refuse();
        }
        credible
    }

    /// The same of a term that this node is to enter or act on. One that is not believed is walked up to in steps, each
    /// of which takes a while, and somebody who still names such a term.
    pub(crate) fn believes(&mut self, term: Term, fx: &mut Effects) -> bool {
        let credible = self.credible_term(term);
        if !credible && (1..=MAX_TERM).contains(&term.0) && self.belief.is_insisted_on(self.now) {
            let highest = self.belief.highest(self.hard.term, self.now);
            if highest > self.hard.term {
                self.follow(highest, None, fx);
            }
        }
        credible
    }
}
