//! A caller's own code, called in the middle of ours: it panics, comes back in, and gives what it should not.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used)]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, RawWaker, RawWakerVTable, Wake, Waker};

use kontiki_mem::{BLOCK_BYTES as B, Batch, Hold, OpenBatch, Outcome, Resolver, Ring, Sealed, Slot, Ticket, TicketId, Tickets};

const HEADER: usize = 64;
const SLOTS: usize = 16;
const TABLES: usize = 2;

struct Fixture {
    ring: Ring,
    open: OpenBatch,
    hold: Hold<()>,
    resolver: Resolver,
}

impl Fixture {
    fn new() -> Fixture {
        let open = OpenBatch::new(Tickets::new(SLOTS, 16), HEADER, B - HEADER, SLOTS, TABLES);
        let hold = Hold::new((), open.records());
        Fixture { ring: Ring::new(1 << 16, 16).unwrap(), open, hold, resolver: Resolver::new() }
    }

    fn open(&mut self) {
        self.open.open(self.ring.reserve(B).unwrap()).unwrap();
    }

    fn sealed(&self) -> (Sealed, Batch) {
        assert!(self.open.seal());
        self.open.poll_sealed().expect("all writers have finished")
    }

    fn batch(&mut self, entries: usize) -> (Batch, Vec<Ticket>) {
        self.open();
        let mut mine = Vec::new();
        assert_eq!(self.hold.take_many(entries, &mut mine), entries);
        assert_eq!(self.open.propose_many(&vec![&b"x"[..]; entries], &mut mine).0, entries);
        (self.sealed().1, mine)
    }

    /// Every slot and every table has come back, once.
    fn is_whole(&mut self) {
        assert_eq!(self.open.records().in_flight(), 0);
        for _ in 0..2 {
            let mut held: Vec<_> = (0..TABLES).map(|_| self.batch(SLOTS / TABLES)).collect();
            assert!(self.hold.take().is_none(), "each slot is there once");
            held.iter_mut().for_each(|(batch, _)| self.resolver.complete(batch, 1));
        }
        assert_eq!(self.open.records().in_flight(), 0);
    }
}

/// The entries of a sealed body.
fn entries(sealed: &Sealed) -> Vec<Vec<u8>> {
    let mut body = &sealed.block.bytes()[HEADER..HEADER + sealed.body_bytes];
    let mut all = Vec::new();
    while let Some((length, rest)) = body.split_first_chunk::<4>() {
        let (payload, rest) = rest.split_at(u32::from_le_bytes(*length) as usize);
        all.push(payload.to_vec());
        body = rest;
    }
    assert!(body.is_empty());
    all
}

fn poll(ticket: &mut Ticket, waker: &Waker) -> Option<Outcome> {
    match Pin::new(ticket).poll(&mut Context::from_waker(waker)) {
        std::task::Poll::Ready(outcome) => Some(outcome),
        std::task::Poll::Pending => None,
    }
}

/// A ticket that panics as it is handed over.
struct Shy {
    ticket: Ticket,
    panics: bool,
}

impl From<Ticket> for Shy {
    fn from(ticket: Ticket) -> Shy {
        Shy { ticket, panics: false }
    }
}

impl AsMut<Ticket> for Shy {
    fn as_mut(&mut self) -> &mut Ticket {
        assert!(!self.panics, "a caller's");
        &mut self.ticket
    }
}

/// The entries are in the batch, whole; those whose tickets were not got at have nobody who waits.
#[test]
fn a_ticket_that_panics_as_it_is_noted() {
    for bad in 0..4 {
        let mut f = Fixture::new();
        f.open();
        let mut mine: Vec<Shy> = Vec::new();
        f.hold.take_many(4, &mut mine);
        mine[bad].panics = true;
        let payloads = [&b"one"[..], b"two", b"three", b"four"];
        let outcome = catch_unwind(AssertUnwindSafe(|| f.open.propose_many(&payloads, &mut mine)));
        assert!(outcome.is_err());
        // Another's proposal is fine.
        let mut other = f.hold.take().unwrap();
        assert_eq!(f.open.propose(&[], b"five", &mut other), Slot::Written { before: 4, completed: false });
        let (sealed, mut batch) = f.sealed();
        assert_eq!((sealed.count, entries(&sealed)), (5, [&payloads[..], &[b"five"]].concat().iter().map(|p| p.to_vec()).collect()));
        let noted: Vec<bool> = batch.tickets().iter().map(|&id| id != TicketId::default()).collect();
        assert_eq!(noted, (0..5).map(|n| n < bad || n == 4).collect::<Vec<_>>());
        assert!(!f.resolver.resolve_one(&mut batch, bad, Outcome::Unknown, &[]), "nobody waits for it");
        f.resolver.complete(&mut batch, 7);
        assert_eq!(other.poll_outcome(), Some(Outcome::Applied { index: 11 }));
        let outcomes: Vec<_> = mine.iter().map(|shy| shy.ticket.poll_outcome().is_some()).collect();
        assert_eq!(outcomes, (0..4).map(|n| n < bad).collect::<Vec<_>>());
        drop((other, mine, batch));
        f.is_whole();
    }
}

/// What a caller makes of its tickets panics half-way: slots that were taken come back.
#[test]
fn a_ticket_that_panics_as_it_is_taken() {
    thread_local!(static LEFT: Cell<usize> = const { Cell::new(0) });
    struct Fussy(#[allow(dead_code)] Ticket);
    impl From<Ticket> for Fussy {
        fn from(ticket: Ticket) -> Fussy {
            assert!(LEFT.get() > 0, "enough");
            LEFT.set(LEFT.get() - 1);
            Fussy(ticket)
        }
    }
    for left in [0, 1, 5] {
        let mut f = Fixture::new();
        LEFT.set(left);
        let mut taken: Vec<Fussy> = Vec::new();
        assert!(catch_unwind(AssertUnwindSafe(|| f.hold.take_many(8, &mut taken))).is_err());
        assert_eq!((taken.len(), f.open.records().in_flight()), (left, left));
        drop(taken);
        f.is_whole();
    }
}

/// A ticket that waits for one entry already is not noted a second time, nor is one of another node's.
#[test]
fn a_ticket_is_noted_once_and_where_it_belongs() {
    let (mut f, mut other) = (Fixture::new(), Fixture::new());
    f.open();
    other.open();
    let mut ticket = f.hold.take().unwrap();
    let mut alone = Hold::alone((), &Tickets::new(1, 0)).take().unwrap();
    assert!(matches!(f.open.propose(&[], b"first", &mut ticket), Slot::Written { .. }));
    assert!(matches!(f.open.propose(&[], b"again", &mut ticket), Slot::Written { .. }));
    assert!(matches!(f.open.propose(&[], b"of no batch", &mut alone), Slot::Written { .. }));
    assert!(matches!(other.open.propose(&[], b"elsewhere", &mut ticket), Slot::Written { .. }));
    let ((_, mut batch), (_, mut elsewhere)) = (f.sealed(), other.sealed());
    assert_eq!(batch.tickets(), [ticket.id(), TicketId::default(), TicketId::default()]);
    assert_eq!(elsewhere.tickets(), [TicketId::default()]);
    assert!(!f.resolver.resolve_one(&mut batch, 1, Outcome::Unknown, b"not yours"));
    f.resolver.complete(&mut elsewhere, 90);
    assert_eq!(ticket.poll_outcome(), None);
    // One resolver for two nodes' batches: each batch knows its slab.
    other.resolver.complete(&mut batch, 7);
    assert_eq!((ticket.poll_outcome(), alone.poll_outcome()), (Some(Outcome::Applied { index: 7 }), None));
    drop((ticket, batch, elsewhere));
    f.is_whole();
    other.is_whole();
}

/// An outcome of its own is given once, whatever becomes of the slot; the table's references are counted right.
#[test]
fn a_ticket_is_resolved_by_itself_once() {
    let mut f = Fixture::new();
    let (mut batch, mut mine) = f.batch(3);
    assert!(f.resolver.resolve_one(&mut batch, 1, Outcome::Applied { index: 9 }, b"mine"));
    assert_eq!(batch.tickets()[1], TicketId::default(), "forgotten: its name may be another's one day");
    for _ in 0..3 {
        assert!(!f.resolver.resolve_one(&mut batch, 1, Outcome::Unknown, b"other"));
    }
    let first = mine.remove(1);
    assert_eq!((first.poll_outcome(), first.reply()), (Some(Outcome::Applied { index: 9 }), &b"mine"[..]));
    let id = first.id();
    drop(first);
    let newer = f.hold.take().unwrap();
    assert!(newer.id() != id && !f.resolver.resolve_one(&mut batch, 1, Outcome::Unknown, b"other"));
    assert_eq!(newer.poll_outcome(), None);
    f.resolver.complete(&mut batch, 1);
    drop((newer, mine, batch));
    f.is_whole();
}

/// What another node's resolver does to a batch it does not know, it does through the batch: replies that are borrowed
/// stay as they are.
#[test]
fn a_resolver_of_another_node() {
    let (mut f, mut stranger) = (Fixture::new(), Fixture::new());
    let (_theirs, _twins) = stranger.batch(2);
    let (mut batch, mine) = f.batch(2);
    assert!(stranger.resolver.resolve_one(&mut batch, 0, Outcome::Unknown, &[]));
    assert!(batch.reply(1, b"AAAAAAAA"));
    f.resolver.complete(&mut batch, 7);
    let reply = mine[1].reply();
    drop(batch);
    for _ in 0..2 * TABLES {
        if let Some(block) = f.ring.reserve(B)
            && f.open.open(block).is_ok()
        {
            let mut next = f.hold.take().unwrap();
            assert!(matches!(f.open.propose(&[], b"y", &mut next), Slot::Written { .. }));
            let (_, mut side) = f.sealed();
            side.reply(0, b"BBBBBBBB");
            f.resolver.complete(&mut side, 8);
        }
    }
    assert_eq!(std::hint::black_box(reply), b"AAAAAAAA");
    drop(mine);
    f.is_whole();
}

/// A ticket that nobody will answer is no longer in flight when it goes: there is nothing to wait for.
#[test]
fn a_ticket_that_was_put_nowhere_goes_at_once() {
    let mut f = Fixture::new();
    drop(f.hold.take().unwrap());
    f.hold.take().unwrap().cancel();
    f.is_whole();
    // To cancel one that was put into a batch takes nothing back.
    f.open();
    let mut ticket = f.hold.take().unwrap();
    assert!(matches!(f.open.propose(&[], b"x", &mut ticket), Slot::Written { .. }));
    ticket.cancel();
    assert_eq!(f.open.records().in_flight(), 1);
    let (_, mut batch) = f.sealed();
    f.resolver.complete(&mut batch, 1);
    drop(batch);
    f.is_whole();
}

/// Counts, and panics where it is told to.
#[derive(Default)]
struct Moody {
    wakes: AtomicUsize,
    panics: bool,
}

impl Wake for Moody {
    fn wake(self: Arc<Self>) {
        self.wakes.fetch_add(1, Ordering::SeqCst);
        assert!(!self.panics, "a caller's waker");
    }
}

/// A waker that panics keeps nobody else from being woken, however many there are, and whoever resolves goes on.
#[test]
fn a_waker_that_panics() {
    for bad in [0, 1, 3] {
        let mut f = Fixture::new();
        for way in ["whole", "one by one", "the end"] {
            let (mut batch, mut mine) = f.batch(4);
            let moody: Vec<_> = (0..4).map(|n| Arc::new(Moody { panics: n == bad, ..Moody::default() })).collect();
            for (ticket, moody) in mine.iter_mut().zip(&moody) {
                assert!(poll(ticket, &Waker::from(Arc::clone(moody))).is_none());
            }
            match way {
                "whole" => f.resolver.complete(&mut batch, 1),
                "one by one" => (0..4).for_each(|n| assert!(f.resolver.resolve_one(&mut batch, n, Outcome::Unknown, &[]))),
                _ => f.open.records().end(),
            }
            f.resolver.flush();
            assert_eq!(moody.iter().map(|m| m.wakes.load(Ordering::SeqCst)).collect::<Vec<_>>(), [1; 4], "{way}");
            assert!(mine.iter().all(|ticket| ticket.poll_outcome().is_some()));
            if way == "one by one" {
                drop((mine, batch));
                f.is_whole();
            }
        }
    }
}

type Call = RefCell<Option<Box<dyn FnMut()>>>;

thread_local! {
    /// What the hand-made waker does when it is cloned, and when it is dropped.
    static ON_CLONE: Call = const { RefCell::new(None) };
    static ON_DROP: Call = const { RefCell::new(None) };
}

/// A waker of functions of this test: `Wake` has no say in its clone and drop.
fn hand_made() -> Waker {
    fn run(what: &'static std::thread::LocalKey<Call>) {
        let Some(mut call) = what.take() else { return };
        call();
    }
    const VTABLE: RawWakerVTable = RawWakerVTable::new(
        |data| {
            run(&ON_CLONE);
            RawWaker::new(data, &VTABLE)
        },
        |_| run(&ON_DROP),
        |_| {},
        |_| run(&ON_DROP),
    );
    // SAFETY: the functions take no data, and no thread is told from another.
    unsafe { Waker::from_raw(RawWaker::new(std::ptr::null(), &VTABLE)) }
}

/// The clone of a waker panics: the ticket is as it was, and waits with the next one.
#[test]
fn a_waker_that_panics_as_it_is_cloned() {
    let mut f = Fixture::new();
    let (mut batch, mut mine) = f.batch(1);
    ON_CLONE.set(Some(Box::new(|| panic!("a caller's clone"))));
    assert!(catch_unwind(AssertUnwindSafe(|| poll(&mut mine[0], &hand_made()))).is_err());
    let moody = Arc::new(Moody::default());
    assert!(poll(&mut mine[0], &Waker::from(Arc::clone(&moody))).is_none());
    f.resolver.complete(&mut batch, 1);
    f.resolver.flush();
    assert_eq!(moody.wakes.load(Ordering::SeqCst), 1);
    drop((mine, batch));
    f.is_whole();
}

/// The clone of a waker comes back in, by way of the very slot: there is no lock to be in its way.
#[test]
fn a_waker_that_comes_back_in_as_it_is_cloned() {
    let mut f = Fixture::new();
    let (batch, mut mine) = f.batch(2);
    let batch = Rc::new(RefCell::new(Some(batch)));
    let inner = Rc::clone(&batch);
    ON_CLONE.set(Some(Box::new(move || {
        let mut batch = inner.take().unwrap();
        let mut resolver = Resolver::new();
        assert!(resolver.resolve_one(&mut batch, 0, Outcome::Applied { index: 3 }, b"now"));
        inner.replace(Some(batch));
    })));
    assert_eq!(poll(&mut mine[0], &hand_made()), Some(Outcome::Applied { index: 3 }), "it is answered by then");
    f.resolver.complete(batch.take().as_mut().unwrap(), 1);
    drop((mine, batch));
    f.is_whole();
}

/// The drop of a waker panics, on the resolver's side: a ticket that is gone, two tickets with one waker. Nobody else
/// is hurt.
#[test]
fn a_waker_that_panics_as_it_is_dropped() {
    let mut f = Fixture::new();
    let (mut batch, mut mine) = f.batch(4);
    let waker = hand_made();
    assert!(poll(&mut mine[0], &waker).is_none() && poll(&mut mine[1], &waker).is_none() && poll(&mut mine[2], &waker).is_none());
    let moody = Arc::new(Moody::default());
    assert!(poll(&mut mine[3], &Waker::from(Arc::clone(&moody))).is_none());
    drop(mine.remove(0));
    ON_DROP.set(Some(Box::new(|| panic!("a caller's drop"))));
    assert!(f.resolver.resolve_one(&mut batch, 0, Outcome::Unknown, &[]), "its owner is gone");
    ON_DROP.set(Some(Box::new(|| panic!("a caller's drop"))));
    f.resolver.complete(&mut batch, 1);
    f.resolver.flush();
    assert_eq!(moody.wakes.load(Ordering::SeqCst), 1);
    // On its owner's side the panic is the owner's, and the slot is free.
    drop((mine, batch));
    let (mut batch, mut mine) = f.batch(1);
    assert!(poll(&mut mine[0], &waker).is_none());
    f.resolver.complete(&mut batch, 1);
    assert!(poll(&mut mine[0], &waker).is_some());
    drop((mine, batch));
    f.is_whole();
}

/// The waker of a ticket that is dropped panics in its owner's hands: slot and table have gone back before.
#[test]
fn a_waker_that_panics_as_its_ticket_goes() {
    let mut f = Fixture::new();
    let (mut batch, mut mine) = f.batch(1);
    assert!(poll(&mut mine[0], &hand_made()).is_none());
    // The outcome comes without that its waker is looked for: it is known that nobody waits any more.
    assert!(batch.reply(0, &[]));
    let first = mine.pop().unwrap();
    f.resolver.complete(&mut batch, 1);
    drop(batch);
    f.resolver.flush();
    ON_DROP.set(Some(Box::new(|| panic!("a caller's drop"))));
    drop(catch_unwind(AssertUnwindSafe(|| drop(first))));
    ON_DROP.set(None);
    f.is_whole();
}

/// A waker that proposes, polls and gives tickets back as it is woken.
#[test]
fn a_waker_that_comes_back_in_as_it_is_woken() {
    struct Again {
        hold: Hold<()>,
        woken: AtomicUsize,
    }
    impl Wake for Again {
        fn wake(self: Arc<Self>) {
            self.woken.fetch_add(1, Ordering::SeqCst);
            let ticket = self.hold.take().unwrap();
            assert_eq!(ticket.poll_outcome(), None);
            let mut more: Vec<Ticket> = Vec::new();
            self.hold.take_many(3, &mut more);
            let mut queue = VecDeque::from(more);
            assert_eq!(Ticket::reap(&mut queue, |(), _, _| ()), 0);
        }
    }
    let mut f = Fixture::new();
    let (mut batch, mut mine) = f.batch(3);
    let again = Arc::new(Again { hold: f.hold.clone(), woken: AtomicUsize::new(0) });
    for ticket in &mut mine {
        assert!(pin!(ticket).poll(&mut Context::from_waker(&Waker::from(Arc::clone(&again)))).is_pending());
    }
    f.resolver.complete(&mut batch, 1);
    f.resolver.flush();
    assert_eq!(again.woken.load(Ordering::SeqCst), 1);
    drop((mine, batch, again));
    f.is_whole();
}

/// What is leaked is lost, and no more than that.
#[test]
fn tickets_and_batches_that_are_forgotten() {
    let mut f = Fixture::new();
    let (mut batch, mut mine) = f.batch(2);
    let reply = Cell::new(&[][..]);
    let leaked: &'static Ticket = Box::leak(Box::new(mine.remove(0)));
    assert!(batch.reply(0, b"AAAAAAAA"));
    f.resolver.complete(&mut batch, 1);
    reply.set(leaked.reply());
    std::mem::forget(batch);
    drop(mine);
    for round in 0..20 {
        let (mut batch, mine) = f.batch(1);
        assert!(batch.reply(0, b"BBBBBBBB"));
        f.resolver.complete(&mut batch, round);
        assert_eq!(mine[0].reply(), b"BBBBBBBB");
    }
    assert_eq!((reply.get(), f.open.records().in_flight()), (&b"AAAAAAAA"[..], 1));
}
