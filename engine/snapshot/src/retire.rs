//! A file that is not needed any more goes: its name, durably, then its handle.

use kontiki_io::{Handle, IoError, IoErrorKind, Name, Op, Output};

use crate::names;
use crate::work::{Done, Kind, failed};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Unlink,
    SyncDir,
    Close,
}

/// A file on its way out.
#[derive(Debug)]
pub(crate) struct Retiring {
    /// Its name, if that is to go.
    name: Option<Name>,
    file: Option<Handle>,
    step: Step,
}

impl Retiring {
    /// `name`: to be removed; else the file is only closed.
    pub(crate) fn new(name: Option<Name>, file: Option<Handle>) -> Retiring {
        let step = if name.is_some() { Step::Unlink } else { Step::Close };
        Retiring { name, file, step }
    }

    pub(crate) fn file(&self) -> Option<Handle> {
        self.file
    }

    /// Its name, while that is not known to be gone.
    pub(crate) fn name(&self) -> Option<&Name> {
        self.name.as_ref().filter(|_| self.step == Step::Unlink)
    }

    /// None once it is gone.
    pub(crate) fn op(&mut self, dir: Handle) -> Option<Op> {
        match (self.step, &self.name) {
            (Step::Unlink, Some(name)) => Some(Op::Unlink { dir, name: name.clone() }),
            (Step::SyncDir, _) => Some(Op::SyncDir { dir }),
            _ => self.file.map(|handle| Op::Close { handle }),
        }
    }

    pub(crate) fn done(&mut self, result: Result<Output, IoError>) -> Done {
        let name = self.name.clone().unwrap_or_else(|| names::plain(names::NEW));
        match (self.step, result) {
            (Step::Unlink, Err(error)) if error.kind == IoErrorKind::NotFound => self.step = Step::SyncDir,
            (Step::Unlink, Err(error)) => return failed(Kind::Plain, "remove", name, error),
            (Step::Unlink, Ok(_)) => self.step = Step::SyncDir,
            (Step::SyncDir, Err(error)) => return failed(Kind::Names, "make durable the removal of", name, error),
            (Step::SyncDir, Ok(_)) if self.file.is_some() => self.step = Step::Close,
            (Step::SyncDir, Ok(_)) => return Done::Over,
            (Step::Close, _) => {
                // How its handle ends changes nothing.
                self.file = None;
                return Done::Over;
            }
        }
        Done::Goes
    }
}
