//! The snapshots of one group in its data directory.

mod closing;
mod turn;

use std::collections::VecDeque;

use kontiki_core::{Base, LogIndex, Time};
use kontiki_io::{Handle, Io, IoBuf, IoError, IoErrorKind, Name};

use crate::backoff::Backoff;
use crate::flaw::Flaw;
use crate::head::{Head, Info, Made};
use crate::limits::{KEPT, MAX_EVENTS, MAX_FILES};
use crate::offer::Offer;
use crate::pace::Pace;
use crate::reads::Reads;
use crate::receive::{Progress, Receiving, Want};
use crate::reserve::{Expected, Space};
use crate::retire::Retiring;
use crate::work::Done;
use crate::write::Writing;
use crate::{Digest, Making, Options, Part, ReadError, Refused, StoreError, names};

/// What has happened. To be taken after every [`Store::pump`] and [`Store::on_completion`].
#[derive(Debug)]
pub enum StoreEvent {
    /// The node's own snapshot is durable, under its name.
    Written(Info),
    /// The node's own snapshot was not written, and nothing else has changed. The machine's source may be dropped.
    NotWritten {
        /// As of which entry it was.
        base: Base,
        /// Why.
        error: StoreError,
    },
    /// A fetched snapshot is whole and durable, under its name.
    Fetched(Info),
    /// The fetch has ended without one.
    NotFetched {
        /// What was fetched.
        offer: Offer,
        /// Why.
        error: StoreError,
    },
    /// There was too little room for a new snapshot, and the older one was given up for it.
    GaveUp(Base),
    /// A snapshot turned out damaged, and counts as none from now on.
    Damaged {
        /// Its file.
        name: Name,
        /// What is wrong with it.
        flaw: Flaw,
    },
    /// A read has ended.
    Read {
        /// As it was asked for.
        tag: u64,
        /// The memory.
        buf: IoBuf,
        /// How many chunks stand in it, from its beginning, each checked.
        result: Result<usize, ReadError>,
    },
}

/// A snapshot's file.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) index: LogIndex,
    pub(crate) state: Result<Info, Flaw>,
    /// None of one that was damaged at the start.
    pub(crate) file: Option<Handle>,
    /// Of what it was when it was intact.
    digest: Option<Digest>,
    pub(crate) reads: u32,
    holds: u32,
    /// Its name is another file's now.
    replaced: bool,
}

impl Kept {
    pub(crate) fn new(index: LogIndex, state: Result<Info, Flaw>, file: Option<Handle>) -> Kept {
        let digest = state.ok().map(|info| info.digest);
        Kept { index, state, file, digest, reads: 0, holds: 0, replaced: false }
    }

    fn info(&self) -> Option<&Info> {
        self.state.as_ref().ok().filter(|_| !self.replaced)
    }

    fn name(&self) -> Name {
        names::snapshot(self.index)
    }
}

/// What is being made.
#[derive(Debug)]
enum Maker {
    Own(Box<Writing>),
    Fetch(Box<Receiving>),
}

/// Whose step is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Active {
    Retiring,
    Making,
    Reserving,
    Closing,
}

/// How something ends that is being made, once nothing of it is outstanding.
#[derive(Debug)]
struct Ending {
    error: StoreError,
    /// What is in its file stays, for the next attempt.
    keep: bool,
}

/// The snapshots in a data directory: which there are, the one that is being made or fetched, reads of them.
///
/// Hand it its completions, [`pump`](Store::pump) it once a turn, and take its events. One snapshot is made at a time.
#[derive(Debug)]
pub struct Store {
    options: Options,
    dir: Handle,
    /// The newest first.
    files: Vec<Kept>,
    space: Space,
    maker: Option<Maker>,
    ending: Option<Ending>,
    active: Option<Active>,
    verifying: bool,
    /// The step of what is made is a flush.
    flushing: bool,
    retiring: VecDeque<Retiring>,
    reads: Reads,
    events: VecDeque<StoreEvent>,
    backoff: Backoff,
    pace: Pace,
    verify_pace: Pace,
    deadline: Option<Time>,
    made: u64,
    /// What an earlier fetch left is there, for it to go on with.
    part: bool,
    /// Snapshots that could not be removed: tried again when the next one is there.
    unremoved: Vec<Name>,
    /// The older one was given up for room: the log may be let go of up to the only one.
    gave_up: bool,
    broken: Option<StoreError>,
    /// Handles still to be closed, the directory's first.
    closing: Option<Vec<Handle>>,
}

impl Store {
    pub(crate) fn new(
        options: Options,
        dir: Handle,
        files: Vec<Kept>,
        space: Option<(Handle, u64)>,
        unneeded: Vec<Name>,
        part: bool,
    ) -> Store {
        let pace = Pace::new(options.bytes_per_s);
        Store {
            options,
            dir,
            files,
            space: Space::new(space),
            maker: None,
            ending: None,
            active: None,
            verifying: false,
            flushing: false,
            retiring: unneeded.into_iter().map(|name| Retiring::new(Some(name), None)).collect(),
            reads: Reads::default(),
            events: VecDeque::with_capacity(MAX_EVENTS),
            backoff: Backoff::default(),
            pace,
            verify_pace: Pace::new(0),
            deadline: None,
            made: 0,
            part,
            unremoved: Vec::new(),
            gave_up: false,
            broken: None,
            closing: None,
        }
    }

    /// The snapshots that are intact as far as is known, the newest first.
    pub fn snapshots(&self) -> impl Iterator<Item = &Info> {
        self.files.iter().filter_map(Kept::info)
    }

    /// The bases that a log may go on from, whatever the machine has: of those with its state in them, the newest first.
    pub fn bases(&self) -> Vec<Base> {
        self.full().map(Info::base).collect()
    }

    fn full(&self) -> impl Iterator<Item = &Info> {
        self.snapshots().filter(|info| info.head.full)
    }

    /// The newest one with the machine's state in it.
    pub fn newest_full(&self) -> Option<&Info> {
        self.full().next()
    }

    /// Those that are damaged, and what is wrong with them.
    pub fn damaged(&self) -> impl Iterator<Item = (Name, Flaw)> {
        self.files.iter().filter_map(|kept| Some((kept.name(), *kept.state.as_ref().err()?)))
    }

    /// Up to which entry the log may be released: what the older of the two snapshots holds. If the older one was given up
    /// for room, what the only one holds. `None` as long as there are not two otherwise. Small ones do not count if
    /// `full_only`: a machine that is not durable by itself needs its state in them.
    pub fn release_upto(&self, full_only: bool) -> Option<Base> {
        let mut bases = self.snapshots().filter(|info| info.head.full || !full_only).map(Info::base);
        match (bases.next(), bases.nth(KEPT - 2)) {
            (_, Some(older)) => Some(older),
            (newest, None) if self.gave_up => newest,
            _ => None,
        }
    }

    /// What the next snapshot will be: space is set aside for it. `None`: no snapshots are made here, and nothing is set aside.
    pub fn expect(&mut self, next: Option<Expected>) {
        self.space.expect(next);
    }

    /// What it is to be, as was said last.
    pub fn expected(&self) -> Option<Expected> {
        self.space.expected()
    }

    /// How much space is set aside for the next snapshot, in bytes.
    pub fn reserved_bytes(&self) -> u64 {
        self.space.bytes()
    }

    /// Whether the space for the next snapshot is set aside, or none is needed. As long as it is not, nothing else may take
    /// more of the disk.
    pub fn has_space(&self) -> bool {
        match &self.maker {
            // What is being made has taken it over.
            Some(_) => self.backoff.error().is_none_or(|error| error.kind != IoErrorKind::Full),
            None => self.broken.is_some() || self.space.target(self.last_bytes()).is_none_or(|target| self.space.bytes() >= target),
        }
    }

    /// Length of the snapshot that the next one is measured by: of the newest of its kind.
    pub(crate) fn last_bytes(&self) -> u64 {
        let full = self.space.expected() != Some(Expected::Small);
        self.snapshots().find(|info| info.head.full == full).map_or(0, |info| info.bytes)
    }

    /// Sets how fast a snapshot is written or fetched at most; zero: no cap.
    pub fn set_bytes_per_s(&mut self, bytes_per_s: u64) {
        self.pace.set_cap(bytes_per_s);
    }

    /// What is lacking, while something is waited for: space on the disk, or a resource of the system's.
    pub fn lacking(&self) -> Option<IoError> {
        self.backoff.error()
    }

    /// Whether a snapshot is being written or fetched.
    pub fn is_making(&self) -> bool {
        self.maker.is_some()
    }

    /// Why no more snapshots are made until the next start, if that is so.
    pub fn broken(&self) -> Option<&StoreError> {
        self.broken.as_ref()
    }

    /// When [`pump`](Store::pump) is to be called at the latest, even if nothing happens. `None`: only after an event.
    pub fn deadline(&self) -> Option<Time> {
        self.deadline
    }

    /// Takes the next event.
    pub fn next_event(&mut self) -> Option<StoreEvent> {
        self.events.pop_front()
    }

    // The node's own snapshot.

    /// Begins the node's own snapshot. What it holds comes with [`push`](Store::push); [`finish`](Store::finish) ends
    /// it.
    ///
    /// # Errors
    /// Why that is not possible now.
    pub fn begin(&mut self, making: Making, io: &dyn Io) -> Result<(), Refused> {
        self.may_make()?;
        let newer = |info: &&Info| {
            let base = info.base();
            base.index > making.base.index || base.index == making.base.index && (info.head.full || !making.full)
        };
        if let Some(info) = self.snapshots().find(newer) {
            return Err(Refused::NotNewer(info.base()));
        }
        let Options { cluster, group, node, .. } = self.options;
        let Making { base, lineage, cluster_ns, full, incarnation } = making;
        self.made += 1;
        let made = Made { node, incarnation, number: self.made, wall_ns: io.wall_ns() };
        let head = Head { cluster, group, lineage, base, cluster_ns, full, made };
        self.maker = Some(Maker::Own(Box::new(Writing::new(head, self.space.take()))));
        self.backoff.over();
        Ok(())
    }

    fn may_make(&self) -> Result<(), Refused> {
        if self.closing.is_some() {
            return Err(Refused::Closing);
        }
        if let Some(error) = &self.broken {
            return Err(Refused::Broken(error.clone()));
        }
        if self.maker.is_some() || self.active == Some(Active::Reserving) || self.open_files() >= MAX_FILES {
            Err(Refused::Busy)
        } else {
            Ok(())
        }
    }

    fn open_files(&self) -> usize {
        self.files.iter().filter(|kept| kept.file.is_some()).count()
    }

    /// Takes bytes of a section, and says how many. Sections come in the order of [`Part`]. Fewer than all are taken if the
    /// disk is behind: offer the rest again after the next event or completion.
    ///
    /// # Panics
    /// If the sections do not come in their order, or the machine's is not in this snapshot.
    pub fn push(&mut self, part: Part, bytes: &[u8]) -> usize {
        match &mut self.maker {
            Some(Maker::Own(writing)) if self.ending.is_none() => writing.push(part, bytes),
            _ => 0,
        }
    }

    /// Says that this was all. [`StoreEvent::Written`] comes once the snapshot is durable. False if the disk is behind: say
    /// it again later.
    pub fn finish(&mut self) -> bool {
        match &mut self.maker {
            Some(Maker::Own(writing)) if self.ending.is_none() => writing.finish(),
            _ => false,
        }
    }

    /// The snapshot that is being written: as of which entry, and how many bytes of it are.
    pub fn writing(&self) -> Option<(Base, u64)> {
        match &self.maker {
            Some(Maker::Own(writing)) => Some((writing.base(), writing.written())),
            _ => None,
        }
    }

    /// Gives up what is being written or fetched; an event says so. What was fetched stays, in case the same is offered
    /// again. Once the file gets its name it is too late for that, and the snapshot is made.
    pub fn abandon(&mut self) {
        let named = match &self.maker {
            Some(Maker::Own(writing)) => writing.is_named(),
            Some(Maker::Fetch(receiving)) => receiving.is_named(),
            None => return,
        };
        if !named && self.ending.is_none() {
            self.ending = Some(Ending { error: StoreError::Abandoned, keep: true });
            self.settle();
        }
    }

    // Fetching.

    /// Begins to fetch what is offered, or goes on where an earlier fetch of the very same offer stopped.
    ///
    /// ```
    /// use kontiki_io::Io;
    /// use kontiki_snapshot::limits::CHUNK_BYTES;
    /// use kontiki_snapshot::{OWNER, Offer, Store, StoreEvent};
    ///
    /// /// Fetches what is offered from its source, and waits for it. Whether it is there now.
    /// fn fetch(store: &mut Store, offer: Offer, source: impl Fn(u64) -> Vec<u8>, io: &mut dyn Io) -> bool {
    ///     store.fetch(offer).expect("nothing else is being made");
    ///     let mut done = Vec::new();
    ///     loop {
    ///         if let Some(want) = store.want() {
    ///             for offset in (want.offset..want.offset + want.bytes).step_by(CHUNK_BYTES) {
    ///                 if let Err(flaw) = store.accept(offset, &source(offset)) {
    ///                     println!("chunk at {offset}: {flaw}"); // it is wanted again
    ///                     break;
    ///                 }
    ///             }
    ///         }
    ///         store.pump(io, false);
    ///         io.turn(store.deadline(), &mut done).expect("the backend works");
    ///         for completion in done.drain(..).filter(|completion| completion.token.0 >> 56 == u64::from(OWNER)) {
    ///             store.on_completion(completion, io);
    ///         }
    ///         match store.next_event() {
    ///             Some(StoreEvent::Fetched(_)) => return true,
    ///             Some(StoreEvent::NotFetched { .. }) => return false,
    ///             _ => {}
    ///         }
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    /// Why that is not possible now. [`Refused::Unfit`] if there can be no such snapshot.
    pub fn fetch(&mut self, offer: Offer) -> Result<(), Refused> {
        self.may_make()?;
        if let Some(what) = offer.unfit() {
            return Err(Refused::Unfit { what });
        }
        self.part = true;
        self.maker = Some(Maker::Fetch(Box::new(Receiving::new(offer, self.options.cluster, self.options.group))));
        self.backoff.over();
        Ok(())
    }

    /// Removes what an earlier fetch left, as nobody will go on with it. (Without this it goes once the node has written a
    /// snapshot of its own, or as soon as that lacks the space.)
    pub fn forget_fetch(&mut self) {
        if self.part && !matches!(self.maker, Some(Maker::Fetch(_))) && self.broken.is_none() {
            self.part = false;
            self.retiring.push_back(Retiring::new(Some(names::plain(names::PART)), None));
        }
    }

    /// What to ask the source for next. `None` while nothing is fetched, all of it is there, or there is no room for more.
    pub fn want(&self) -> Option<Want> {
        match &self.maker {
            Some(Maker::Fetch(receiving)) if self.ending.is_none() => receiving.want(),
            _ => None,
        }
    }

    /// Takes the chunk at `offset`, in bytes, of what is fetched: the next one that [`want`](Store::want) names.
    ///
    /// # Errors
    /// What is wrong with it. It is wanted again, unless that would be of no use: then [`StoreEvent::NotFetched`] comes.
    pub fn accept(&mut self, offset: u64, chunk: &[u8]) -> Result<(), Flaw> {
        let Some(Maker::Fetch(receiving)) = &mut self.maker else { return Err(Flaw::OtherSnapshot) };
        if self.ending.is_some() {
            return Err(Flaw::OtherSnapshot);
        }
        match receiving.accept(offset, chunk) {
            Ok(()) => {
                let done = receiving.end_check();
                self.ends_with(done);
                Ok(())
            }
            Err(flaw) => {
                if receiving.hopeless(flaw) {
                    self.ends_with(Done::Failed(StoreError::Fetched { flaw }));
                }
                Err(flaw)
            }
        }
    }

    /// How far the fetch has come, if there is one.
    pub fn fetching(&self) -> Option<Progress> {
        match &self.maker {
            Some(Maker::Fetch(receiving)) => Some(receiving.progress()),
            _ => None,
        }
    }

    // Reading.

    /// Reads chunks of a snapshot, from number `chunk` on, as many as `buf` holds and there are. They come with
    /// [`StoreEvent::Read`] under the same `tag`, each of them checked.
    ///
    /// ```
    /// use kontiki_io::{Io, IoBuf};
    /// use kontiki_snapshot::{Store, StoreEvent, chunks};
    ///
    /// /// Asks for the beginning of the newest snapshot. False if there is none, or too much is being read.
    /// fn ask(store: &mut Store, buf: IoBuf, io: &mut dyn Io) -> bool {
    ///     let newest = store.newest_full().map(|info| info.digest);
    ///     newest.is_some_and(|digest| store.read(1, digest, 0, buf, io).is_ok())
    /// }
    ///
    /// /// Looks at what has come.
    /// fn look(event: StoreEvent) {
    ///     if let StoreEvent::Read { tag: 1, buf, result } = event {
    ///         match result {
    ///             Ok(count) => chunks(&buf, count).for_each(|chunk| println!("{:?}: {} bytes", chunk.part, chunk.data.len())),
    ///             Err(error) => println!("{error}"),
    ///         }
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    /// The memory comes back at once if there is no such snapshot or chunk, or [`MAX_READS`](crate::limits::MAX_READS)
    /// are under way.
    ///
    /// # Panics
    /// If `buf` is not of whole chunks, at least one and at most [`MAX_READ_CHUNKS`](crate::limits::MAX_READ_CHUNKS).
    pub fn read(&mut self, tag: u64, digest: Digest, chunk: u64, buf: IoBuf, io: &mut dyn Io) -> Result<(), IoBuf> {
        if self.closing.is_some() {
            return Err(buf);
        }
        self.reads.begin(&mut self.files, tag, digest, chunk, buf, io)
    }

    /// Keeps a snapshot's file while it is sent, however many newer ones there are; to be let go of with
    /// [`unhold`](Store::unhold). False if it is not there.
    pub fn hold(&mut self, digest: Digest) -> bool {
        self.holds(digest, 1)
    }

    /// Lets go of a file that was held.
    pub fn unhold(&mut self, digest: Digest) {
        self.holds(digest, -1);
    }

    fn holds(&mut self, digest: Digest, more: i32) -> bool {
        let found = self.files.iter_mut().find(|kept| kept.digest == Some(digest) && (kept.state.is_ok() || more < 0));
        if let Some(kept) = found {
            kept.holds = kept.holds.saturating_add_signed(more);
            return true;
        }
        false
    }

    /// Counts a snapshot as damaged from now on: what was read of it was no use, though each chunk was intact.
    pub fn condemn(&mut self, digest: Digest, flaw: Flaw) {
        if let Some(kept) = self.files.iter_mut().find(|kept| kept.info().is_some_and(|info| info.digest == digest)) {
            kept.state = Err(flaw);
            let name = kept.name();
            self.tell(StoreEvent::Damaged { name, flaw });
        }
    }
}
