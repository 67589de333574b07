//! The table of open directories, files, listeners and connections of one `Io`.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use crate::Handle;
use crate::files::{DataFile, Dir};
use crate::lock::Lock;

/// What a handle stands for.
#[derive(Debug)]
pub(crate) enum Object {
    Dir(Arc<Dir>),
    /// It goes with its last descriptor.
    Lock(Lock),
    File(Arc<DataFile>),
    Listener(OwnedFd),
    Connection(OwnedFd),
}

/// One open object and what is outstanding on it.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) object: Object,
    /// Operations outstanding on it.
    pub(crate) busy: u32,
    /// `Op::Shutdown` came: nothing but `Canceled` from here on.
    pub(crate) shut: bool,
    /// The slot of the receive or accept outstanding.
    pub(crate) reader: Option<u32>,
    /// The slot of the send or connect outstanding.
    pub(crate) writer: Option<u32>,
}

#[derive(Debug)]
struct Entry {
    /// Changes with every close, so that a stale handle never names a newer object.
    generation: u16,
    open: Option<Open>,
}

#[derive(Debug)]
pub(crate) struct Handles {
    entries: Vec<Entry>,
    free: Vec<u16>,
}

impl Handles {
    pub(crate) fn new(count: usize) -> Handles {
        assert!(count > 0 && count <= crate::limits::MAX_HANDLES, "handles: {count}");
        Handles {
            entries: (0..count).map(|_| Entry { generation: 0, open: None }).collect(),
            free: (0..count).rev().map(|index| index as u16).collect(),
        }
    }

    /// The place of a handle in the table.
    pub(crate) const fn index(handle: Handle) -> usize {
        (handle.0 & 0xffff) as usize
    }

    /// Installs an object; None (and the object is closed) if the table is full.
    pub(crate) fn insert(&mut self, object: Object) -> Option<Handle> {
        let index = self.free.pop()?;
        let entry = &mut self.entries[usize::from(index)];
        entry.open = Some(Open { object, busy: 0, shut: false, reader: None, writer: None });
        Some(Handle(u32::from(entry.generation) << 16 | u32::from(index)))
    }

    /// The object, unless the handle is stale or was never given.
    pub(crate) fn get(&mut self, handle: Handle) -> Option<&mut Open> {
        let entry = self.entries.get_mut(Handles::index(handle))?;
        if u32::from(entry.generation) != handle.0 >> 16 {
            return None;
        }
        entry.open.as_mut()
    }

    pub(crate) fn remove(&mut self, handle: Handle) -> Option<Open> {
        self.get(handle)?;
        let entry = &mut self.entries[Handles::index(handle)];
        let open = entry.open.take();
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(Handles::index(handle) as u16);
        open
    }

    /// Takes every lock out, at the end.
    pub(crate) fn locks(&mut self) -> impl Iterator<Item = Lock> {
        self.entries.iter_mut().filter_map(|entry| match entry.open.take()?.object {
            Object::Lock(lock) => Some(lock),
            _ => None,
        })
    }

    pub(crate) fn dir(&mut self, handle: Handle) -> Result<Arc<Dir>, i32> {
        match self.get(handle) {
            Some(Open { object: Object::Dir(dir), .. }) => Ok(Arc::clone(dir)),
            _ => Err(libc::EBADF),
        }
    }

    pub(crate) fn file(&mut self, handle: Handle) -> Result<Arc<DataFile>, i32> {
        match self.get(handle) {
            Some(Open { object: Object::File(file), .. }) => Ok(Arc::clone(file)),
            _ => Err(libc::EBADF),
        }
    }

    /// A connection, for one more operation on it.
    pub(crate) fn connection(&mut self, handle: Handle) -> Result<(RawFd, &mut Open), i32> {
        match self.get(handle) {
            Some(open) => match &open.object {
                Object::Connection(fd) => Ok((fd.as_raw_fd(), open)),
                _ => Err(libc::ENOTSOCK),
            },
            None => Err(libc::EBADF),
        }
    }

    /// A listener, for one more operation on it.
    pub(crate) fn listener(&mut self, handle: Handle) -> Result<(RawFd, &mut Open), i32> {
        match self.get(handle) {
            Some(open) => match &open.object {
                Object::Listener(fd) => Ok((fd.as_raw_fd(), open)),
                _ => Err(libc::ENOTSOCK),
            },
            None => Err(libc::EBADF),
        }
    }

    /// Counts one more outstanding operation.
    pub(crate) fn begin(&mut self, handle: Handle) {
        if let Some(open) = self.get(handle) {
            open.busy += 1;
        }
    }

    /// Counts one less.
    pub(crate) fn end(&mut self, handle: Handle, slot: u32) {
        if let Some(open) = self.get(handle) {
            assert!(open.busy > 0, "completion of an operation that was not counted on {handle:?}");
            open.busy -= 1;
            if open.reader == Some(slot) {
                open.reader = None;
            }
            if open.writer == Some(slot) {
                open.writer = None;
            }
        }
    }

    pub(crate) fn is_shut(&mut self, handle: Handle) -> bool {
        self.get(handle).is_some_and(|open| open.shut)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn object() -> Object {
        Object::Connection(std::fs::File::open("/dev/null").unwrap().into())
    }

    #[test]
    fn a_stale_handle_names_nothing() {
        let mut table = Handles::new(1);
        let first = table.insert(object()).unwrap();
        assert!(table.insert(object()).is_none());
        assert!(table.remove(first).is_some());
        let second = table.insert(object()).unwrap();
        assert_ne!(first, second);
        assert!(table.get(first).is_none() && table.remove(first).is_none());
        assert!(table.get(second).is_some());
        assert!(table.get(Handle(7)).is_none());
    }
}
