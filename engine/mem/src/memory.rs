//! Fixed regions of memory, from the kernel or the allocator: the raw ground that ring, pool and tables stand on.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::io;
use std::ptr::NonNull;

use crate::BLOCK_BYTES;

/// True if a mirrored region really shows its bytes twice. Under Miri and loom, which know no `mmap`, it is
/// plain memory of twice the size: a wrapped block then has bytes of its own, which no user can tell.
pub(crate) const MIRRORED: bool = cfg!(not(any(miri, loom)));

/// Regions of at least this many bytes come from the kernel.
#[cfg(not(any(miri, loom)))]
const MAPPED_FROM_BYTES: usize = 128 << 10;

/// A region of zeroed, aligned memory that neither moves nor grows. It hands out raw pointers: who may use
/// which range, and when, is the business of its owner.
pub(crate) struct Memory {
    base: NonNull<u8>,
    bytes: usize,
    origin: Origin,
}

enum Origin {
    Heap(Layout),
    #[cfg(not(any(miri, loom)))]
    Mapping,
}

// SAFETY: `Memory` is an address range that it owns; it reads and writes nothing itself. Every access goes
// through `slice` and `slice_mut`, whose contracts rule out data races.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// `bytes` of zeroed memory, aligned to [`BLOCK_BYTES`]. A page of a large region is touched by its use, not
    /// before: an allocator would write zeros into all of an aligned region, and what is never used would take
    /// memory.
    pub(crate) fn zeroed(bytes: usize) -> Memory {
        #[cfg(not(any(miri, loom)))]
        if bytes >= MAPPED_FROM_BYTES {
            // SAFETY: a fresh anonymous mapping, placed by the kernel: it replaces no other.
            let raw = unsafe {
                let access = libc::PROT_READ | libc::PROT_WRITE;
                libc::mmap(std::ptr::null_mut(), bytes, access, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
            };
            if raw != libc::MAP_FAILED
                && let Some(base) = NonNull::new(raw.cast::<u8>())
            {
                return Memory { base, bytes, origin: Origin::Mapping };
            }
        }
        Memory::heap(bytes)
    }

    /// The same from the allocator.
    fn heap(bytes: usize) -> Memory {
        let size = bytes.max(1);
        let Ok(layout) = Layout::from_size_align(size, BLOCK_BYTES) else {
            panic!("a region of {bytes} bytes exceeds the address space");
        };
        // SAFETY: the layout's size is at least one byte.
        let raw = unsafe { alloc_zeroed(layout) };
        let Some(base) = NonNull::new(raw) else { handle_alloc_error(layout) };
        Memory { base, bytes, origin: Origin::Heap(layout) }
    }

    /// `bytes` of memory that appear twice, one copy behind the other, so that a range which runs over the end
    /// of the first is contiguous all the same. The region is `2 * bytes` long.
    #[cfg(any(miri, loom))]
    pub(crate) fn mirrored(bytes: usize) -> io::Result<Memory> {
        Ok(Memory::heap(2 * bytes))
    }

    /// `bytes` of memory that appear twice, one copy behind the other, so that a range which runs over the end
    /// of the first is contiguous all the same. The region is `2 * bytes` long.
    ///
    /// `bytes` must be a multiple of the page size and at most half the address space.
    #[cfg(not(any(miri, loom)))]
    pub(crate) fn mirrored(bytes: usize) -> io::Result<Memory> {
        use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

        let (Some(both), Ok(length)) = (bytes.checked_mul(2), libc::off_t::try_from(bytes)) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        // SAFETY: the name is a NUL-terminated string; the call takes no other memory.
        let fd = unsafe { libc::memfd_create(c"kontiki-ring".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just opened and belongs to nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: plain system call on a descriptor we own.
        if unsafe { libc::ftruncate(fd.as_raw_fd(), length) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh anonymous reservation, placed by the kernel: it replaces no mapping.
        let raw = unsafe {
            libc::mmap(std::ptr::null_mut(), both, libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE, -1, 0)
        };
        if raw == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let Some(base) = NonNull::new(raw.cast::<u8>()) else {
            return Err(io::ErrorKind::OutOfMemory.into());
        };
        // From here on the reservation is unmapped on every way out.
        let memory = Memory { base, bytes: both, origin: Origin::Mapping };
        for half in [0, bytes] {
            // SAFETY: `half..half + bytes` lies within the reservation that we own and nobody has used yet, so
            // MAP_FIXED replaces nothing else.
            let placed = unsafe {
                libc::mmap(
                    base.as_ptr().add(half).cast(),
                    bytes,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_SHARED | libc::MAP_FIXED,
                    fd.as_raw_fd(),
                    0,
                )
            };
            if placed == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
        }
        // A shared mapping survives a fork as shared memory: keep a child's hands off it. Best effort.
        // SAFETY: the range is exactly our own mapping.
        let _ = unsafe { libc::madvise(base.as_ptr().cast(), both, libc::MADV_DONTFORK) };
        Ok(memory)
    }

    /// Length of the region, in bytes (of both copies, if it is mirrored).
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The address of byte `offset`, valid for the whole rest of the region.
    #[inline]
    pub(crate) fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset <= self.bytes, "offset {offset} outside a region of {} bytes", self.bytes);
        // SAFETY: the sum lies within, or one past, our own region, whose size fits `isize` (a `Layout`'s does by
        // contract, a mapping's because the kernel placed it in the lower half of the address space).
        unsafe { self.base.as_ptr().add(offset) }
    }

    /// Bytes `offset..offset + len`.
    ///
    /// # Safety
    /// Nobody, the kernel included, writes the range while the slice lives.
    #[inline]
    pub(crate) unsafe fn slice(&self, offset: usize, len: usize) -> &[u8] {
        assert!(len <= self.bytes && offset <= self.bytes - len, "range outside the region");
        // SAFETY: in bounds by the assertion, initialised (zeroed when made), unaliased by the caller's promise;
        // the region lives at least as long as the borrow of `self`.
        unsafe { std::slice::from_raw_parts(self.at(offset), len) }
    }

    /// Bytes `offset..offset + len`, to write.
    ///
    /// # Safety
    /// Nobody else, the kernel included, reads or writes the range while the slice lives, neither here nor in
    /// the mirror image.
    #[inline]
    #[allow(clippy::mut_from_ref)] // The owner of the region, not `self`, says who may write what.
    pub(crate) unsafe fn slice_mut(&self, offset: usize, len: usize) -> &mut [u8] {
        assert!(len <= self.bytes && offset <= self.bytes - len, "range outside the region");
        // SAFETY: as in `slice`, and exclusive by the caller's promise. The slice comes straight from the raw
        // base, so it invalidates no other slice of the region.
        unsafe { std::slice::from_raw_parts_mut(self.at(offset), len) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        match self.origin {
            // SAFETY: allocated in `heap` with this very layout, freed once, here.
            Origin::Heap(layout) => unsafe { dealloc(self.base.as_ptr(), layout) },
            #[cfg(not(any(miri, loom)))]
            Origin::Mapping => {
                // SAFETY: mapped in `zeroed` or `mirrored` with this very length, unmapped once, here. Handles keep the region
                // alive, so nobody holds a pointer into it.
                let failed = unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
                debug_assert_eq!(failed, 0, "munmap of our own mapping");
            }
        }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}
