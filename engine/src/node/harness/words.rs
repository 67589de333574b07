//! Words of the scripts: how messages, frames and numbers are written and read.

use kontiki_core::{FrameMeta, IndexRange, LogIndex, Message, Term};
use kontiki_io::IoErrorKind;

use super::wire::Host;
use super::world::Class;

/// `name { field: Type(1), flag: true, none: None }` as `name field=1 flag=true none=None`.
pub(super) fn compact(value: &impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    let (mut out, mut word) = (String::new(), String::new());
    for c in text.chars() {
        match c {
            c if c.is_alphanumeric() || c == '_' => word.push(c),
            // The name of a type around a number.
            '(' => word.clear(),
            c => {
                out.push_str(&std::mem::take(&mut word));
                match c {
                    ':' => out.push('='),
                    ' ' if out.ends_with(['=', ' ']) => {}
                    '{' | '}' | ')' | ',' => {}
                    c => out.push(c),
                }
            }
        }
    }
    out.push_str(&word);
    out.trim_end().to_owned()
}

pub(super) fn number(word: &str) -> Result<u64, String> {
    if word == "max" { Ok(u64::MAX) } else { word.parse().map_err(|_| format!("{word} is not a number")) }
}

/// `n2`.
pub(super) fn node(word: &str) -> Result<Host, String> {
    word.strip_prefix('n').and_then(|id| id.parse().ok()).ok_or(format!("{word}: a peer is n2, n3, ..."))
}

/// `index@term`.
pub(super) fn position(word: &str) -> Result<(LogIndex, Term), String> {
    let (index, term) = word.split_once('@').ok_or(format!("{word}: index@term"))?;
    Ok((LogIndex(number(index)?), Term(number(term)?)))
}

/// The value of `key=value` among the words.
pub(super) fn value<'a>(words: &[&'a str], key: &str) -> Option<&'a str> {
    words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

/// What is held, let go or failed. A peer's name stands for what is sent to it, `from n2` is written `n2>`.
pub(super) fn class(word: &str) -> Result<Class, String> {
    Ok(match word {
        "log" => Class::Log,
        "hard" => Class::Hard,
        "read" => Class::Read,
        "prep" => Class::Prep,
        "snap" => Class::Snap,
        word => match (word.strip_prefix('>'), word.strip_suffix('>')) {
            (Some(to), None) => Class::Send(node(to)?),
            (None, Some(from)) => Class::Recv(node(from)?),
            _ => return Err(format!("{word}: log, hard, read, prep, snap, >n2 (sends to it) or n2> (receives from it)")),
        },
    })
}

pub(super) fn failure(word: &str) -> Result<IoErrorKind, String> {
    Ok(match word {
        "full" => IoErrorKind::Full,
        "shortage" => IoErrorKind::Shortage,
        "device" => IoErrorKind::Device,
        other => return Err(format!("{other}: full, shortage or device")),
    })
}

pub(super) fn message(words: &[&str]) -> Result<Message, String> {
    let get = |key: &str| value(words, key).map_or(Ok(0), number);
    let flag = |key: &str| words.contains(&key);
    let term = Term(get("t")?);
    let (last_index, last_term) = value(words, "last").map_or(Ok(Default::default()), position)?;
    Ok(match *words.first().ok_or("which message?")? {
        "prevote" => Message::PreVote { term, last_index, last_term },
        "prevotereply" => Message::PreVoteReply { term, granted: flag("granted"), last_index, last_term, recovering: flag("recovering") },
        "vote" => Message::Vote { term, last_index, last_term, all_answered: flag("all") },
        "votereply" => Message::VoteReply { term, granted: flag("granted") },
        "heartbeat" => Message::Heartbeat {
            term,
            commit: LogIndex(get("commit")?),
            round: get("round")?,
            term_start: LogIndex(get("start")?),
            session_commit: LogIndex(get("named")?),
        },
        "accepted" => Message::Accepted { term, round: get("round")?, matched: LogIndex(get("matched")?) },
        "received" => Message::Received { term, round: get("round")?, index: LogIndex(get("index")?) },
        "heartbeatreply" => Message::HeartbeatReply {
            term,
            round: get("round")?,
            recovering: flag("recovering"),
            needs_base: flag("needs_base"),
            last_index,
        },
        "rejected" => Message::Rejected {
            term,
            round: get("round")?,
            prev: LogIndex(get("prev")?),
            last_index,
            conflict_term: last_term,
            conflict_first: LogIndex(get("first")?),
        },
        other => return Err(format!("{other}: unknown message")),
    })
}

/// A frame of a peer's: `t=5 commit=0 prev=4@3 a@5 b@5`.
pub(super) struct FrameWords {
    pub(super) leader_term: Term,
    pub(super) commit: LogIndex,
    pub(super) round: u64,
    pub(super) meta: FrameMeta,
    pub(super) range: IndexRange,
    pub(super) entries: Vec<Vec<u8>>,
}

/// With `range=6..7`, only those of its entries count.
pub(super) fn frame(words: &[&str]) -> Result<FrameWords, String> {
    let get = |key: &str| value(words, key).map_or(Ok(0), number);
    let (prev, prev_term) = value(words, "prev").map_or(Ok(Default::default()), position)?;
    let named: Vec<(&str, &str)> = words.iter().filter(|word| !word.contains('=')).filter_map(|word| word.split_once('@')).collect();
    let term = Term(number(named.first().ok_or("entries: value@term")?.1)?);
    let entries: Vec<Vec<u8>> = named.iter().flat_map(|(word, _)| payloads(word)).collect();
    let meta = FrameMeta { term, first: prev.next(), count: entries.len() as u32, prev_term };
    let range = match value(words, "range").and_then(|range| range.split_once("..")) {
        Some((from, to)) => IndexRange { from: LogIndex(number(from)?), to: LogIndex(number(to)?) },
        None => meta.range(),
    };
    Ok(FrameWords { leader_term: Term(get("t")?), commit: LogIndex(get("commit")?), round: get("round")?, meta, range, entries })
}

/// `a` is itself, `a:900` is padded to so many bytes, `a*3` is a1, a2, a3; `a:900*3` is both.
pub(super) fn payloads(word: &str) -> Vec<Vec<u8>> {
    let (word, count) = match word.split_once('*') {
        Some((word, count)) => (word, count.parse().ok()),
        None => (word, None),
    };
    let (name, bytes) = match word.split_once(':') {
        Some((name, bytes)) => (name, bytes.parse().unwrap_or(0)),
        None => (word, 0),
    };
    let payload = |name: String| {
        let mut payload = name.into_bytes();
        payload.resize(payload.len().max(bytes), b'.');
        payload
    };
    match count {
        None => vec![payload(name.to_owned())],
        Some(count) => (1..=count).map(|n: u32| payload(format!("{name}{n}"))).collect(),
    }
}

/// A payload without what pads it.
pub(super) fn name_of(payload: &[u8]) -> String {
    String::from_utf8_lossy(payload).trim_end_matches('.').to_owned()
}

/// `a b c`, or the first and the last of many.
pub(super) fn brief(names: &[String]) -> String {
    match names {
        [first, .., last] if names.len() > 6 => format!("{first} .. {last} ({})", names.len()),
        names => names.join(" "),
    }
}
