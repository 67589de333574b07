//! Tickets that are answered are taken, and let go of, in runs: what each would pay for itself (its slot on the free
//! list, its reference to the record, its hold on both) is paid once for all that lie together.

use std::collections::VecDeque;
use std::mem::ManuallyDrop;
use std::ptr;

use crate::hold::{Hold, Holds};
use crate::records::Place;
use crate::ticket::Ticket;
use crate::tickets::{Outcome, TicketId};

impl<V> Ticket<V> {
    /// Takes the tickets at the front of `queue` that have their outcome, oldest first, up to one that has none: each
    /// is given to `each`, with its outcome and its reply, and then dropped. How many those were. Cheaper than to
    /// poll and drop them one by one; but their slots come back only at the end of a run: `each` may find none to
    /// propose with. If `each` panics, the ticket that it was given stays in the queue, and those before it are
    /// gone.
    pub fn reap<T>(queue: &mut VecDeque<T>, mut each: impl FnMut(&V, Outcome, &[u8])) -> usize
    where
        T: AsMut<Ticket<V>> + Into<Ticket<V>>,
    {
        let (mut gone, mut count) = (Gone { run: None }, 0);
        while let Some(front) = queue.front_mut() {
            let ticket = &*front.as_mut();
            let found = ticket.found().map(|(_, index)| Outcome::Applied { index });
            let Some(outcome) = found.or_else(|| ticket.poll_outcome()) else { break };
            each(ticket.holder(), outcome, ticket.reply());
            if let Some(front) = queue.pop_front() {
                gone.add(front.into());
            }
            count += 1;
        }
        count
    }
}

/// Tickets that are done with and not given back yet: of one table, by one holder.
struct Run<V> {
    holds: Holds<V>,
    table: u32,
    tickets: u32,
    /// Their slots, chained.
    first: u32,
    last: u32,
}

/// Gives back what it has when it goes, however that is.
struct Gone<V> {
    run: Option<Run<V>>,
}

impl<V> Gone<V> {
    /// A ticket that nobody needs any more.
    fn add(&mut self, ticket: Ticket<V>) {
        // Looked at once more: what is given here is whatever `Into` made of what was looked at.
        let Some((place, _)) = ticket.found() else { return drop(ticket) };
        // Its slot is untouched, and nobody else has anything to do with it any more: what is left of its drop can be put
        // together with others'.
        let id = ticket.id();
        ticket.slab().renew(id);
        let hold = {
            let ticket = ManuallyDrop::new(ticket);
            // SAFETY: read once, and the ticket is not dropped: the reference moves.
            unsafe { ptr::read(ticket.hold()) }
        };
        self.put(hold, place, id);
    }

    fn put(&mut self, hold: Hold<V>, place: Place, id: TicketId) {
        let hold = match &mut self.run {
            Some(run) if run.table == place.table => match run.holds.put(hold) {
                Ok(()) => {
                    if let Some(kept) = run.holds.kept() {
                        kept.slab().free.chain(run.last, id.slot());
                    }
                    run.last = id.slot();
                    run.tickets += 1;
                    return;
                }
                Err(hold) => hold,
            },
            _ => hold,
        };
        self.give_back();
        self.run = Some(Run { holds: hold.into(), table: place.table, tickets: 1, first: id.slot(), last: id.slot() });
    }

    fn give_back(&mut self) {
        let Some(run) = self.run.take() else { return };
        if let Some(kept) = run.holds.kept() {
            if let Some(records) = kept.records() {
                records.release(run.table, run.tickets);
            }
            kept.slab().free.push_chain(run.first, run.last);
        }
    }
}

impl<V> Drop for Gone<V> {
    fn drop(&mut self) {
        self.give_back();
    }
}
