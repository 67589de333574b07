//! The orderly end of a log: what was asked for is written, where the log ends is noted, every file is closed.
//!
//! Only the log's own writes are waited for before the note. What else is under way (a read, a step of preparing a
//! segment, however slow the disk) holds up the closing of the files, not the note; and nothing new is begun.

use kontiki_io::{Handle, Io, Op};

use crate::Wal;
use crate::segments::Segments;
use crate::token::Purpose;

/// How far the end of a log has come.
#[derive(Debug)]
pub(crate) enum Closing {
    /// What was queued before the end is written.
    Writing,
    /// The hard state is told where the log ends.
    Noting,
    /// What else is outstanding comes back.
    Waiting,
    /// Files still to be closed, the one under way last.
    Files(Vec<Handle>),
}

impl Wal {
    /// Ends the log in order: writes what was handed over, notes in the hard state that the log was closed and where it
    /// ends, and closes every file, the lock last. Call it at any time, go on with [`Wal::pump`] and
    /// [`Wal::on_completion`], and ask [`Wal::closed`] whether it is done. Nothing may be appended or saved any
    /// more. After a failure nothing is noted.
    pub fn close(&mut self, io: &mut dyn Io) {
        if self.closing.is_none() {
            self.closing = Some(Closing::Writing);
            self.close_on(io);
        }
    }

    /// Whether [`Wal::close`] is done.
    pub fn closed(&self) -> bool {
        matches!(&self.closing, Some(Closing::Files(files)) if files.is_empty())
    }

    /// Goes on with the end, if it has begun.
    pub(crate) fn close_on(&mut self, io: &mut dyn Io) {
        if let (Some(Closing::Writing | Closing::Noting), None) = (&self.closing, &self.poison) {
            self.try_again(io);
        }
        if let Some(Closing::Writing) = self.closing {
            if self.poison.is_none() {
                if self.appender.chain_is_due() {
                    self.name_chain(io);
                }
                self.saver.pump(self.appender.durable(), io);
                self.appender.pump(self.margin.under_way(), io);
                if !self.appender.idle() || !self.saver.idle() {
                    return;
                }
                self.saver.close(self.end, self.appender.durable(), io);
            }
            self.closing = Some(Closing::Noting);
        }
        if let Some(Closing::Noting) = self.closing
            && (self.saver.idle() || self.poison.is_some())
        {
            self.closing = Some(Closing::Waiting);
        }
        if let Some(Closing::Waiting) = self.closing {
            self.preparer.leave_waiting();
        }
        if let Some(Closing::Waiting) = self.closing
            && self.appender.in_flight() + self.reads.in_progress() == 0
            && !self.saver.busy()
            && self.margin.under_way().is_none()
            && !self.preparer.busy()
        {
            let segments = std::mem::replace(&mut self.segments, Segments::none());
            // Closed from the end: the lock goes last.
            let mut files = vec![self.lock, self.dir, self.saver.file()];
            files.extend(segments.into_handles());
            files.extend(self.preparer.left_open());
            self.closing = Some(Closing::Files(files));
            self.close_file(io);
        }
    }

    /// A file was closed. How that ended changes nothing: all that counts is durable.
    pub(crate) fn file_closed(&mut self, io: &mut dyn Io) {
        if let Some(Closing::Files(files)) = &mut self.closing {
            files.pop();
        }
        self.close_file(io);
    }

    fn close_file(&mut self, io: &mut dyn Io) {
        if let Some(Closing::Files(files)) = &self.closing
            && let Some(&handle) = files.last()
        {
            io.submit(Purpose::Close.token(), Op::Close { handle });
        }
    }
}
