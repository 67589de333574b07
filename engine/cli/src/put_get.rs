//! `kontiki put` and `kontiki get`: requests to the key-value machine, wherever its leader is.

use std::net::{SocketAddr, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use crate::connection::{Answer, Connection};
use crate::error::Error;
use crate::kv::{Command, Reply};
use crate::output::say;

/// The pause before a replica is asked again that could not say who leads.
const PAUSE: Duration = Duration::from_millis(20);

/// Which cluster, and how long to try.
#[derive(Args, Debug)]
pub(crate) struct To {
    /// Replicas to ask, by address; any one is enough, the leader is found from there
    #[arg(long = "to", value_name = "ADDR", value_delimiter = ',', required = true, value_parser = parse_addr)]
    pub(crate) addrs: Vec<SocketAddr>,
    /// How long to try, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    timeout_ms: u64,
}

impl To {
    /// How long to try.
    pub(crate) fn limit(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

/// An address, or a name and a port.
pub(crate) fn parse_addr(text: &str) -> Result<SocketAddr, String> {
    let mut found = text.to_socket_addrs().map_err(|e| format!("must be HOST:PORT ({e})"))?;
    found.next().ok_or_else(|| "the name has no address".to_owned())
}

/// Set a key, durably on a majority before this command ends.
#[derive(Args, Debug)]
pub(crate) struct Put {
    /// The key
    key: String,
    /// The value; an empty one is allowed
    value: String,
    /// Value is hexadecimal digits
    #[arg(long)]
    hex: bool,
    #[command(flatten)]
    to: To,
}

/// Read a key. The read goes through the log: it sees every write that was acknowledged before it began.
#[derive(Args, Debug)]
pub(crate) struct Get {
    /// The key
    key: String,
    /// Print the value as hexadecimal digits
    #[arg(long)]
    hex: bool,
    #[command(flatten)]
    to: To,
}

/// Runs `put`.
///
/// # Errors
/// The key or value cannot be, no leader was found in time, or nobody knows the outcome.
pub(crate) fn put(command: &Put) -> Result<(), Error> {
    let value = if command.hex {
        from_hex(&command.value).ok_or_else(|| Error::Usage("--hex: the value must be pairs of hexadecimal digits".into()))?
    } else {
        command.value.as_bytes().to_vec()
    };
    let bytes = Command::Put { key: command.key.as_bytes(), value: &value }.encode().map_err(|e| Error::Usage(e.to_string()))?;
    let (addr, reply) = request(&command.to, &bytes, false)?;
    match reply {
        Reply::Done => Ok(()),
        other => Err(unexpected(addr, &other)),
    }
}

/// Runs `get`.
///
/// # Errors
/// As [`put`], or there is no such key.
pub(crate) fn get(command: &Get) -> Result<(), Error> {
    let bytes = Command::Get { key: command.key.as_bytes() }.encode().map_err(|e| Error::Usage(e.to_string()))?;
    let (addr, reply) = request(&command.to, &bytes, true)?;
    match reply {
        Reply::Found(value) if command.hex => say(to_hex(&value)),
        Reply::Found(value) => say(String::from_utf8_lossy(&value)),
        Reply::Absent => return Err(Error::NoSuchKey(command.key.clone())),
        other => return Err(unexpected(addr, &other)),
    }
    Ok(())
}

fn unexpected(addr: SocketAddr, reply: &Reply) -> Error {
    Error::Reply { addr, reason: format!("{reply:?}") }
}

/// Sends a command to the leader, following hints. `again`: the command may be sent again when its outcome is unknown.
fn request(to: &To, command: &[u8], again: bool) -> Result<(SocketAddr, Reply), Error> {
    let limit = to.limit();
    let deadline = Instant::now() + limit;
    let mut reason = String::from("nobody was asked");
    let mut hint = None;
    for turn in 0.. {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let next = hint.take().or_else(|| to.addrs.get(turn % to.addrs.len().max(1)).copied());
        let Some(addr) = next else { break };
        // A replica that does not answer must not use up the time of the others.
        let share = if again || to.addrs.len() > 1 { left.min(limit / 3) } else { left };
        match ask(addr, command, left, share) {
            Asked::Answer(Answer::Applied { reply, .. }) => {
                let reply = Reply::decode(&reply).ok_or_else(|| Error::Reply { addr, reason: format!("{} bytes", reply.len()) })?;
                return Ok((addr, reply));
            }
            Asked::Answer(Answer::NotLeader(leader)) => {
                reason = match leader {
                    Some(leader) => format!("{addr} says that {leader} leads"),
                    None => format!("{addr} does not lead and knows no leader"),
                };
                if leader.is_none_or(|leader| leader == addr) {
                    thread::sleep(PAUSE);
                }
                hint = leader;
            }
            Asked::Answer(Answer::NotApplied) => reason = format!("{addr} lost its leadership"),
            Asked::Answer(Answer::Busy) => {
                reason = format!("{addr} is busy");
                thread::sleep(PAUSE);
            }
            Asked::Answer(Answer::Unknown) if !again => return Err(Error::Unknown(format!("{addr} lost its leadership"))),
            Asked::Answer(Answer::Unknown) => reason = format!("{addr} lost its leadership"),
            Asked::Answer(Answer::Other(text)) => return Err(Error::Reply { addr, reason: text }),
            Asked::NotSent(error) => {
                reason = format!("{addr}: {error}");
                thread::sleep(PAUSE);
            }
            Asked::Lost(error) if !again => return Err(Error::Unknown(format!("{addr}: {error}"))),
            Asked::Lost(error) => reason = format!("{addr}: {error}"),
        }
    }
    Err(Error::NoLeader { limit, reason })
}

/// How asking one replica ended.
enum Asked {
    Answer(Answer),
    /// Nothing left this process.
    NotSent(String),
    /// The request was sent, and no answer came.
    Lost(String),
}

fn ask(addr: SocketAddr, command: &[u8], answer_limit: Duration, connect_limit: Duration) -> Asked {
    let mut connection = match Connection::open(addr, connect_limit) {
        Ok(connection) => connection,
        Err(error) => return Asked::NotSent(error.to_string()),
    };
    let sent = connection.queue(command).and_then(|_| connection.flush());
    match sent.and_then(|()| connection.receive(answer_limit)) {
        Ok(Some((_, answer))) => Asked::Answer(answer),
        Ok(None) => Asked::Lost("no answer in time".into()),
        Err(error) => Asked::Lost(error.to_string()),
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|&[a, b]| Some((char::from(a).to_digit(16)? << 4 | char::from(b).to_digit(16)?) as u8)).collect()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_goes_both_ways() {
        assert_eq!(from_hex("00fFa1"), Some(vec![0, 255, 161]));
        assert_eq!(to_hex(&[0, 255, 161]), "00ffa1");
        assert_eq!(from_hex("0"), None);
        assert_eq!(from_hex("zz"), None);
        assert_eq!(from_hex(""), Some(vec![]));
    }
}
