//! The built-in state machine: keys and values in memory, and the commands that stand in its log.
//!
//! A command is one byte of kind, a `u16` (little-endian) length of the key, the key, and for a put the
//! value. A reply is one byte of kind and, for a found key, the value. A get goes through the log like a put:
//! what it returns was true at its place in the one order that all replicas share.

use std::collections::BTreeMap;

use kontiki::{ApplyError, Entries, Replies, StateMachine};

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

/// The machine: a map in memory, rebuilt from the log at each start.
#[derive(Debug, Default)]
pub(crate) struct KeyValue {
    map: BTreeMap<Vec<u8>, Vec<u8>>,
    reply: Vec<u8>,
}

impl KeyValue {
    /// Carries one command out; the reply's bytes lie in `self.reply`.
    fn execute(&mut self, bytes: &[u8]) -> &[u8] {
        self.reply.clear();
        match Command::decode(bytes) {
            Some(Command::Put { key, value }) => {
                if let Some(old) = self.map.get_mut(key) {
                    old.clear();
                    old.extend(value);
                } else {
                    self.map.insert(key.to_vec(), value.to_vec());
                }
                self.reply.push(DONE);
            }
            Some(Command::Get { key }) => match self.map.get(key) {
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
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

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
        assert!(machine.map.is_empty());
    }
}
