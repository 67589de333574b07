//! The slot table: one entry per outstanding operation, owning everything the kernel may touch for it.

use std::cell::UnsafeCell;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::files::{CName, DataFile, Dir};
use crate::name::MAX_NAME_BYTES;
use crate::sockets::{self, RawAddr};
use crate::{Gather, Handle, IoBuf, IoData, MAX_PIECES, Token};

/// What an outstanding operation does, with the memory it holds. Nothing in here is dropped or handed on
/// before the operation's last completion; some of it is held for that alone.
#[derive(Debug)]
#[allow(dead_code)]
pub(super) enum Work {
    /// No operation: the slot is free.
    Free,
    Read(Read),
    Write(Write),
    Recv {
        fd: i32,
        buf: IoBuf,
        at: usize,
        len: usize,
    },
    Send {
        fd: i32,
        gather: Gather,
        done: usize,
        total: usize,
    },
    Accept {
        fd: i32,
    },
    Connect {
        socket: OwnedFd,
        addr_len: libc::socklen_t,
    },
    Open {
        dir: Arc<Dir>,
        create: bool,
        direct: bool,
    },
    Allocate {
        file: Arc<DataFile>,
        len: u64,
    },
    Sync {
        file: Arc<DataFile>,
    },
    SyncDir {
        dir: Arc<Dir>,
    },
    Rename {
        dir: Arc<Dir>,
    },
    Unlink {
        dir: Arc<Dir>,
    },
    /// The cancellation of another slot's operation.
    Cancel,
    /// With the resolver.
    Lookup,
    /// With the file worker, which holds the memory.
    Worker {
        dir: Option<Arc<Dir>>,
    },
}

/// A read under way.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) file: Arc<DataFile>,
    /// The file's index in the ring's table, if it stands there.
    pub(super) fixed: Option<u32>,
    pub(super) buf: IoBuf,
    pub(super) offset: u64,
    pub(super) len: usize,
    /// Bytes read by earlier parts.
    pub(super) done: usize,
}

/// A write under way.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) file: Arc<DataFile>,
    /// The file's index in the ring's table, if it stands there.
    pub(super) fixed: Option<u32>,
    pub(super) data: IoData,
    pub(super) offset: u64,
    /// Bytes written by earlier parts.
    pub(super) done: usize,
    pub(super) durable: bool,
    /// A flush is linked to the part under way.
    pub(super) linked: bool,
}

impl Write {
    /// Whether a failure may be that of a flush through the page cache: the kernel may then have dropped what other
    /// writes put there, and tells that once. Past the page cache there is nothing of others' to drop.
    pub(super) fn may_have_flushed(&self) -> bool {
        self.durable && !self.linked && !self.file.is_direct()
    }
}

impl Work {
    /// Whether it is done to files or directories, and can have been put off until the kernel has a thread for it.
    pub(super) fn is_of_files(&self) -> bool {
        matches!(
            self,
            Work::Read(_)
                | Work::Write(_)
                | Work::Open { .. }
                | Work::Allocate { .. }
                | Work::Sync { .. }
                | Work::SyncDir { .. }
                | Work::Rename { .. }
                | Work::Unlink { .. }
        )
    }
}

/// One outstanding operation.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) token: Token,
    /// What it is counted on.
    pub(super) handle: Option<Handle>,
    pub(super) work: Work,
    /// Completions the kernel still owes.
    pub(super) owed: u8,
    /// Results of the parts of a linked write: the write's and the flush's.
    pub(super) results: [i32; 2],
}

/// What the kernel reads and writes beside the buffers, at a fixed place for as long as the slot is taken.
#[repr(C)]
pub(super) struct Scratch {
    pub(super) pieces: [libc::iovec; MAX_PIECES],
    pub(super) message: libc::msghdr,
    pub(super) addr: RawAddr,
    pub(super) addr_len: libc::socklen_t,
    pub(super) names: [[u8; MAX_NAME_BYTES + 1]; 2],
}

/// The slots, their scratch memory and the free list; all made at start.
pub(super) struct Slots {
    entries: Vec<Slot>,
    free: Vec<u32>,
    scratch: Box<[UnsafeCell<Scratch>]>,
}

// SAFETY: the pointers in `scratch` (iovecs, message headers) point into buffers that the same slot owns, or into
// the scratch itself; they are followed by the kernel alone. Everything else in here is Send by itself.
unsafe impl Send for Slots {}

impl Slots {
    pub(super) fn new(capacity: usize) -> Slots {
        let entry = |_| Slot { token: Token(0), handle: None, work: Work::Free, owed: 0, results: [0; 2] };
        let scratch = |_| {
            // SAFETY: numbers, byte arrays and null pointers: all zeros is valid.
            UnsafeCell::new(unsafe { std::mem::zeroed() })
        };
        Slots {
            entries: (0..capacity).map(entry).collect(),
            free: (0..capacity as u32).rev().collect(),
            scratch: (0..capacity).map(scratch).collect(),
        }
    }

    pub(super) fn capacity(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn take(&mut self, token: Token, handle: Option<Handle>) -> u32 {
        let Some(index) = self.free.pop() else {
            panic!("more than {} operations outstanding: the submitter must keep to Io::capacity", self.entries.len())
        };
        let slot = self.get(index);
        slot.token = token;
        slot.handle = handle;
        slot.owed = 0;
        index
    }

    /// Frees a slot of which the kernel is done.
    pub(super) fn release(&mut self, index: u32) -> (Token, Option<Handle>) {
        let slot = self.get(index);
        assert!(slot.owed == 0, "slot {index} freed with {} completions owed", slot.owed);
        slot.work = Work::Free;
        let out = (slot.token, slot.handle);
        self.free.push(index);
        out
    }

    /// Indexes come from this table or from completions of what was submitted with them.
    pub(super) fn get(&mut self, index: u32) -> &mut Slot {
        &mut self.entries[index as usize]
    }

    /// The slot's scratch. Valid as long as the table, wherever the table is moved.
    pub(super) fn scratch(&self, index: u32) -> *mut Scratch {
        self.scratch[index as usize].get()
    }

    /// Slots with completions owed by the kernel.
    pub(super) fn in_kernel(&self) -> impl Iterator<Item = u32> + '_ {
        self.entries.iter().enumerate().filter(|(_, slot)| slot.owed > 0).map(|(index, _)| index as u32)
    }

    pub(super) fn set_name(&mut self, index: u32, which: usize, name: &crate::Name) -> *const libc::c_char {
        let scratch = self.scratch(index);
        // SAFETY: the scratch lives as long as the table, and the kernel is not using it: this slot has nothing
        // outstanding when its name is set.
        unsafe {
            let place = &raw mut (*scratch).names[which];
            place.write(*CName::new(name).bytes());
            place.cast::<libc::c_char>().cast_const()
        }
    }

    pub(super) fn name(&self, index: u32, which: usize) -> *const libc::c_char {
        // SAFETY: in bounds of live scratch memory; only the address is taken.
        unsafe { (&raw const (*self.scratch(index)).names[which]).cast() }
    }

    /// Clears the address for an accept to fill; its place and its length's.
    pub(super) fn accept_addr(&mut self, index: u32) -> (*mut libc::sockaddr, *mut libc::socklen_t) {
        let scratch = self.scratch(index);
        // SAFETY: live scratch memory that the kernel is not using yet.
        unsafe {
            (&raw mut (*scratch).addr).write(sockets::empty_addr());
            (&raw mut (*scratch).addr_len).write(size_of::<RawAddr>() as libc::socklen_t);
            ((&raw mut (*scratch).addr).cast(), &raw mut (*scratch).addr_len)
        }
    }

    /// Writes the address to connect to; its length.
    pub(super) fn set_addr(&mut self, index: u32, addr: std::net::SocketAddr) -> libc::socklen_t {
        let mut raw = sockets::empty_addr();
        let len = sockets::encode(addr, &mut raw);
        // SAFETY: live scratch memory that the kernel is not using yet.
        unsafe { (&raw mut (*self.scratch(index)).addr).write(raw) };
        len
    }

    pub(super) fn addr_place(&self, index: u32) -> *const libc::sockaddr {
        // SAFETY: in bounds of live scratch memory; only the address is taken.
        unsafe { (&raw const (*self.scratch(index)).addr).cast() }
    }

    /// The address that an accept filled in.
    pub(super) fn addr(&self, index: u32) -> std::net::SocketAddr {
        // SAFETY: live scratch memory; the accept has completed, so the kernel writes no more.
        sockets::decode(&unsafe { (&raw const (*self.scratch(index)).addr).read() })
    }

    /// Lays out what of `gather` is left after `done` bytes; the message header over it, or the one piece.
    pub(super) fn set_pieces(&mut self, index: u32, gather: &Gather, done: usize) -> Layout {
        let scratch = self.scratch(index);
        let mut skip = done;
        let mut count = 0;
        for bytes in gather.slices() {
            if skip >= bytes.len() {
                skip -= bytes.len();
                continue;
            }
            let left = &bytes[skip..];
            skip = 0;
            let piece = libc::iovec { iov_base: left.as_ptr().cast_mut().cast(), iov_len: left.len() };
            // SAFETY: live scratch memory that the kernel is not using (the last part has completed), and at most
            // MAX_PIECES pieces, which is the bound of the gather's own table.
            unsafe { (&raw mut (*scratch).pieces[count]).write(piece) };
            count += 1;
        }
        // SAFETY: as above. A message header is plain; the pointers in it stay valid with the scratch.
        unsafe {
            if count == 1 {
                let piece = (&raw const (*scratch).pieces[0]).read();
                return Layout::One(piece.iov_base.cast_const().cast(), piece.iov_len);
            }
            let mut message: libc::msghdr = std::mem::zeroed();
            message.msg_iov = (&raw mut (*scratch).pieces).cast();
            message.msg_iovlen = count as _;
            (&raw mut (*scratch).message).write(message);
            Layout::Many(&raw const (*scratch).message)
        }
    }
}

/// How the rest of a send lies in memory.
pub(super) enum Layout {
    /// One run of bytes.
    One(*const u8, usize),
    /// Several, under a message header.
    Many(*const libc::msghdr),
}
