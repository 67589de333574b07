//! A turn of the store: what is submitted, and what follows from what has ended.

use kontiki_core::Time;
use kontiki_io::{Completion, Io, IoError, IoErrorKind, Op};

use super::{Active, Ending, Kept, Maker, Store, StoreEvent};
use crate::head::Info;
use crate::limits::KEPT;
use crate::retire::Retiring;
use crate::token::Purpose;
use crate::work::Done;
use crate::{StoreError, names};

impl Store {
    /// Submits what is to be done. `log_is_busy`: the log has writes under way, and snapshots give way to it.
    pub fn pump(&mut self, io: &mut dyn Io, log_is_busy: bool) {
        self.deadline = None;
        if self.closing.is_some() {
            return self.close_on(io);
        }
        if self.broken.is_none() {
            self.tidy();
        }
        self.settle();
        self.pump_step(io, log_is_busy);
        self.pump_verify(io, log_is_busy);
    }

    fn pump_step(&mut self, io: &mut dyn Io, log_is_busy: bool) {
        if self.active.is_some() || self.waits(io, self.backoff.due()) {
            return;
        }
        let dir = self.dir;
        if let Some(op) = self.retiring.front_mut().and_then(|retiring| retiring.op(dir)) {
            return self.submit(Active::Retiring, op, io);
        }
        if self.ending.is_none() && self.maker.is_some() {
            let due = self.pace.due(log_is_busy);
            let op = match &mut self.maker {
                _ if due > io.now() => {
                    self.waits(io, due);
                    return;
                }
                Some(Maker::Own(writing)) => writing.op(dir, self.pace.sync_bytes()),
                Some(Maker::Fetch(receiving)) => receiving.op(dir, self.pace.sync_bytes()),
                None => None,
            };
            if let Some(op) = op {
                self.flushing = matches!(op, Op::Sync { .. });
                self.pace.begin(io.now(), if let Op::Write { data, .. } = &op { data.bytes().len() as u64 } else { 0 });
                self.submit(Active::Making, op, io);
            }
            return;
        }
        if self.broken.is_some() || self.maker.is_some() {
            return;
        }
        let last = self.last_bytes();
        self.space.measure(dir, io);
        match self.space.op(dir, last) {
            Some(op) => self.submit(Active::Reserving, op, io),
            // What was waited for is not wanted any more.
            None => self.backoff.over(),
        }
    }

    fn pump_verify(&mut self, io: &mut dyn Io, log_is_busy: bool) {
        if self.verifying || self.ending.is_some() || self.waits(io, self.backoff.due()) {
            return;
        }
        let due = self.verify_pace.due(log_is_busy);
        let Some(Maker::Fetch(receiving)) = &mut self.maker else { return };
        if due > io.now() {
            self.waits(io, due);
        } else if let Some(op) = receiving.verify_op() {
            self.verifying = true;
            self.verify_pace.begin(io.now(), 0);
            io.submit(Purpose::Verify.token(), op);
        }
    }

    /// Whether it is to be waited for that time.
    fn waits(&mut self, io: &dyn Io, due: Time) -> bool {
        let waits = due > io.now();
        if waits {
            self.deadline = Some(self.deadline.map_or(due, |before| before.min(due)));
        }
        waits
    }

    pub(super) fn submit(&mut self, active: Active, op: Op, io: &mut dyn Io) {
        self.active = Some(active);
        io.submit(Purpose::Step.token(), op);
    }

    /// Takes a completion whose token is the store's (top byte [`crate::OWNER`]). Pump afterwards.
    ///
    /// # Panics
    /// If it is none of what is under way.
    pub fn on_completion(&mut self, completion: Completion, io: &mut dyn Io) {
        let Completion { token, result, buf } = completion;
        match Purpose::of(token) {
            Some(Purpose::Read(slot)) => {
                if let Some((event, damage)) = self.reads.done(&mut self.files, slot, result, buf, io) {
                    self.tell(event);
                    if let Some((name, flaw)) = damage {
                        self.tell(StoreEvent::Damaged { name, flaw });
                    }
                }
            }
            Some(Purpose::Verify) => {
                self.verifying = false;
                self.verify_pace.end(io.now(), false);
                if let Some(Maker::Fetch(receiving)) = &mut self.maker
                    && self.ending.is_none()
                {
                    let done = receiving.verified(result, buf);
                    self.after(Active::Making, done, io);
                }
            }
            Some(Purpose::Step) => {
                let Some(active) = self.active.take() else { panic!("no step is under way") };
                let done = match active {
                    Active::Retiring => self.retiring.front_mut().map_or(Done::Over, |retiring| retiring.done(result)),
                    Active::Reserving => self.space.done(result),
                    Active::Making => {
                        self.pace.end(io.now(), self.flushing);
                        match &mut self.maker {
                            Some(Maker::Own(writing)) => writing.done(result),
                            Some(Maker::Fetch(receiving)) => receiving.done(result, buf),
                            None => Done::Goes,
                        }
                    }
                    Active::Closing => {
                        if let Some(handles) = &mut self.closing {
                            handles.pop();
                        }
                        return self.close_on(io);
                    }
                };
                self.after(active, done, io);
            }
            None => panic!("{token:?} is not the store's"),
        }
        self.settle();
    }

    /// What follows from what a step came to.
    fn after(&mut self, active: Active, done: Done, io: &dyn Io) {
        match done {
            Done::Goes => self.backoff.over(),
            Done::Over => {
                self.backoff.over();
                match active {
                    Active::Retiring => drop(self.retiring.pop_front()),
                    Active::Making => self.made(),
                    Active::Reserving | Active::Closing => {}
                }
            }
            Done::Lacks(error) => {
                let full = error.kind == IoErrorKind::Full;
                if full && active == Active::Making && self.make_room() {
                    return;
                }
                match &self.maker {
                    // A machine is not held up for a disk that may stay full: the next attempt makes a snapshot of
                    // then.
                    Some(Maker::Own(writing)) if full && active == Active::Making => {
                        let name = names::snapshot(writing.base().index);
                        self.ends_with(Done::Failed(StoreError::Full { what: "write", name }));
                    }
                    _ => self.backoff.lacked(error, io.now()),
                }
            }
            Done::Failed(error) => match active {
                Active::Making => self.ends_with(Done::Failed(error)),
                // It counts for nothing that it is there still.
                Active::Retiring => self.only_close(),
                Active::Reserving | Active::Closing => {
                    let file = self.space.take().map(|(file, _)| file);
                    self.retiring.push_back(Retiring::new(Some(names::plain(names::NEW)), file));
                    self.backoff.lacked(IoError { kind: IoErrorKind::Device, errno: 0 }, io.now());
                }
            },
            Done::Broken(error) => {
                self.broken = Some(error.clone());
                match active {
                    Active::Making => self.ends_with(Done::Broken(error)),
                    Active::Retiring => self.only_close(),
                    Active::Reserving | Active::Closing => {}
                }
            }
        }
    }

    /// What is on its way out is closed, whatever became of its name.
    fn only_close(&mut self) {
        let Some(retiring) = self.retiring.pop_front() else { return };
        match retiring.name() {
            Some(name) if name.as_str() == names::PART => self.part = true,
            // The next space takes it over.
            Some(name) if name.as_str() == names::NEW => {}
            name => self.unremoved.extend(name.cloned()),
        }
        let file = retiring.file();
        self.retiring.extend(file.map(|file| Retiring::new(None, Some(file))));
    }

    pub(super) fn ends_with(&mut self, done: Done) {
        if let Done::Failed(error) | Done::Broken(error) = done
            && self.ending.is_none()
        {
            let keep = matches!(error, StoreError::Full { .. });
            self.ending = Some(Ending { error, keep });
        }
    }

    /// Frees space: that for the next own snapshot while one is fetched, then the older of the two. False if there is
    /// nothing to be given up.
    fn make_room(&mut self) -> bool {
        if !self.retiring.is_empty() {
            return true;
        }
        if let Some(Maker::Fetch(_)) = &self.maker
            && let Some((file, _)) = self.space.take()
        {
            self.retiring.push_back(Retiring::new(Some(names::plain(names::NEW)), Some(file)));
            return true;
        }
        self.forget_fetch();
        if !self.retiring.is_empty() {
            return true;
        }
        let older = self.snapshots().nth(1).map(Info::base);
        let at = self.files.iter().rposition(|kept| {
            let spare = kept.info().is_none_or(|info| Some(info.base()) == older);
            spare && kept.reads == 0 && kept.holds == 0 && !kept.replaced
        });
        let Some(at) = at else { return false };
        let kept = self.files.remove(at);
        if let Ok(info) = kept.state {
            self.gave_up = true;
            self.tell(StoreEvent::GaveUp(info.base()));
        }
        self.retiring.push_back(Retiring::new(Some(kept.name()), kept.file));
        true
    }

    /// What was made is durable, under its name.
    fn made(&mut self) {
        let own = matches!(self.maker, Some(Maker::Own(_)));
        let made = match self.maker.take() {
            Some(Maker::Own(writing)) => writing.made(),
            Some(Maker::Fetch(receiving)) => receiving.made(),
            None => None,
        };
        self.ending = None;
        let Some((info, file)) = made else { return };
        let index = info.base().index;
        for kept in self.files.iter_mut().filter(|kept| kept.index == index) {
            kept.replaced = true;
        }
        self.files.push(Kept::new(index, Ok(info), Some(file)));
        self.files.sort_by_key(|kept| std::cmp::Reverse(kept.index));
        if self.snapshots().count() >= KEPT {
            self.gave_up = false;
        }
        self.part &= own;
        self.forget_fetch();
        for name in std::mem::take(&mut self.unremoved) {
            if !self.files.iter().any(|kept| kept.name() == name) {
                self.retiring.push_back(Retiring::new(Some(name), None));
            }
        }
        self.tell(if own { StoreEvent::Written(info) } else { StoreEvent::Fetched(info) });
    }

    /// What was given up goes, once nothing of it is outstanding.
    pub(super) fn settle(&mut self) {
        if self.ending.is_none() || self.active == Some(Active::Making) || self.verifying {
            return;
        }
        let (Some(Ending { error, keep }), Some(maker)) = (self.ending.take(), self.maker.take()) else { return };
        self.backoff.over();
        match maker {
            Maker::Own(writing) => {
                if keep {
                    self.space.put(writing.space());
                } else {
                    // Nobody knows what is in it. If it has a name, that is for the next start to find.
                    let name = (self.broken.is_none()).then(|| names::plain(names::NEW));
                    let file = writing.space().map(|(file, _)| file);
                    self.retiring.push_back(Retiring::new(name, file));
                }
                self.tell(StoreEvent::NotWritten { base: writing.base(), error });
            }
            Maker::Fetch(receiving) => {
                let name = (!keep && self.broken.is_none()).then(|| names::plain(names::PART));
                self.part = name.is_none();
                if name.is_some() || receiving.file().is_some() {
                    self.retiring.push_back(Retiring::new(name, receiving.file()));
                }
                self.tell(StoreEvent::NotFetched { offer: receiving.progress().offer, error });
            }
        }
    }

    /// Lets go of what is not needed: all but the newest two; and what is damaged, once there are two again.
    fn tidy(&mut self) {
        let older = self.snapshots().nth(KEPT - 1).map(|info| info.base().index);
        while let Some(at) = self.files.iter().position(|kept| {
            let superseded = older.is_some_and(|older| kept.info().is_none() || kept.index < older);
            (superseded || kept.replaced) && kept.reads == 0 && kept.holds == 0
        }) {
            let kept = self.files.remove(at);
            let name = (!kept.replaced).then(|| kept.name());
            self.retiring.push_back(Retiring::new(name, kept.file));
        }
    }

    pub(super) fn tell(&mut self, event: StoreEvent) {
        self.events.push_back(event);
    }
}
