//! `kontiki put` and `kontiki get`: requests to the key-value machine, wherever its leader is.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use crate::connection::{Answer, Connection};
use crate::error::Error;
use crate::kv::{Command, Reply};
use crate::output::{say, say_bytes};
use crate::status;
use crate::target::{Rota, Target};

/// The pause before a replica is asked again that could not say who leads.
const PAUSE: Duration = Duration::from_millis(20);
/// What each replica gets at least to answer a connection.
const LEAST_SHARE: Duration = Duration::from_millis(250);

/// Which cluster, and how long to try.
#[derive(Args, Debug)]
pub(crate) struct To {
    /// Replicas to ask, as HOST:PORT; any one is enough, the leader is found from there. All addresses of a name are
    /// tried
    #[arg(long = "to", value_name = "ADDR", value_delimiter = ',', required = true)]
    pub(crate) targets: Vec<Target>,
    /// How long to try, in milliseconds. Whoever is busy, has a full disk or a full log, or knows no leader is asked
    /// again until then, in turn with the others: another may come to lead, and a disk may have space again
    #[arg(long, value_name = "MS", default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    timeout_ms: u64,
}

impl To {
    /// How long to try.
    pub(crate) fn limit(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
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
        // As they are, whatever they are: nothing is put in the place of bytes that are no text.
        Reply::Found(mut value) => {
            value.push(b'\n');
            say_bytes(&value);
        }
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
    let mut rota = Rota::new(to.targets.clone(), 0);
    let mut hint = None;
    let mut refused = Refused::default();
    // Who had no room for it, and why: all there is to say, unless it went away since.
    let mut no_room: Option<(SocketAddr, String)> = None;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let addr = match rota.next(hint.take()) {
            Ok(addr) => addr,
            Err(error) => {
                reason = error;
                thread::sleep(PAUSE);
                continue;
            }
        };
        // One that does not answer must not use up the time of the others: there may be another address, or a hint.
        let share = left.min((limit / 4).max(LEAST_SHARE));
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
                hint = leader.filter(|&leader| leader != addr);
            }
            Asked::Answer(Answer::NotApplied) => reason = format!("{addr} lost its leadership"),
            Asked::Answer(Answer::Busy) => {
                reason = format!("{addr} is busy");
                thread::sleep(PAUSE);
            }
            Asked::Answer(Answer::Unknown) if !again => return Err(unknown(to, format!("{addr} lost its leadership"))),
            Asked::Answer(Answer::Unknown) => reason = format!("{addr} lost its leadership"),
            // Its disk may have room again, or another replica may lead that has it.
            Asked::Answer(Answer::NoRoom(text)) => {
                no_room = Some((addr, text));
                thread::sleep(PAUSE);
            }
            Asked::Answer(Answer::Refused(text)) => return Err(Error::Refused { addr, reason: text }),
            // Another replica may be configured otherwise.
            Asked::Answer(Answer::NoClients(text)) => {
                refused.note(addr, Error::Refused { addr, reason: text });
                if refused.by_all(&to.targets) {
                    break;
                }
                thread::sleep(PAUSE);
            }
            Asked::Answer(Answer::Other(text)) => return Err(Error::Reply { addr, reason: text }),
            Asked::NotSent(error) => {
                reason = format!("{addr}: {error}");
                // What it said before it went is out of date.
                no_room = no_room.filter(|(lacking, _)| *lacking != addr);
                rota.failed(addr);
                thread::sleep(PAUSE);
            }
            Asked::Lost(error) if !again => return Err(unknown(to, format!("{addr}: {error}"))),
            Asked::Lost(error) => {
                reason = format!("{addr}: {error}");
                // What it said before it went is out of date.
                no_room = no_room.filter(|(lacking, _)| *lacking != addr);
                rota.failed(addr);
            }
        }
    }
    if let Some(error) = refused.last {
        return Err(error);
    }
    if let Some((addr, text)) = no_room {
        return Err(Error::NoRoom { limit, reason: format!("{addr}: {text}") });
    }
    let standing = standing(to).unwrap_or_else(|| "; is a majority of the cluster up, and does --to name it?".into());
    Err(Error::NoLeader { limit, reason: format!("{reason}{standing}") })
}

fn unknown(to: &To, reason: String) -> Error {
    Error::Unknown(format!("{reason}{}", standing(to).unwrap_or_default()))
}

/// What keeps the cluster from answering, as far as its replicas say so themselves.
fn standing(to: &To) -> Option<String> {
    let addrs = to.targets.iter().filter_map(|target| target.addresses().ok()?.into_iter().next());
    let told: Vec<String> = addrs.filter_map(|addr| status::trouble(&status::fetch(addr, LEAST_SHARE).ok()?)).collect();
    (!told.is_empty()).then(|| format!("; {}", told.join("; ")))
}

/// Who would not take the request, now or later.
#[derive(Default)]
struct Refused {
    by: Vec<SocketAddr>,
    last: Option<Error>,
}

impl Refused {
    fn note(&mut self, addr: SocketAddr, error: Error) {
        self.by.push(addr);
        self.last = Some(error);
    }

    /// Whether nobody is left to ask.
    fn by_all(&self, targets: &[Target]) -> bool {
        let all = |addrs: Vec<SocketAddr>| addrs.iter().all(|addr| self.by.contains(addr));
        targets.iter().all(|target| target.addresses().is_ok_and(all))
    }
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
