//! The end of a store: what is being made is given up, every file is closed.

use kontiki_io::{Io, Op};

use super::{Active, Maker, Store};

impl Store {
    /// Ends: what is being made is given up, every file closed. Go on with [`pump`](Store::pump) and
    /// [`on_completion`](Store::on_completion) until [`closed`](Store::closed); to be done before the log gives up its
    /// lock.
    pub fn close(&mut self, io: &mut dyn Io) {
        if self.closing.is_none() {
            self.closing = Some(vec![self.dir]);
            self.deadline = None;
            self.close_on(io);
        }
    }

    /// Whether [`close`](Store::close) is done.
    pub fn closed(&self) -> bool {
        self.closing.as_ref().is_some_and(Vec::is_empty)
    }

    pub(super) fn close_on(&mut self, io: &mut dyn Io) {
        if self.active.is_some() || self.verifying || self.reads.in_progress() > 0 {
            return;
        }
        let Some(handles) = &mut self.closing else { return };
        handles.extend(self.files.drain(..).filter_map(|kept| kept.file));
        handles.extend(self.space.take().map(|(file, _)| file));
        handles.extend(self.retiring.drain(..).filter_map(|retiring| retiring.file()));
        handles.extend(match self.maker.take() {
            Some(Maker::Own(writing)) => writing.space().map(|(file, _)| file),
            Some(Maker::Fetch(receiving)) => receiving.file(),
            None => None,
        });
        if let Some(&handle) = handles.last() {
            self.submit(Active::Closing, Op::Close { handle }, io);
        }
    }
}
