//! The entries inside a frame.

use kontiki_core::{IndexRange, LogIndex, Term};

use crate::fields::{put, u32_at, u64_at};
use crate::{BODY_OFFSET, ENTRY_LENGTH_BYTES, FrameError, Header, SESSION_PREFIX_BYTES};

/// One entry, borrowed from its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its index.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
    /// The client's session and the sequence number within it, if the frame carries them.
    pub session: Option<(u64, u64)>,
    /// What was proposed.
    pub payload: &'a [u8],
}

/// The first entry of `body` (prefix and payload together) and what follows it.
fn split_first(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_, rest) = body.split_at_checked(ENTRY_LENGTH_BYTES)?;
    rest.split_at_checked(u32_at(body, 0) as usize)
}

/// Checks that `header.meta.count` entries fill `body`, no byte over.
pub(crate) fn check_tiling(body: &[u8], header: &Header) -> Result<(), FrameError> {
    let least = if header.sessions { SESSION_PREFIX_BYTES } else { 0 };
    let mut rest = body;
    for ordinal in 0..header.meta.count {
        match split_first(rest) {
            Some((entry, after)) if entry.len() >= least => rest = after,
            _ => return Err(FrameError::Entry { ordinal }),
        }
    }
    if rest.is_empty() { Ok(()) } else { Err(FrameError::Entry { ordinal: header.meta.count }) }
}

/// The entries of a frame that lie in a range, in order, without allocation: see [`entries`].
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    rest: &'a [u8],
    term: Term,
    sessions: bool,
    next: u64,
    from: u64,
    /// One past the last.
    end: u64,
}

/// The entries of a frame that lie in `range`, in order, without allocation. `header` is the frame's own, as
/// [`crate::verify`] gave it; of a frame that was never verified the walk ends at the first impossible entry.
pub fn entries<'a>(frame: &'a [u8], header: &Header, range: IndexRange) -> Entries<'a> {
    let Header { meta, sessions, body_bytes, .. } = *header;
    let body_end = BODY_OFFSET.saturating_add(body_bytes as usize);
    let end = meta.first.0.saturating_add(u64::from(meta.count)).min(range.to.0.saturating_add(1));
    let rest = frame.get(BODY_OFFSET..body_end).unwrap_or_default();
    Entries { rest, term: meta.term, sessions, next: meta.first.0, from: range.from.0, end }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        while self.next < self.end {
            let (entry, after) = split_first(self.rest)?;
            self.rest = after;
            let index = self.next;
            self.next += 1;
            if index < self.from {
                continue;
            }
            let (session, payload) = if self.sessions {
                let (prefix, payload) = entry.split_at_checked(SESSION_PREFIX_BYTES)?;
                (Some((u64_at(prefix, 0), u64_at(prefix, 8))), payload)
            } else {
                (None, entry)
            };
            return Some(Entry { index: LogIndex(index), term: self.term, session, payload });
        }
        None
    }
}

/// Writes one entry at offset `at` of a frame being built, and returns where the next one goes; `None`, and
/// nothing written, if it does not fit. For rare frames (configurations) and for tests: proposals are copied
/// into the open batch by `kontiki-mem`, in this very layout.
pub fn put_entry(frame: &mut [u8], at: usize, session: Option<(u64, u64)>, payload: &[u8]) -> Option<usize> {
    let prefix = if session.is_some() { SESSION_PREFIX_BYTES } else { 0 };
    let length = u32::try_from(prefix + payload.len()).ok()?;
    let end = at.checked_add(ENTRY_LENGTH_BYTES)?.checked_add(length as usize)?;
    let out = frame.get_mut(at..end)?;
    put(out, 0, &length.to_le_bytes());
    if let Some((id, sequence)) = session {
        put(out, ENTRY_LENGTH_BYTES, &id.to_le_bytes());
        put(out, ENTRY_LENGTH_BYTES + 8, &sequence.to_le_bytes());
    }
    put(out, ENTRY_LENGTH_BYTES + prefix, payload);
    Some(end)
}
