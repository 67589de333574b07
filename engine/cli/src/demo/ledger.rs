//! The state machine of `demo`: it writes down what it applied, in order, for the proof at the end.
//!
//! One record per entry: its index and term in the log, its name, and the checksum of its bytes as the machine saw
//! them. Either the file starts empty with the process, and the log is applied again from its beginning; or the machine
//! goes on from what it finds in the file, as a product would whose state is on disk: then the log may forget what the
//! file holds for good.
//!
//! A snapshot is the file as long as it is now: nothing before its end ever changes, so that nothing is copied to have
//! a view of one moment. One that is taken is a second file until it is whole and flushed, and then has the name.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use kontiki::{ApplyError, Entries, EntryId, LogIndex, Replies, Restore, SnapshotError, SnapshotSource, StateMachine, Term};

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
    fn id(&self) -> EntryId {
        EntryId { index: LogIndex(self.index), term: Term(self.term) }
    }

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
    path: PathBuf,
    file: BufWriter<File>,
    /// The last entry in the file.
    applied: EntryId,
    /// Bytes in the file, those included that wait to be written.
    bytes: u64,
    /// A snapshot that is being taken: the entry that it is of, and its file.
    taking: Option<(EntryId, BufWriter<File>)>,
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
        Ok(Ledger::new(path, file, 0, EntryId::default(), None))
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
            let bytes = file.metadata()?.len() / RECORD_BYTES as u64 * RECORD_BYTES as u64;
            file.set_len(bytes)?;
            let last = last_in(&mut file)?;
            file.sync_data()?;
            Ok((bytes, last))
        };
        let (bytes, found) = whole().map_err(Error::file("cannot go on from", path))?;
        Ok(Ledger::new(path, file, bytes, found, Some(found.index)))
    }

    fn new(path: &Path, file: File, bytes: u64, applied: EntryId, durable: Option<LogIndex>) -> Ledger {
        let file = BufWriter::with_capacity(256 << 10, file);
        Ledger { path: path.to_owned(), file, applied, bytes, taking: None, durable, unflushed: 0 }
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
        self.file.write_all(&record.encode()).map_err(|e| ApplyError(format!("cannot write the ledger: {e}")))?;
        (self.applied, self.bytes) = (id, self.bytes + RECORD_BYTES as u64);
        Ok(())
    }

    fn fresh(&self) -> PathBuf {
        self.path.with_extension("taken")
    }

    fn restored(&mut self, part: Restore<'_>) -> std::io::Result<()> {
        match part {
            Restore::Begin { index, term, .. } => {
                let file = BufWriter::with_capacity(
                    256 << 10,
                    File::options().read(true).write(true).create(true).truncate(true).open(self.fresh())?,
                );
                self.taking = Some((EntryId { index, term }, file));
            }
            Restore::Chunk(bytes) => {
                let Some((_, file)) = &mut self.taking else { return Err(std::io::ErrorKind::InvalidData.into()) };
                file.write_all(bytes)?;
            }
            Restore::End => {
                let Some((applied, mut file)) = self.taking.take() else { return Err(std::io::ErrorKind::InvalidData.into()) };
                file.flush()?;
                let bytes = file.get_ref().metadata()?.len();
                if !bytes.is_multiple_of(RECORD_BYTES as u64) {
                    return Err(std::io::ErrorKind::InvalidData.into());
                }
                // Behind the last record may come entries of the engine's own: what a later process finds is the
                // record.
                let last = last_in(file.get_mut())?;
                file.get_ref().sync_all()?;
                std::fs::rename(self.fresh(), &self.path)?;
                File::open(self.path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new(".")))?.sync_all()?;
                // What the old one still held back goes with it.
                let (old, _) = std::mem::replace(&mut self.file, file).into_parts();
                drop(old);
                (self.applied, self.bytes, self.unflushed) = (applied, bytes, 0);
                self.durable = self.durable.map(|_| last.index);
            }
        }
        Ok(())
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
        self.applied
    }

    fn durable(&self) -> LogIndex {
        self.durable.unwrap_or_default()
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, SnapshotError> {
        let mut view = || {
            self.file.flush()?;
            Ok(File::open(&self.path)?.take(self.bytes))
        };
        let view = view().map_err(|error: std::io::Error| SnapshotError::Failed(format!("{}: {error}", self.path.display())))?;
        Ok(Box::new(view))
    }

    fn restore(&mut self, part: Restore<'_>) -> Result<(), ApplyError> {
        self.restored(part).map_err(|error| ApplyError(format!("cannot take a snapshot as the ledger {}: {error}", self.path.display())))
    }

    fn snapshot_bytes(&self) -> u64 {
        self.bytes
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

/// The entry of the last record in a file of whole records, which is then at its end.
fn last_in(file: &mut File) -> std::io::Result<EntryId> {
    let mut last = [0; RECORD_BYTES];
    if file.metadata()?.len() > 0 {
        file.seek(SeekFrom::End(-(RECORD_BYTES as i64)))?;
        file.read_exact(&mut last)?;
    }
    Ok(Record::decode(&last).id())
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

    fn entries(path: &Path) -> Vec<u64> {
        let mut records = Records::open(path).unwrap();
        std::iter::from_fn(|| records.next().unwrap()).map(|record| record.index).collect()
    }

    /// It is of one moment, and another ledger has it whole or not at all.
    #[test]
    fn a_snapshot_is_the_ledger_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| dir.path().join(name));
        let mut payloads = Payloads::new(40);
        let mut ledger = Ledger::resume(&from).unwrap();
        for index in 2..50 {
            ledger.write(id(index), payloads.make(Name { client: 0, number: index })).unwrap();
        }
        assert_eq!(ledger.snapshot_bytes(), 48 * RECORD_BYTES as u64);
        let mut view = ledger.snapshot().unwrap();
        let mut stream = vec![0; 1000];
        let count = view.read(&mut stream).unwrap();
        stream.truncate(count);
        ledger.write(id(50), payloads.make(Name { client: 0, number: 50 })).unwrap();
        ledger.sync(LogIndex(50)).unwrap();
        let mut piece = [0; 999];
        while let count @ 1.. = view.read(&mut piece).unwrap() {
            stream.extend(&piece[..count]);
        }

        for durable in [false, true] {
            let mut other = if durable { Ledger::resume(&to) } else { Ledger::create(&to) }.unwrap();
            other.write(id(2), payloads.make(Name { client: 0, number: 2 })).unwrap();
            // Begun twice: the first time the power failed.
            for _ in 0..2 {
                other.restore(Restore::Begin { index: LogIndex(49), term: Term(1), bytes: stream.len() as u64 }).unwrap();
                stream.chunks(100).for_each(|chunk| other.restore(Restore::Chunk(chunk)).unwrap());
            }
            assert_eq!(other.applied(), id(2));
            other.restore(Restore::End).unwrap();
            assert_eq!((other.applied(), other.durable()), (id(49), LogIndex(if durable { 49 } else { 0 })));
            assert_eq!(entries(&to), (2..50).collect::<Vec<_>>());
            other.write(id(50), payloads.make(Name { client: 0, number: 50 })).unwrap();
            drop(other);
            assert_eq!(entries(&to), (2..51).collect::<Vec<_>>());
            std::fs::remove_file(&to).unwrap();
        }
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
