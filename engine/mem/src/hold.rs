//! Keeps what tickets rest on: the slab, the records of their batches, and a value of the engine's own; by a count of
//! references that are taken, and let go of, by many at once.
//!
//! As `Arc`, without weak references. A caller that proposes and takes answers in runs would otherwise pay two
//! read-modify-writes for each ticket's reference, which is a good part of what a proposal costs it.
//!
//! Slab and records are chosen when it is made, for good: a ticket finds its slot, and its outcome, in the same place
//! as long as it lives.

use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::ptr::NonNull;

use crate::records::Records;
use crate::sync::{Arc, AtomicUsize, Ordering};
use crate::tickets::{Slab, Tickets};

/// More references than any sane program has: past it the count is taken for one about to overflow.
const MAX_REFERENCES: usize = usize::MAX / 2;

pub(crate) struct Kept<T> {
    references: AtomicUsize,
    slab: Arc<Slab>,
    /// Where the outcomes of batches stand, if tickets are put into batches.
    records: Option<Records>,
    value: T,
}

impl<T> Kept<T> {
    #[inline]
    pub(crate) fn slab(&self) -> &Slab {
        &self.slab
    }

    #[inline]
    pub(crate) fn records(&self) -> Option<&Records> {
        self.records.as_ref()
    }
}

/// A reference to a value, and to where tickets are taken from ([`Hold::take`]). Both live until the last reference is
/// gone.
pub struct Hold<T> {
    kept: NonNull<Kept<T>>,
    owns: PhantomData<Kept<T>>,
}

// SAFETY: as for `Arc`: a reference gives access to the value from its thread (`Sync`), and the last one drops it there
// (`Send`).
unsafe impl<T: Send + Sync> Send for Hold<T> {}
// SAFETY: as above; a `&Hold` can be cloned.
unsafe impl<T: Send + Sync> Sync for Hold<T> {}

impl<T> Unpin for Hold<T> {}

impl<T> Hold<T> {
    /// The first reference to `value`, and to the slab of an open batch: its tickets are put into batches.
    pub fn new(value: T, records: Records) -> Hold<T> {
        Hold::of(value, records.slab(), Some(records))
    }

    /// The first reference to `value`, and to a slab of tickets that are resolved one by one
    /// ([`Resolver::resolve`](crate::Resolver::resolve)).
    pub fn alone(value: T, tickets: &Tickets) -> Hold<T> {
        Hold::of(value, tickets.slab(), None)
    }

    fn of(value: T, slab: Arc<Slab>, records: Option<Records>) -> Hold<T> {
        let kept = Box::leak(Box::new(Kept { references: AtomicUsize::new(1), slab, records, value }));
        Hold { kept: NonNull::from(kept), owns: PhantomData }
    }

    #[inline]
    pub(crate) fn kept(&self) -> &Kept<T> {
        // SAFETY: allocated in `new`, and freed only once all references are gone, of which this is one.
        unsafe { self.kept.as_ref() }
    }

    fn add(&self, references: usize) {
        // Relaxed: this reference keeps the value alive, as in `Arc`.
        let before = self.kept().references.fetch_add(references, Ordering::Relaxed);
        // As `Arc` does. A panic would leave the count as it is, and could be caught and repeated.
        if before.max(references) > MAX_REFERENCES {
            std::process::abort();
        }
    }

    /// So many more, by one step.
    pub(crate) fn more(&self, references: usize) -> Holds<T> {
        self.add(references);
        Holds { kept: self.kept, references, owns: PhantomData }
    }
}

impl<T> Clone for Hold<T> {
    fn clone(&self) -> Hold<T> {
        self.add(1);
        Hold { kept: self.kept, owns: PhantomData }
    }
}

impl<T> Deref for Hold<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.kept().value
    }
}

impl<T> Drop for Hold<T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: this reference is one, and is gone with this.
        unsafe { release(self.kept, 1) }
    }
}

impl<T: fmt::Debug> fmt::Debug for Hold<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// Lets `references` go, and with the last one the value.
///
/// # Safety
/// They are the caller's, and it uses none of them any more.
unsafe fn release<T>(kept: NonNull<Kept<T>>, references: usize) {
    // SAFETY: alive, since some of its references are the caller's.
    let before = unsafe { kept.as_ref() }.references.fetch_sub(references, Ordering::AcqRel);
    // Release and Acquire: whoever drops the value does so after all others are done with it.
    if before == references {
        // SAFETY: from `Box::leak` in `Hold::new`; nobody else has a reference, and without one nobody gets any.
        drop(unsafe { Box::from_raw(kept.as_ptr()) });
    }
}

/// References to one value: handed out, and taken back, without touching the count.
pub(crate) struct Holds<T> {
    kept: NonNull<Kept<T>>,
    references: usize,
    owns: PhantomData<Kept<T>>,
}

impl<T> Holds<T> {
    /// A reference out of these.
    #[inline]
    pub(crate) fn one(&mut self) -> Option<Hold<T>> {
        self.references = self.references.checked_sub(1)?;
        Some(Hold { kept: self.kept, owns: PhantomData })
    }

    /// What is kept, while there is one here to keep it.
    pub(crate) fn kept(&self) -> Option<&Kept<T>> {
        if self.references == 0 {
            return None;
        }
        // SAFETY: alive, as one of its references is here, and stays while this is borrowed.
        Some(unsafe { self.kept.as_ref() })
    }

    /// Puts one of the same value to these; else gives it back.
    #[inline]
    pub(crate) fn put(&mut self, hold: Hold<T>) -> Result<(), Hold<T>> {
        if hold.kept != self.kept {
            return Err(hold);
        }
        // Its reference is counted here from now on.
        let _ = ManuallyDrop::new(hold);
        self.references += 1;
        Ok(())
    }
}

impl<T> From<Hold<T>> for Holds<T> {
    fn from(hold: Hold<T>) -> Holds<T> {
        let hold = ManuallyDrop::new(hold);
        Holds { kept: hold.kept, references: 1, owns: PhantomData }
    }
}

impl<T> Drop for Holds<T> {
    fn drop(&mut self) {
        if self.references > 0 {
            // SAFETY: so many are here, and are gone with this.
            unsafe { release(self.kept, self.references) }
        }
    }
}

#[cfg(all(test, not(loom)))]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    fn hold<T>(value: T) -> Hold<T> {
        Hold::alone(value, &Tickets::new(0, 0))
    }

    /// Tells when it is dropped.
    struct Told(Rc<Cell<u32>>);

    impl Drop for Told {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }

    #[test]
    fn the_value_goes_with_the_last_reference_once() {
        let dropped = Rc::new(Cell::new(0));
        let hold = hold(Told(Rc::clone(&dropped)));
        let mut more = hold.more(3);
        let (one, two) = (more.one().unwrap(), more.one().unwrap());
        let copy = one.clone();
        drop((hold, more));
        let mut back = Holds::from(one);
        assert!(back.put(two).is_ok());
        assert!(back.put(self::hold(Told(Rc::default()))).is_err(), "another value's");
        drop(back);
        assert_eq!(dropped.get(), 0, "the copy keeps it");
        drop(copy);
        assert_eq!(dropped.get(), 1);
    }

    #[test]
    fn as_many_as_were_asked_for() {
        let hold = hold(7);
        let mut none = hold.more(0);
        assert!(none.one().is_none());
        let mut two = hold.more(2);
        assert_eq!(std::iter::from_fn(|| two.one()).map(|hold| *hold).collect::<Vec<_>>(), [7, 7]);
    }
}
