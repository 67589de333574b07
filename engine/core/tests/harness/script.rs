//! The script language: one command a line, in the vocabulary of the hazard list.
//!
//! | command | what it does |
//! |---|---|
//! | `elect n1` | time passes, nobody but n1 ticks, until n1 leads |
//! | `prop n1 x y` | n1 seals a frame of these entries, if it may |
//! | `seal n1 x` / `sealed n1` | n1 takes the place for a frame of these entries / tells its core that it is sealed |
//! | `part n1,n2\|n3` / `heal` | cuts the links between the groups, sessions with them / mends all |
//! | `hold n1->n2 frame` | captures such packets (`*` for any node, any kind); `unhold` captures no more |
//! | `rel` / `rel.back` / `dup` / `drop` + filter | captured packets go on their way / newest first / a copy of them does / are gone; `held` lists them |
//! | `io.hold n1 log` / `io.ok n1 log [count]` | withholds completions of `log` or `hard` writes / completes them |
//! | `flush n1 400` | from now on a flush of n1's disk (`*`: of each) takes so many milliseconds: a log write is one, a hard state two |
//! | `kill n1 [kept]` / `start n1` | stops n1, `kept` writes under way still reach the disk / starts it |
//! | `damage n1 k` | of a stopped node: the last k log writes are lost, and recovery marked it |
//! | `compact n1 5` / `volatile n1` | n1's log now begins at 5 / its state machine starts with no more than what was compacted |
//! | `install n3 n1 20` / `judge n3 20@1` | n3 is given a snapshot of n1's log as of 20 and installs it / what its core says of such a one |
//! | `baseless n3` | of a stopped node: its snapshots and its state machine are gone, its log is not |
//! | `t+3` / `ms 20` / `pass n1 30` / `wait 150` | time passes: election timeouts; milliseconds; only n1 ticks; nobody does |
//! | `stall n1 900` | time passes for all but n1, whose tick then comes before its mail |
//! | `msg n2->n1 vote t=5 last=9@3` | hands n1 a message as if from n2, in the current session |
//! | `frame n2->n1 t=5 commit=0 prev=4@3 a@5 b@5` | likewise a frame, its entries after `prev` |
//! | `state` / `log n1` / `record n1` / `round n1` | prints; the last: the round, and the newest that is confirmed |
//! | `wire on` | prints each packet as it is sent |

use kontiki_core::{Append, Base, Event, FrameMeta, IndexRange, LogIndex, Message, NodeId, Term};

use super::disk::HardRecord;
use super::net::{Body, Filter, Packet};
use super::node::Entry;
use super::{Cluster, ELECTION_MAX, MS};

/// Runs a script's lines; returns what happened, each line's events indented below it.
pub(crate) fn run(cluster: &mut Cluster, input: &str) -> Result<String, String> {
    let mut out = String::new();
    for line in input.lines().filter(|line| !line.trim().is_empty()) {
        let printed = command(cluster, line).map_err(|error| format!("{line}: {error}"))?;
        cluster.settle();
        cluster.oracle.log_matching(&cluster.nodes);
        out.push_str(line);
        out.push('\n');
        let events = std::mem::take(&mut cluster.trace);
        for text in events.iter().map(String::as_str).chain(printed.lines()) {
            out.push_str("  ");
            out.push_str(text);
            out.push('\n');
        }
    }
    Ok(out)
}

fn node(word: &str) -> Result<NodeId, String> {
    word.strip_prefix('n').and_then(|id| id.parse().ok()).map(NodeId).ok_or(format!("{word}: a node is n1, n2, ..."))
}

fn number(word: &str) -> Result<u64, String> {
    if word == "max" { Ok(u64::MAX) } else { word.parse().map_err(|_| format!("{word} is not a number")) }
}

/// `index@term`.
fn position(word: &str) -> Result<(LogIndex, Term), String> {
    let (index, term) = word.split_once('@').ok_or(format!("{word}: index@term"))?;
    Ok((LogIndex(number(index)?), Term(number(term)?)))
}

/// `n1->n2`, `*` for any.
fn link(word: &str) -> Result<(Option<NodeId>, Option<NodeId>), String> {
    let (from, to) = word.split_once("->").ok_or(format!("{word}: from->to"))?;
    let side = |word: &str| if word == "*" { Ok(None) } else { node(word).map(Some) };
    Ok((side(from)?, side(to)?))
}

fn filter(words: &[&str]) -> Result<Filter, String> {
    let (from, to) = link(words.first().unwrap_or(&"*->*"))?;
    let kind = words.get(1).filter(|kind| **kind != "*").unwrap_or(&"").to_string();
    Ok(Filter { from, to, kind })
}

fn command(cluster: &mut Cluster, line: &str) -> Result<String, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let word = |at: usize| words.get(at).copied().ok_or("too few words".to_string());
    let name = word(0)?;
    let rest = &words[1..];
    if let Some(timeouts) = name.strip_prefix("t+") {
        cluster.run(number(timeouts)? * ELECTION_MAX);
        return Ok(String::new());
    }
    match name {
        "elect" => {
            if !cluster.elect(node(word(1)?)?) {
                return Ok("not elected".into());
            }
        }
        "prop" => {
            let values = words[2..].iter().map(|value| value.to_string()).collect();
            return Ok(match cluster.propose(node(word(1)?)?, values) {
                Some(index) => format!("sealed at {index}"),
                None => "not now".into(),
            });
        }
        "seal" => {
            let values = words[2..].iter().map(|value| value.to_string()).collect();
            return Ok(if cluster.seal(node(word(1)?)?, values) { "" } else { "not now" }.into());
        }
        "sealed" => {
            let id = node(word(1)?)?;
            let before = cluster.node(id).writes_asked;
            cluster.sealed(id);
            return Ok(if cluster.node(id).writes_asked == before { "void" } else { "" }.into());
        }
        "part" => {
            let groups: Vec<Vec<NodeId>> =
                word(1)?.split('|').map(|group| group.split(',').map(node).collect()).collect::<Result<_, _>>()?;
            for (at, group) in groups.iter().enumerate() {
                for other in groups.iter().skip(at + 1).flatten() {
                    group.iter().for_each(|id| cluster.set_link(*id, *other, false));
                }
            }
        }
        "heal" => cluster.heal(),
        "hold" => cluster.net.holds.push(filter(rest)?),
        "unhold" => cluster.net.holds.clear(),
        "rel" => return Ok(format!("{} released", cluster.net.release(&filter(rest)?, false))),
        "rel.back" => {
            cluster.net.held.reverse();
            return Ok(format!("{} released", cluster.net.release(&filter(rest)?, false)));
        }
        "dup" => return Ok(format!("{} copied", cluster.net.release(&filter(rest)?, true))),
        "drop" => return Ok(format!("{} dropped", cluster.net.discard(&filter(rest)?))),
        "held" => return Ok(cluster.net.held.iter().map(|packet| format!("{packet}\n")).collect()),
        "io.hold" | "io.ok" => {
            let id = node(word(1)?)?;
            let hard = match word(2)? {
                "hard" => true,
                "log" => false,
                other => return Err(format!("{other}: hard or log")),
            };
            match (name, words.get(3)) {
                ("io.ok", Some(count)) => {
                    for _ in 0..number(count)? {
                        cluster.complete(id, hard);
                    }
                }
                _ => *cluster.node_mut(id).disk.hold_mut(hard) = name == "io.hold",
            }
        }
        "flush" => {
            let ids = if word(1)? == "*" { cluster.ids() } else { vec![node(word(1)?)?] };
            let ns = number(word(2)?)? * MS;
            ids.into_iter().for_each(|id| cluster.node_mut(id).disk.flush_ns = ns);
        }
        "kill" => cluster.stop(node(word(1)?)?, words.get(2).map_or(Ok(0), |kept| number(kept))? as usize),
        "start" => cluster.start(node(word(1)?)?),
        "damage" => {
            let (id, lost) = (node(word(1)?)?, number(word(2)?)? as usize);
            cluster.node_mut(id).disk.damage(lost);
            cluster.oracle.damaged = true;
        }
        "volatile" => cluster.node_mut(node(word(1)?)?).volatile = true,
        "compact" => cluster.compact(node(word(1)?)?, LogIndex(number(word(2)?)?)),
        "install" => {
            let (id, from, index) = (node(word(1)?)?, node(word(2)?)?, LogIndex(number(word(3)?)?));
            return Ok(cluster.install(id, from, index));
        }
        "judge" => {
            let (index, term) = position(word(2)?)?;
            let id = node(word(1)?)?;
            let raft = cluster.node(id).raft.as_ref().ok_or("it is down")?;
            return Ok(format!("{:?}", raft.judge_snapshot(Base { index, term, ..Base::default() })));
        }
        "baseless" => {
            let node = cluster.node_mut(node(word(1)?)?);
            node.machine.clear();
            node.snapshots.clear();
        }
        "ms" => cluster.run(number(word(1)?)? * MS),
        "wait" => cluster.run_until(cluster.now.plus_ns(number(word(1)?)? * MS), |_| false),
        "pass" => {
            let (id, until) = (node(word(1)?)?, cluster.now.plus_ns(number(word(2)?)? * MS));
            cluster.run_until(until, |other| other == id);
        }
        "stall" => {
            let (id, until) = (node(word(1)?)?, cluster.now.plus_ns(number(word(2)?)? * MS));
            let any = Filter { to: Some(id), ..Filter::default() };
            cluster.net.holds.push(any.clone());
            cluster.run_until(until, |other| other != id);
            cluster.net.holds.pop();
            cluster.event(id, Event::Tick);
            cluster.net.release(&any, false);
        }
        "msg" | "frame" => {
            let (from, to) = match link(word(1)?)? {
                (Some(from), Some(to)) => (from, to),
                _ => return Err("from whom, and to whom?".into()),
            };
            let body = if name == "msg" { Body::Message(message(&words[2..])?) } else { frame(&words[2..])? };
            let session = cluster.net.session(from, to).ok_or("no session")?;
            cluster.deliver(Packet { from, to, session, body });
        }
        "state" => return Ok(cluster.state()),
        "log" => {
            let entries = cluster.node(node(word(1)?)?).log.iter().enumerate();
            return Ok(entries.map(|(at, entry)| format!("{}@{} {}\n", at + 1, entry.frame.term, entry.value)).collect());
        }
        "record" => {
            let HardRecord { term, vote, recovering } = cluster.node(node(word(1)?)?).disk.record;
            let vote = vote.map_or("nobody".into(), |vote| format!("n{vote}"));
            return Ok(format!("term {term} vote {vote}{}", if recovering { " recovering" } else { "" }));
        }
        "round" => {
            let raft = cluster.node(node(word(1)?)?).raft.as_ref().ok_or("it is down")?;
            let confirmed = raft.confirmed_round().map_or("it does not lead".into(), |round| format!("confirmed {round}"));
            return Ok(format!("round {}, {confirmed}, {} refused", raft.round(), raft.refusals()));
        }
        "wire" => cluster.net.wire = word(1)? == "on",
        other => return Err(format!("{other}: unknown command")),
    }
    Ok(String::new())
}

/// The value of `key=value` among the words.
fn value<'a>(words: &[&'a str], key: &str) -> Option<&'a str> {
    words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

fn message(words: &[&str]) -> Result<Message, String> {
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

fn frame(words: &[&str]) -> Result<Body, String> {
    let get = |key: &str| value(words, key).map_or(Ok(0), number);
    let (prev, prev_term) = value(words, "prev").map_or(Ok(Default::default()), position)?;
    let entries: Vec<(&str, &str)> = words.iter().filter(|word| !word.contains('=')).filter_map(|word| word.split_once('@')).collect();
    let term = Term(number(entries.first().ok_or("entries: value@term")?.1)?);
    let frame = FrameMeta { term, first: LogIndex(prev.0.wrapping_add(1)), count: entries.len() as u32, prev_term };
    let range = IndexRange { from: frame.first, to: LogIndex(frame.first.0.saturating_add(entries.len() as u64 - 1)) };
    let append = Append { leader_term: Term(get("t")?), commit: LogIndex(get("commit")?), frame, range, round: get("round")? };
    let entries = entries.iter().map(|(value, _)| Entry { frame, value: value.to_string() }).collect();
    Ok(Body::Frame(append, entries))
}
