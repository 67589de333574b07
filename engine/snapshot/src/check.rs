//! A snapshot, checked chunk by chunk from its beginning to its end.

use crate::Digest;
use crate::chunk::{Chunk, Part};
use crate::digest::Digester;
use crate::flaw::Flaw;
use crate::head::{Foot, Head, Info, Sections};
use crate::limits::{CHUNK_BYTES, DATA_BYTES};

/// Takes a snapshot's chunks in their order, and says at the end whether it is whole.
///
/// ```
/// # use kontiki_snapshot::{Check, Flaw};
/// let mut check = Check::new();
/// assert_eq!(check.take(&[0; 65536]).unwrap_err(), Flaw::Damaged);
/// assert!(check.whole().is_none(), "nothing was taken");
/// ```
#[derive(Clone, Debug)]
pub struct Check {
    number: u64,
    part: Part,
    /// Whether the chunk before was full: only then its section goes on.
    full: bool,
    identity: Digest,
    head: Head,
    sections: Sections,
    digester: Digester,
    foot: Option<Foot>,
}

impl Default for Check {
    fn default() -> Self {
        Check::new()
    }
}

impl Check {
    /// Before the first chunk.
    pub fn new() -> Check {
        Check {
            number: 0,
            part: Part::Head,
            full: true,
            identity: Digest(0),
            head: Head::default(),
            sections: Sections::default(),
            digester: Digester::new(),
            foot: None,
        }
    }

    /// Takes the next chunk. One that is refused changes nothing: it may be read or fetched again.
    ///
    /// # Errors
    /// What is wrong with it, as [`Chunk::parse`] says; or that it is intact and not the next: [`Flaw::OtherSnapshot`],
    /// [`Flaw::OtherPlace`], [`Flaw::TooLong`] behind the foot, [`Flaw::Otherwise`] for a foot that does not fit.
    pub fn take<'a>(&mut self, bytes: &'a [u8]) -> Result<Chunk<'a>, Flaw> {
        if self.foot.is_some() {
            return Err(Flaw::TooLong);
        }
        let chunk = Chunk::parse(bytes)?;
        if self.number == 0 {
            self.take_head(&chunk)?;
        } else {
            self.follows(&chunk)?;
        }
        if chunk.part != Part::Foot {
            self.digester.add(bytes);
        }
        self.full = chunk.data.len() == DATA_BYTES;
        (self.part, self.number) = (chunk.part, self.number + 1);
        Ok(chunk)
    }

    fn take_head(&mut self, chunk: &Chunk<'_>) -> Result<(), Flaw> {
        if chunk.number != 0 {
            return Err(Flaw::OtherPlace { found: chunk.number });
        }
        let head = Head::parse(chunk.data).filter(|_| chunk.part == Part::Head && Digest::of(chunk.data) == chunk.identity);
        self.head = head.ok_or(Flaw::Malformed)?;
        self.identity = chunk.identity;
        Ok(())
    }

    fn follows(&mut self, chunk: &Chunk<'_>) -> Result<(), Flaw> {
        if chunk.identity != self.identity {
            return Err(Flaw::OtherSnapshot);
        }
        if chunk.number != self.number {
            return Err(Flaw::OtherPlace { found: chunk.number });
        }
        let goes_on = chunk.part == self.part && self.full && chunk.part != Part::Head;
        if chunk.part <= self.part && !goes_on || chunk.part == Part::Machine && !self.head.full {
            return Err(Flaw::Malformed);
        }
        let bytes = chunk.data.len() as u64;
        match chunk.part {
            Part::Configuration => self.sections.configuration += bytes,
            Part::Sessions => self.sections.sessions += bytes,
            Part::Machine => self.sections.machine += bytes,
            Part::Head => return Err(Flaw::Malformed),
            Part::Foot => {
                let foot = Foot::parse(chunk.data).ok_or(Flaw::Malformed)?;
                let differs = |what| Err(Flaw::Otherwise { what });
                if foot.sections != self.sections || foot.bytes != (self.number + 1) * CHUNK_BYTES as u64 {
                    return differs("length");
                }
                if foot.digest != self.digester.digest() {
                    return differs("digest");
                }
                self.foot = Some(foot);
            }
        }
        Ok(())
    }

    /// Bytes of the file that were taken: where the next chunk stands.
    pub fn offset(&self) -> u64 {
        self.number * CHUNK_BYTES as u64
    }

    /// The head, once it was taken.
    pub fn head(&self) -> Option<&Head> {
        (self.number > 0).then_some(&self.head)
    }

    /// The digest of the head, once that was taken: which snapshot this is.
    pub(crate) fn identity(&self) -> Option<Digest> {
        (self.number > 0).then_some(self.identity)
    }

    /// What it is, once its foot was taken. `None` before: then it is not whole.
    pub fn whole(&self) -> Option<Info> {
        let foot = self.foot?;
        Some(Info { head: self.head, digest: foot.digest, bytes: foot.bytes, sections: foot.sections })
    }
}

/// What a file's first and last chunk say it is. What lies between is checked when it is read.
///
/// # Errors
/// What is wrong with them.
pub(crate) fn ends(first: &[u8], last: &[u8], bytes: u64) -> Result<Info, Flaw> {
    let mut check = Check::new();
    let identity = check.take(first)?.identity;
    let chunk = Chunk::parse(last)?;
    if chunk.identity != identity {
        return Err(Flaw::OtherSnapshot);
    }
    let foot = Foot::parse(chunk.data).filter(|_| chunk.part == Part::Foot).ok_or(Flaw::Malformed)?;
    if foot.bytes != bytes || chunk.number != bytes / CHUNK_BYTES as u64 - 1 {
        return Err(Flaw::Otherwise { what: "length" });
    }
    if !check.head.full && foot.sections.machine > 0 {
        return Err(Flaw::Malformed);
    }
    Ok(Info { head: check.head, digest: foot.digest, bytes, sections: foot.sections })
}
