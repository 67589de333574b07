//! The built-in state machine: keys and values in memory, and the commands that stand in its log.
//!
//! A command is one byte of kind, a `u16` (little-endian) length of the key, the key, and for a put the
//! value. A reply is one byte of kind and, for a found key, the value. A get goes through the log like a put:
//! what it returns was true at its place in the one order that all replicas share.

mod store;

use kontiki::{ApplyError, Entries, EntryId, Replies, Restore, SnapshotError, SnapshotSource, StateMachine};

use store::{Pairs, Restoring};

/// Longest key, in bytes.
pub(crate) const MAX_KEY_BYTES: usize = 1024;
/// Longest value, in bytes. A constant, so that replicas agree on what is refused whatever their configuration.
pub(crate) const MAX_VALUE_BYTES: usize = 4095;
/// What `reply_bytes` of the configuration must be for every value to come back whole.
pub(crate) const REPLY_BYTES: usize = 1 + MAX_VALUE_BYTES;

const PUT: u8 = 1;
const GET: u8 = 2;

const DONE: u8 = 0;
const FOUND: u8 = 1;
const ABSENT: u8 = 2;
const REFUSED: u8 = 3;

/// A command, as it stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command<'a> {
    /// Sets a key.
    Put { key: &'a [u8], value: &'a [u8] },
    /// Reads a key.
    Get { key: &'a [u8] },
}

/// What the machine answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// The put is done.
    Done,
    /// The value of the key.
    Found(Vec<u8>),
    /// No such key.
    Absent,
    /// The bytes in the log are no command of this machine, or a key or value is over its limit.
    Refused,
}

/// A key or value that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CommandError {
    /// The key.
    #[error("a key is 1 to {MAX_KEY_BYTES} bytes long, this one has {0}")]
    Key(usize),
    /// The value.
    #[error("a value is at most {MAX_VALUE_BYTES} bytes long, this one has {0}")]
    Value(usize),
}

impl<'a> Command<'a> {
    /// The bytes to propose.
    ///
    /// # Errors
    /// A key or value over its limit.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, CommandError> {
        let (kind, key, value): (u8, &[u8], &[u8]) = match *self {
            Command::Put { key, value } => (PUT, key, value),
            Command::Get { key } => (GET, key, &[]),
        };
        check(key, value)?;
        let mut bytes = Vec::with_capacity(3 + key.len() + value.len());
        bytes.push(kind);
        bytes.extend((key.len() as u16).to_le_bytes());
        bytes.extend(key);
        bytes.extend(value);
        Ok(bytes)
    }

    /// Reads a command back; `None` if the bytes are none.
    fn decode(bytes: &'a [u8]) -> Option<Command<'a>> {
        let (&kind, rest) = bytes.split_first()?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let (key, value) = rest.split_at_checked(u16::from_le_bytes(*length).into())?;
        check(key, value).ok()?;
        match kind {
            PUT => Some(Command::Put { key, value }),
            GET if value.is_empty() => Some(Command::Get { key }),
            _ => None,
        }
    }
}

fn check(key: &[u8], value: &[u8]) -> Result<(), CommandError> {
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        return Err(CommandError::Key(key.len()));
    }
    if value.len() > MAX_VALUE_BYTES {
        return Err(CommandError::Value(value.len()));
    }
    Ok(())
}

impl Reply {
    /// Reads a reply; `None` if the bytes are none.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Reply> {
        match bytes.split_first()? {
            (&DONE, []) => Some(Reply::Done),
            (&FOUND, value) => Some(Reply::Found(value.to_vec())),
            (&ABSENT, []) => Some(Reply::Absent),
            (&REFUSED, []) => Some(Reply::Refused),
            _ => None,
        }
    }
}

/// The machine: keys and values in memory. A start has them from the newest snapshot, and from the log behind it.
#[derive(Debug, Default)]
pub(crate) struct KeyValue {
    pairs: Pairs,
    applied: EntryId,
    reply: Vec<u8>,
    /// A snapshot that is being taken, until it is whole.
    restoring: Option<(EntryId, Restoring)>,
}

impl KeyValue {
    /// Carries one command out; the reply's bytes lie in `self.reply`.
    fn execute(&mut self, bytes: &[u8]) -> &[u8] {
        self.reply.clear();
        match Command::decode(bytes) {
            Some(Command::Put { key, value }) => {
                self.pairs.put(key, value);
                self.reply.push(DONE);
            }
            Some(Command::Get { key }) => match self.pairs.get(key) {
                Some(value) => {
                    self.reply.push(FOUND);
                    self.reply.extend(value);
                }
                None => self.reply.push(ABSENT),
            },
            // Anybody may propose bytes to a port. Every replica refuses them alike.
            None => self.reply.push(REFUSED),
        }
        &self.reply
    }
}

impl StateMachine for KeyValue {
    fn apply(&mut self, entries: Entries<'_>, replies: &mut Replies<'_>) -> Result<(), ApplyError> {
        for entry in entries {
            replies.push(self.execute(entry.payload));
            self.applied = entry.id();
        }
        Ok(())
    }

    fn applied(&self) -> EntryId {
        self.applied
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>, SnapshotError> {
        Ok(Box::new(self.pairs.view()))
    }

    fn restore(&mut self, part: Restore<'_>) -> Result<(), ApplyError> {
        let no_use = |what: &str| ApplyError(format!("the snapshot is none of the key-value machine: {what}"));
        match (part, &mut self.restoring) {
            (Restore::Begin { index, term, .. }, restoring) => *restoring = Some((EntryId { index, term }, Restoring::default())),
            (_, None) => return Err(no_use("it has no beginning")),
            (Restore::Chunk(bytes), Some((_, restoring))) => restoring.take(bytes).map_err(no_use)?,
            (Restore::End, restoring) => {
                if let Some((applied, restoring)) = restoring.take() {
                    (self.pairs, self.applied) = (restoring.end().map_err(no_use)?, applied);
                }
            }
        }
        Ok(())
    }

    fn snapshot_bytes(&self) -> u64 {
        self.pairs.stream_bytes()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use kontiki::{LogIndex, Term};

    fn run(machine: &mut KeyValue, command: Command<'_>) -> Reply {
        Reply::decode(machine.execute(&command.encode().unwrap())).unwrap()
    }

    #[test]
    fn what_is_put_is_got() {
        let mut machine = KeyValue::default();
        let get = Command::Get { key: b"k" };
        assert_eq!(run(&mut machine, get), Reply::Absent);
        assert_eq!(run(&mut machine, Command::Put { key: b"k", value: b"one" }), Reply::Done);
        assert_eq!(run(&mut machine, Command::Put { key: b"k", value: b"" }), Reply::Done);
        assert_eq!(run(&mut machine, get), Reply::Found(Vec::new()));
        let long = vec![7; MAX_VALUE_BYTES];
        assert_eq!(run(&mut machine, Command::Put { key: b"k", value: &long }), Reply::Done);
        assert_eq!(run(&mut machine, get), Reply::Found(long));
    }

    fn copy(view: &mut dyn SnapshotSource, piece: usize) -> Vec<u8> {
        let (mut stream, mut into) = (Vec::new(), vec![0; piece]);
        loop {
            match view.read(&mut into).unwrap() {
                0 => return stream,
                count => stream.extend(&into[..count]),
            }
        }
    }

    fn put(machine: &mut KeyValue, key: u32, value: &[u8]) {
        assert_eq!(run(machine, Command::Put { key: &key.to_le_bytes(), value }), Reply::Done);
    }

    fn restored(stream: &[u8], piece: usize) -> Result<KeyValue, ApplyError> {
        let mut machine = KeyValue::default();
        put(&mut machine, 1, b"of before");
        machine.restore(Restore::Begin { index: LogIndex(7), term: Term(2), bytes: stream.len() as u64 })?;
        for chunk in stream.chunks(piece) {
            machine.restore(Restore::Chunk(chunk))?;
            assert_eq!(machine.pairs.count(), 1, "the state stays until the end");
        }
        machine.restore(Restore::End)?;
        Ok(machine)
    }

    /// A view is of one moment, whatever is put while it is read, and whatever was read of it by then.
    #[test]
    fn a_snapshot_is_of_one_moment_and_comes_back_whole() {
        let mut machine = KeyValue::default();
        for key in 0..10_000 {
            put(&mut machine, key, &vec![key as u8; key as usize % 100]);
        }
        let mut view = machine.snapshot().unwrap();
        let mut first = vec![0; 100_000];
        let count = view.read(&mut first).unwrap();
        first.truncate(count);
        for key in 5_000..15_000 {
            put(&mut machine, key, b"later");
        }
        let stream = [first, copy(&mut *view, 777)].concat();
        for piece in [1, 3, 65_472] {
            let mut again = restored(&stream, piece).unwrap();
            assert_eq!((again.pairs.count(), again.applied()), (10_000, EntryId { index: LogIndex(7), term: Term(2) }));
            for key in (0..10_000u32).step_by(97) {
                let value = Reply::Found(vec![key as u8; key as usize % 100]);
                assert_eq!(run(&mut again, Command::Get { key: &key.to_le_bytes() }), value);
            }
            assert_eq!(again.snapshot_bytes(), stream.len() as u64);
        }
        assert_eq!(machine.snapshot_bytes(), copy(&mut *machine.snapshot().unwrap(), 1 << 20).len() as u64);
    }

    #[test]
    fn what_is_no_snapshot_of_it_is_refused() {
        let mut machine = KeyValue::default();
        put(&mut machine, 7, b"value");
        let stream = copy(&mut *machine.snapshot().unwrap(), 64);
        assert!(restored(&stream, 5).is_ok());
        for cut in 0..stream.len() {
            assert!(restored(&stream[..cut], 5).is_err(), "cut off at {cut}");
        }
        let endless = [&stream[..], &[0; 9]].concat();
        assert!(restored(&endless, 5).is_err());
        assert!(restored(&[0xff; 100], 5).is_err());
        assert!(KeyValue::default().restore(Restore::End).is_err());
    }

    #[test]
    fn limits_are_named() {
        let long = vec![0; MAX_VALUE_BYTES + 1];
        assert_eq!(Command::Put { key: b"k", value: &long }.encode(), Err(CommandError::Value(long.len())));
        assert_eq!(Command::Get { key: b"" }.encode(), Err(CommandError::Key(0)));
        assert_eq!(Command::Get { key: &long }.encode(), Err(CommandError::Key(long.len())));
    }

    #[test]
    fn foreign_bytes_are_refused() {
        let mut machine = KeyValue::default();
        let good = Command::Put { key: b"key", value: b"" }.encode().unwrap();
        for bytes in [&[][..], &[PUT], &[PUT, 9, 0, 1], &[9, 1, 0, b'k'], &[GET, 1, 0, b'k', b'v'], &[PUT, 0, 0], &good[..5]] {
            assert_eq!(machine.execute(bytes), [REFUSED], "{bytes:?}");
        }
        assert_eq!(machine.pairs.count(), 0);
    }
}
