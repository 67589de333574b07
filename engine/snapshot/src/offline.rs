//! Looking at a snapshot's file without a store: nothing is changed.

use crate::check::Check;
use crate::flaw::Flaw;
use crate::head::Info;
use crate::limits::{CHUNK_BYTES, RUN_BYTES};

/// Why a file is no snapshot, or could not be looked at. `E` is the error of whatever reads the file.
#[derive(Debug)]
pub enum OfflineError<E> {
    /// It could not be read.
    Read(E),
    /// It is none, or not all of one.
    Flawed {
        /// The chunk at which that shows, from 0.
        chunk: u64,
        /// Where that is in the file, in bytes.
        offset: u64,
        /// What is wrong.
        flaw: Flaw,
        /// What its beginning says of it, if that is intact.
        head: Option<crate::Head>,
    },
}

impl<E: std::fmt::Display> std::fmt::Display for OfflineError<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OfflineError::Read(error) => write!(f, "{error}"),
            OfflineError::Flawed { chunk: 0, offset: _, flaw, .. } => write!(f, "no snapshot: {flaw}"),
            OfflineError::Flawed { chunk, offset, flaw, .. } => write!(f, "damaged in chunk {chunk}, at byte {offset}: {flaw}"),
        }
    }
}

impl<E: std::error::Error> std::error::Error for OfflineError<E> {}

/// Checks every byte of a snapshot. `read` yields the next bytes of the file and says how many, as
/// [`std::io::Read::read`] does: zero at its end. `seen` is told how many bytes are checked, from time to time. Takes
/// 512 KiB of memory, however long the file is.
///
/// ```
/// use kontiki_snapshot::{Head, Part, encode, offline::verify};
///
/// let file = encode(Head { full: true, ..Head::default() }, &[(Part::Machine, b"state")]);
/// let mut rest = &file[..];
/// let info = verify(|into| std::io::Read::read(&mut rest, into), |_| {}).unwrap();
/// assert_eq!(info.bytes, file.len() as u64);
/// ```
///
/// # Errors
/// [`OfflineError::Read`] as soon as `read` fails; [`OfflineError::Flawed`] says what is wrong, and where that shows.
pub fn verify<E>(mut read: impl FnMut(&mut [u8]) -> Result<usize, E>, mut seen: impl FnMut(u64)) -> Result<Info, OfflineError<E>> {
    let mut check = Check::new();
    let mut run = vec![0; RUN_BYTES];
    loop {
        let mut filled = 0;
        while filled < RUN_BYTES {
            match read(&mut run[filled..]).map_err(OfflineError::Read)? {
                0 => break,
                more => filled += more,
            }
        }
        for chunk in run[..filled].chunks(CHUNK_BYTES) {
            let offset = check.offset();
            if let Err(flaw) = check.take(chunk) {
                return Err(OfflineError::Flawed { chunk: offset / CHUNK_BYTES as u64, offset, flaw, head: check.head().copied() });
            }
        }
        seen(check.offset());
        if filled < RUN_BYTES {
            let offset = check.offset();
            let cut =
                || OfflineError::Flawed { chunk: offset / CHUNK_BYTES as u64, offset, flaw: Flaw::CutOff, head: check.head().copied() };
            return check.whole().ok_or_else(cut);
        }
    }
}
