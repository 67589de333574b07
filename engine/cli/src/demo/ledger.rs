//! The state machine of `demo`: it writes down what it applied, in order, for the proof at the end.
//!
//! One record per entry: its index and term in the log, its name, and the checksum of its bytes as the machine saw
//! them. Either the file starts empty with the process, and the log is applied again from its beginning; or the
//! machine goes on from what it finds in the file, as a product would whose state is on disk: then the log may forget
//! what the file holds for good.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use kontiki::{ApplyError, Entries, EntryId, LogIndex, Replies, StateMachine, Term};

use crate::demo::payload::Name;
use crate::error::Error;

/// Bytes of a record.
pub(crate) const RECORD_BYTES: usize = 32;
/// After so many records a ledger that is gone on from is flushed to the medium.
const FLUSH_RECORDS: usize = 8192;

/// One applied entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Where it stands in the log.
    pub(crate) index: u64,
    /// The term in which it was proposed.
    pub(crate) term: u64,
    /// Its name.
    pub(crate) name: Name,
    /// CRC-32 of its bytes.
    pub(crate) checksum: u32,
}

impl Record {
    fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        let who = u64::from(self.name.client) | (u64::from(self.checksum) << 32);
        for (place, word) in bytes.chunks_exact_mut(8).zip([self.index, self.term, who, self.name.number]) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8; RECORD_BYTES]) -> Record {
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        let [index, term, who, number] = words;
        Record { index, term, name: Name { client: who as u32, number }, checksum: (who >> 32) as u32 }
    }
}

/// The machine.
#[derive(Debug)]
pub(crate) struct Ledger {
    file: BufWriter<File>,
    /// The last entry in the file when the machine started.
    found: EntryId,
    /// Of a ledger that a later process goes on from: the last index that is on the medium.
    durable: Option<LogIndex>,
    /// Records written since.
    unflushed: usize,
}

impl Ledger {
    /// Starts an empty ledger.
    ///
    /// # Errors
    /// The file cannot be made.
    pub(crate) fn create(path: &Path) -> Result<Ledger, Error> {
        let file = File::create(path).map_err(Error::file("cannot create", path))?;
        Ok(Ledger::new(file, EntryId::default(), None))
    }

    /// Goes on from a ledger that an earlier process left; starts an empty one if there is none. What that process
    /// had not handed to the system when it was killed is missing, the last record perhaps cut off: the engine gives
    /// those entries again.
    ///
    /// # Errors
    /// The file cannot be opened, read or flushed.
    pub(crate) fn resume(path: &Path) -> Result<Ledger, Error> {
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).open(path).map_err(Error::file("cannot open", path))?;
        let mut whole = || {
            let records = file.metadata()?.len() / RECORD_BYTES as u64;
            file.set_len(records * RECORD_BYTES as u64)?;
            let mut last = [0; RECORD_BYTES];
            if records > 0 {
                file.seek(SeekFrom::End(-(RECORD_BYTES as i64)))?;
                file.read_exact(&mut last)?;
            }
            file.sync_data()?;
            let Record { index, term, .. } = Record::decode(&last);
            Ok(EntryId { index: LogIndex(index), term: Term(term) })
        };
        let found = whole().map_err(Error::file("cannot go on from", path))?;
        Ok(Ledger::new(file, found, Some(found.index)))
    }

    fn new(file: File, found: EntryId, durable: Option<LogIndex>) -> Ledger {
        Ledger { file: BufWriter::with_capacity(256 << 10, file), found, durable, unflushed: 0 }
    }

    /// What was applied up to `index` is on the medium.
    fn sync(&mut self, index: LogIndex) -> std::io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_data()?;
        (self.durable, self.unflushed) = (Some(index), 0);
        Ok(())
    }

    fn write(&mut self, id: EntryId, payload: &[u8]) -> Result<(), ApplyError> {
        let name = Name::of(payload).ok_or_else(|| ApplyError(format!("{id} is not one of the demo")))?;
        let record = Record { index: id.index.0, term: id.term.0, name, checksum: crc32fast::hash(payload) };
        self.file.write_all(&record.encode()).map_err(|e| ApplyError(format!("cannot write the ledger: {e}")))
    }
}

impl StateMachine for Ledger {
    fn apply(&mut self, entries: Entries<'_>, replies: &mut Replies<'_>) -> Result<(), ApplyError> {
        for entry in entries {
            self.write(entry.id(), entry.payload)?;
            replies.push(&[]);
            self.unflushed += 1;
            if self.durable.is_some() && self.unflushed == FLUSH_RECORDS {
                self.sync(entry.index).map_err(|e| ApplyError(format!("cannot flush the ledger: {e}")))?;
            }
        }
        Ok(())
    }

    fn applied(&self) -> EntryId {
        self.found
    }

    fn durable(&self) -> LogIndex {
        self.durable.unwrap_or_default()
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        // The verifier misses what is not written, and says so.
        if let Err(error) = self.file.flush() {
            tracing::error!(%error, "the ledger is not complete");
        }
    }
}

/// Reads a ledger back, record by record.
#[derive(Debug)]
pub(crate) struct Records {
    file: BufReader<File>,
    left: u64,
}

impl Records {
    /// Opens a ledger.
    ///
    /// # Errors
    /// It cannot be opened, or its last record is cut off.
    pub(crate) fn open(path: &Path) -> Result<Records, Error> {
        let file = File::open(path).map_err(Error::file("cannot open", path))?;
        let bytes = file.metadata().map_err(Error::file("cannot read", path))?.len();
        if !bytes.is_multiple_of(RECORD_BYTES as u64) {
            return Err(Error::Finding(format!("the ledger {} ends within a record", path.display())));
        }
        Ok(Records { file: BufReader::with_capacity(1 << 20, file), left: bytes / RECORD_BYTES as u64 })
    }

    /// Records not read yet.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// The next record; `None` at the end.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn next(&mut self) -> std::io::Result<Option<Record>> {
        if self.left == 0 {
            return Ok(None);
        }
        let mut bytes = [0; RECORD_BYTES];
        self.file.read_exact(&mut bytes)?;
        self.left -= 1;
        Ok(Some(Record::decode(&bytes)))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::demo::payload::Payloads;

    pub(crate) fn id(index: u64) -> EntryId {
        EntryId { index: LogIndex(index), term: Term(1) }
    }

    /// A ledger with these names at these indexes.
    pub(crate) fn written(path: &Path, entry_bytes: usize, entries: &[(u64, u32, u64)]) {
        let mut payloads = Payloads::new(entry_bytes);
        let mut ledger = Ledger::create(path).unwrap();
        for &(index, client, number) in entries {
            ledger.write(id(index), payloads.make(Name { client, number })).unwrap();
        }
    }

    #[test]
    fn records_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        written(&path, 40, &[(2, 0, 0), (3, u32::MAX, 5)]);
        let mut records = Records::open(&path).unwrap();
        assert_eq!(records.left(), 2);
        let first = records.next().unwrap().unwrap();
        assert_eq!((first.index, first.name), (2, Name { client: 0, number: 0 }));
        let second = records.next().unwrap().unwrap();
        let name = Name { client: u32::MAX, number: 5 };
        assert_eq!(second, Record { index: 3, term: 1, name, checksum: Payloads::new(40).checksum(name) });
        assert_eq!(records.next().unwrap(), None);
    }

    #[test]
    fn a_ledger_goes_on_behind_its_last_whole_record() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        assert_eq!(Ledger::resume(&path).unwrap().applied(), EntryId::default());
        written(&path, 40, &[(2, 0, 0), (3, 0, 1), (4, 0, 2)]);
        File::options().write(true).open(&path).unwrap().set_len(3 * RECORD_BYTES as u64 - 1).unwrap();
        let mut ledger = Ledger::resume(&path).unwrap();
        assert_eq!(ledger.applied(), id(3));
        ledger.write(id(4), Payloads::new(40).make(Name { client: 0, number: 2 })).unwrap();
        drop(ledger);
        let mut records = Records::open(&path).unwrap();
        let indexes: Vec<u64> = std::iter::from_fn(|| records.next().unwrap()).map(|r| r.index).collect();
        assert_eq!(indexes, [2, 3, 4]);
    }

    #[test]
    fn only_a_ledger_that_is_gone_on_from_lets_the_log_forget() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        assert_eq!(Ledger::create(&path).unwrap().durable(), LogIndex(0));
        written(&path, 40, &[(2, 0, 0), (3, 0, 1)]);
        let mut ledger = Ledger::resume(&path).unwrap();
        assert_eq!(ledger.durable(), LogIndex(3));
        ledger.write(id(4), Payloads::new(40).make(Name { client: 0, number: 2 })).unwrap();
        assert_eq!((ledger.durable(), Records::open(&path).unwrap().left()), (LogIndex(3), 2));
        ledger.sync(LogIndex(4)).unwrap();
        assert_eq!((ledger.durable(), Records::open(&path).unwrap().left()), (LogIndex(4), 3));
    }

    #[test]
    fn a_foreign_entry_stops_the_machine() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::create(&dir.path().join("ledger")).unwrap();
        assert!(ledger.write(id(1), b"what is this").unwrap_err().0.contains("entry 1"));
    }

    #[test]
    fn a_record_cut_off_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        std::fs::write(&path, [0; RECORD_BYTES + 1]).unwrap();
        assert!(Records::open(&path).is_err());
    }
}
