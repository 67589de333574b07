//! The script language: one command a line. What happened stands indented below it.
//!
//! A script begins with `node`, which starts n1 and its peers n2, n3, ...: `n=3` says how many there are,
//! `apply=thread` that the state machine has a thread of its own, `alone` that no peer is up, and every other
//! `key=value` is a value of the configuration. After that come `run` blocks.
//!
//! | command | what it does |
//! |---|---|
//! | `elect` | time passes, peers grant votes and take the no-op, until n1 leads |
//! | `prop a b*3 c:900` | proposes entries, in one turn: a, b1, b2, b3, and c of 900 bytes |
//! | `each a*30` | the same, each entry in a turn of its own: so many frames |
//! | `linger a@5 b@9` | n1 waits awake, while these are proposed so many microseconds later |
//! | `lingers a@5` | from now on n1 waits awake after each turn, as a node with a thread of its own does; the first time these come |
//! | `hold log` / `unhold log` | operations of this kind wait, from now on / no more: `log`, `hard` (state), `read`, `prep` (segments), `snap` (snapshots), `>n2` (sends to n2), `n2>` (receives from it), `apply` |
//! | `ok log` / `ok log 2` | all that wait are done, in one turn / the second oldest is; `ok hard log` both kinds in that order; `ok apply 1` one frame |
//! | `fail log device` | the oldest that waits fails, else the next one does; also `full`, `shortage` |
//! | `disk full` / `disk shortage` / `disk free` | nothing more can be allocated, for lack of space / of something else / it can again |
//! | `msg n2 vote t=5 last=9@3` | n2 says so, in the session that it has |
//! | `frame n2 t=5 commit=0 prev=4@3 a@5 b@5` | n2 sends a frame, its entries after `prev`; `range=6..6`: only that counts; `noop@5` alone is a no-op |
//! | `ladder n2 3..9` | n2 leads in term 9 and sends frames of one entry, of term 3 at 3 and so on |
//! | `offer n2 20@2` | n2 offers a snapshot as of that entry, and sends what is wanted of it; `20@2 900000`: with so many bytes of the state machine's in it; `20@2 cut`: too short to be one |
//! | `pull n2 1` | n2 wants so many chunks of what it was offered last, from its beginning; `1 65536`: behind so many bytes that it has |
//! | `both` + such a command + `/` + another | both happen before anything else does |
//! | `follow n2` / `unfollow n2` | n2 takes frames and answers heartbeats / does not any more |
//! | `votes n2` | n2 grants every vote |
//! | `has n2 5` | a peer that follows holds the log up to 5 |
//! | `down n2` / `up n2` | n2 is gone, its sessions with it / starts |
//! | `client c connect` / `propose a` / `session a` / `query a` / `status` / `snapshot` / `close` | a program at n1's port |
//! | `durable 5` | the state machine calls so much durable, and no more |
//! | `snapshots good` / `bad` / `late` / `none` | the state machine makes snapshots / such as cannot be read / cannot be read to their end / none, as at first |
//! | `takes 6` | each call of the state machine takes so many ms |
//! | `kill` / `kill late` / `start` | n1's process dies; its last writes are lost, or not / starts again, held up by nothing; `volatile` before it: with an empty machine |
//! | `rot 5` | the frame that holds index 5 is damaged on n1's disk |
//! | `rot snapshot 20 5` | so is chunk 5 of its snapshot as of entry 20 |
//! | `stop` | n1 is asked to stop |
//! | `ms 20` | time passes |
//! | `status` | prints what its operator is told, but for what depends on sizes and times |
//! | `ask` / `answered` | somebody waits for a status / prints whether it was answered |
//! | `events` | prints what the product was told since it was asked last |
//! | `quiet` + any command | the same, and nothing is printed |
//! | `state` / `held log` / `turns` | prints n1's state / how many of the kind wait / turns since it was asked last |
//! | `heartbeats on` / `prep on` | prints heartbeats sent / the preparation of segments and what is done to snapshots too |

use kontiki_core::{EntryId, LogIndex, Role};
use kontiki_net::Request;

use super::machine::Reading;
use super::wire::{Host, addr};
use super::words::{class, compact, failure, frame, message, node, number, payloads, position};
use super::{Bench, Client, MS};
use crate::config::Config;

#[test]
fn scripts() {
    scripts_of("");
}

/// Those that wait awake: apart, since that takes its time on a busy machine.
#[test]
fn scripts_of_waiting_awake() {
    scripts_of("/awake");
}

/// A machine whose snapshots break off at their end, for an hour: what is written in vain is bounded by the pauses, and not by the hour. A
/// thousand times as much without them.
#[test]
fn a_snapshot_that_fails_for_an_hour_spares_the_flash() {
    let args = [("n", "1"), ("snapshot_log_bytes", "81920")];
    let args = args.into_iter().map(|(key, value)| (key.to_owned(), vec![value.to_owned()])).collect();
    let mut bench = node_of(args).unwrap();
    for line in ["durable 0", "elect", "snapshots late", "each a*30"] {
        run(&mut bench, line).unwrap();
    }
    let written = |bench: &Bench| bench.world.borrow().stats.bytes_written;
    let (before, mib) = (written(&bench), 1 << 20);
    let mut attempts = 0;
    for _ in 0..3600 {
        attempts += run(&mut bench, "ms 1000").unwrap().matches("snapshot as of").count() as u64;
    }
    // After 1, 2, 4, ... 128 seconds; then every 256.
    assert!((9..=24).contains(&attempts), "{attempts}");
    let after = written(&bench) - before;
    assert!((attempts * mib / 2..=(attempts + 1) * 2 * mib).contains(&after), "{after} bytes in {attempts} attempts");
}

fn scripts_of(folder: &str) {
    let mut ran = 0;
    for file in std::fs::read_dir(format!("{}/tests/node{folder}", env!("CARGO_MANIFEST_DIR"))).unwrap() {
        let path = file.unwrap().path();
        if path.is_dir() {
            continue;
        }
        ran += 1;
        datadriven::walk(path.to_str().unwrap(), |file| {
            let mut bench: Option<Bench> = None;
            file.run(|case| -> Result<String, String> {
                match case.directive.as_str() {
                    "node" => {
                        bench = Some(node_of(case.args.clone())?);
                        Ok(String::new())
                    }
                    "run" => run(bench.as_mut().ok_or("no node yet")?, &case.input),
                    other => Err(format!("{other}: unknown directive")),
                }
            });
        });
    }
    assert!(ran > 0, "no scripts were found");
}

/// A node with small limits, as the arguments say.
fn node_of(mut args: std::collections::HashMap<String, Vec<String>>) -> Result<Bench, String> {
    let mut take = |key: &str| args.remove(key).map(|values| values.concat());
    let members: u64 = take("n").map_or(Ok(3), |n| number(&n))?;
    let (threaded, alone) = (take("apply").as_deref() == Some("thread"), take("alone").is_some());
    let defaults = [
        ("id", "1"),
        ("cluster", "'00000000000000000000000000000a11'"),
        ("dir", "'/data'"),
        ("election_min_ms", "100"),
        ("election_max_ms", "200"),
        ("heartbeat_ms", "20"),
        ("max_entry_bytes", "4096"),
        ("max_frame_bytes", "16384"),
        ("max_in_flight", "64"),
        ("ring_bytes", "262144"),
        ("window_bytes", "65536"),
        ("segment_bytes", "81920"),
        ("retention_bytes", "0"),
        ("snapshot_log_bytes", "1048576"),
        ("max_clients", "4"),
        ("seed", "1"),
    ];
    let mut text = String::new();
    for (key, value) in defaults.iter().filter(|(key, _)| !args.contains_key(*key)) {
        text += &format!("{key} = {value}\n");
    }
    for (key, value) in &args {
        let value = value.concat();
        let quote = if value.starts_with(|c: char| c.is_ascii_digit()) || value == "true" || value == "false" { "" } else { "'" };
        text += &format!("{key} = {quote}{value}{quote}\n");
    }
    let entries: Vec<String> = (1..=members).map(|id| format!("{{ id = {id}, addr = '{}' }}", addr(id))).collect();
    text += &format!("members = [{}]\n", entries.join(", "));
    let config = Config::from_toml(&text).map_err(|error| error.to_string())?;
    Ok(Bench::new(config, threaded, !alone))
}

/// Runs a script's lines; returns what happened.
fn run(bench: &mut Bench, input: &str) -> Result<String, String> {
    let mut out = String::new();
    for line in input.lines().filter(|line| !line.trim().is_empty()) {
        let mut printed = String::new();
        let (quiet, words) = line.strip_prefix("quiet ").map_or((false, line), |words| (true, words));
        let commands = words.strip_prefix("both ").map_or(vec![words], |both| both.split(" / ").collect());
        for one in commands {
            printed += &command(bench, one).map_err(|error| format!("{line}: {error}"))?;
        }
        bench.settle();
        out += &format!("{line}\n");
        let trace = std::mem::take(&mut bench.world.borrow_mut().trace);
        for text in trace.iter().map(String::as_str).chain(printed.lines()).filter(|_| !quiet) {
            out += &format!("  {text}\n");
        }
    }
    Ok(out)
}

fn command(bench: &mut Bench, line: &str) -> Result<String, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let word = |at: usize| words.get(at).copied().ok_or("too few words".to_string());
    let rest = &words[1..];
    match word(0)? {
        "elect" => {
            let before: Vec<(Host, bool, bool)> = bench.peers.iter().map(|peer| (peer.id, peer.votes, peer.follows)).collect();
            bench.peers.iter_mut().for_each(|peer| (peer.votes, peer.follows) = (true, true));
            let won = bench.pass(2_000 * MS, |bench| bench.replica().is_some_and(|replica| replica.group.role == Role::Leader));
            for (peer, (_, votes, follows)) in bench.peers.iter_mut().zip(before) {
                (peer.votes, peer.follows) = (votes, follows);
            }
            if !won {
                return Ok("not elected".into());
            }
        }
        "prop" => bench.propose(rest.iter().flat_map(|word| payloads(word))),
        "each" => {
            for payload in rest.iter().flat_map(|word| payloads(word)) {
                bench.propose(std::iter::once(payload));
                bench.settle();
            }
        }
        "linger" => {
            bench.coming = coming(rest)?;
            return Ok(format!("waited {} us", bench.linger()));
        }
        "lingers" => {
            bench.coming = coming(rest)?;
            bench.lingers = true;
        }
        "hold" if word(1)? == "apply" => bench.apply_held = true,
        "unhold" if word(1)? == "apply" => bench.apply_held = false,
        "hold" => {
            let class = class(word(1)?)?;
            bench.world.borrow_mut().holds.push(class);
        }
        "unhold" => {
            let class = class(word(1)?)?;
            bench.world.borrow_mut().holds.retain(|held| *held != class);
        }
        "ok" if word(1)? == "apply" => {
            let count = words.get(2).map_or(Ok(u64::MAX), |count| number(count))?;
            (0..count).all(|_| bench.apply());
        }
        "ok" => {
            for (at, name) in rest.iter().enumerate().filter(|(_, word)| number(word).is_err()) {
                let mut world = bench.world.borrow_mut();
                let held = world.held(class(name)?);
                match rest.get(at + 1).and_then(|word| number(word).ok()) {
                    Some(nth) if nth as usize > held.len() => return Ok(format!("{} wait", held.len())),
                    Some(nth) => world.let_go(held[nth as usize - 1], None),
                    None if held.is_empty() => return Ok("none waits".into()),
                    None => held.iter().for_each(|&number| world.let_go(number, None)),
                }
            }
        }
        "fail" => {
            let (class, kind) = (class(word(1)?)?, failure(word(2)?)?);
            let mut world = bench.world.borrow_mut();
            match world.held(class).first() {
                Some(&number) => world.let_go(number, Some(kind)),
                None => world.failing.push((class, kind)),
            }
        }
        "disk" => bench.world.borrow_mut().disk.lacks = Some(word(1)?).filter(|what| *what != "free").map(failure).transpose()?,
        "msg" => {
            let message = message(&words[2..])?;
            return Ok(bench.peer(node(word(1)?)?)?.say(&message).err().unwrap_or_default());
        }
        "frame" => {
            let cluster = bench.config.cluster;
            let frame = frame(&words[2..])?;
            return Ok(bench.peer(node(word(1)?)?)?.send(cluster, &frame).err().unwrap_or_default());
        }
        "offer" => {
            let (cluster, at) = (bench.config.cluster, position(word(2)?)?);
            let bytes = words.get(3).filter(|bytes| **bytes != "cut").map_or(Ok(8), |bytes| number(bytes))? as usize;
            let cut = words.get(3) == Some(&"cut");
            return Ok(bench.peer(node(word(1)?)?)?.offer(cluster, at, bytes, cut).err().unwrap_or_default());
        }
        "pull" => {
            let held = words.get(3).map_or(Ok(0), |held| number(held))?;
            return Ok(bench.peer(node(word(1)?)?)?.pull(number(word(2)?)? as u32, held).err().unwrap_or_default());
        }
        "ladder" => {
            let (from, to) = word(2)?.split_once("..").ok_or("from..to")?;
            for at in number(from)?..=number(to)? {
                let line = format!("t={to} prev={}@{} s{at}@{at}", at - 1, at - 1);
                let (cluster, words) = (bench.config.cluster, line.split_whitespace().collect::<Vec<_>>());
                bench.peer(node(word(1)?)?)?.send(cluster, &frame(&words)?)?;
                bench.settle();
            }
        }
        "follow" | "unfollow" => bench.peer(node(word(1)?)?)?.follows = word(0)? == "follow",
        "votes" => bench.peer(node(word(1)?)?)?.votes = true,
        "has" => bench.peer(node(word(1)?)?)?.last = LogIndex(number(word(2)?)?),
        "down" => bench.down(node(word(1)?)?),
        "up" => bench.up(node(word(1)?)?),
        "client" => return client(bench, word(1)?, word(2)?, words.get(3)),
        "durable" => bench.machine.memory().durable = Some(LogIndex(number(word(1)?)?)),
        "snapshots" => {
            bench.machine.memory().snapshots = match word(1)? {
                "none" => None,
                "good" => Some(Reading::Whole),
                "bad" => Some(Reading::Nothing),
                "late" => Some(Reading::Most),
                other => return Err(format!("{other}: none, good, bad or late")),
            }
        }
        "takes" => bench.machine.memory().takes = number(word(1)?)? * MS,
        "volatile" => bench.machine.memory().applied = EntryId::default(),
        "kill" => bench.kill(words.len() > 1),
        "start" => {
            bench.start();
            let up = |bench: &Bench| bench.running.is_none() || bench.replica().is_some() && bench.connected() == bench.peers.len();
            let holds = {
                let mut world = bench.world.borrow_mut();
                world.told.0 = false;
                std::mem::take(&mut world.holds)
            };
            bench.pass(1_500 * MS, up);
            let mut world = bench.world.borrow_mut();
            (world.told.0, world.holds) = (true, holds);
            drop(world);
            return Ok(state(bench));
        }
        "rot" if word(1)? == "snapshot" => {
            let name = kontiki_snapshot::names::snapshot(LogIndex(number(word(2)?)?));
            let at = number(word(3)?)? as usize * kontiki_snapshot::limits::CHUNK_BYTES;
            return Ok(if bench.world.borrow_mut().disk.spoil(&name, at) { String::new() } else { "it is not there".into() });
        }
        "rot" => {
            let index = LogIndex(number(word(1)?)?);
            let holds = |block: &[u8]| {
                kontiki_frame::parse_header(block).is_ok_and(|header| header.meta.first <= index && index <= header.meta.last())
            };
            return Ok(format!("{} frames", bench.world.borrow_mut().disk.rot(holds)));
        }
        "stop" => bench.running.as_ref().ok_or("it is down")?.proposer.stop(),
        "ms" => {
            let ns = number(word(1)?)? * MS;
            bench.pass(ns, |_| false);
        }
        "state" => return Ok(state(bench)),
        "status" => return Ok(status(bench)),
        "ask" => {
            let running = bench.running.as_mut().ok_or("it is down")?;
            running.asked = running.reactor.shared().ask_status();
        }
        "answered" => {
            let running = bench.running.as_ref().ok_or("it is down")?;
            return Ok(running.reactor.shared().is_answered(running.asked).to_string());
        }
        "events" => {
            let running = bench.running.as_mut().ok_or("it is down")?;
            let told = std::iter::from_fn(|| running.events.poll()).map(|event| compact(&event));
            return Ok(told.collect::<Vec<_>>().join("\n"));
        }
        "held" => {
            let held = bench.world.borrow().held(class(word(1)?)?);
            return Ok(held.len().to_string());
        }
        "turns" => {
            let running = bench.running.as_mut().ok_or("it is down")?;
            return Ok(std::mem::take(&mut running.turns).to_string());
        }
        "heartbeats" => bench.heartbeats = word(1)? == "on",
        "prep" => bench.world.borrow_mut().told.1 = word(1)? == "on",
        other => return Err(format!("{other}: unknown command")),
    }
    Ok(String::new())
}

fn client(bench: &mut Bench, name: &str, what: &str, payload: Option<&&str>) -> Result<String, String> {
    let world = std::rc::Rc::clone(&bench.world);
    if what == "connect" {
        bench.started += 1;
        bench.clients.push(Client::connect(&world, name, bench.started));
        return Ok(String::new());
    }
    let client = bench.clients.iter_mut().find(|client| client.name == name).ok_or(format!("{name} is not connected"))?;
    let payload = payload.map(|word| payloads(word).concat()).unwrap_or_default();
    let payload = payload.as_slice();
    let request = match what {
        "propose" => Request::Propose { session: None, payload },
        "session" => Request::Propose { session: Some((1, 1)), payload },
        "query" => Request::Query { payload },
        "status" => Request::Status,
        "snapshot" => Request::Snapshot,
        "close" => {
            client.close(&world);
            bench.clients.retain(|client| client.name != name);
            return Ok(String::new());
        }
        other => return Err(format!("{other}: connect, propose, session, query, status, snapshot or close")),
    };
    client.ask(&world, &request);
    Ok(String::new())
}

/// `entry@microseconds`: what callers propose while the node waits awake.
fn coming(words: &[&str]) -> Result<Vec<(u64, Vec<u8>)>, String> {
    let mut coming = Vec::new();
    for word in words {
        let (what, after) = word.split_once('@').ok_or(format!("{word}: entry@microseconds"))?;
        let after = number(after)?;
        coming.extend(payloads(what).into_iter().map(|payload| (after, payload)));
    }
    Ok(coming)
}

/// The node in a line, and what it knows of its followers.
fn state(bench: &Bench) -> String {
    let Some(replica) = bench.replica() else { return if bench.running.is_some() { "not up yet" } else { "down" }.into() };
    let (role, term) = replica.standing();
    let raft = &replica.group.raft;
    let mut out = format!(
        "{role:?} t{term}{} log {}..{} durable {} commit {} here {} applied {} handed {}",
        if raft.recovering() { " recovering" } else { "" },
        replica.host.wal.first_index(),
        raft.last_index(),
        raft.durable(),
        replica.group.commit,
        raft.commit_here(),
        replica.group.queue.applied(),
        replica.group.next_apply.prev(),
    );
    let cached = replica.group.cache.first().map_or("-".into(), |first| format!("{first}.."));
    out += &format!(
        "\nin memory {cached} read buffers {} stalled {} deferred {} writes {} clients {} unanswered {}\n",
        replica.group.catchup.pool.available(),
        replica.group.stalled.len(),
        replica.group.deferred.len(),
        replica.group.writes.len(),
        !replica.group.clients.is_empty(),
        bench.tickets.borrow().len(),
    );
    if role == Role::Leader {
        for p in raft.progress() {
            let mode = if p.probing { "probe" } else { "replicate" };
            out += &format!("n{} matched {} next {} {mode}\n", p.peer, p.matched, p.next);
        }
    }
    out
}

/// What an operator is told, as far as it depends on no size and no time.
fn status(bench: &Bench) -> String {
    let Some(running) = &bench.running else { return "down".into() };
    let Some(replica) = running.reactor.replica() else { return "not up yet".into() };
    let status = replica.group.status(&replica.host, running.reactor.io());
    let crate::Status { id, incarnation, role, term, commit, applied, first, last, durable, counters, .. } = &status;
    let leader = status.leader.map_or("nobody".into(), |leader| format!("n{}", leader.id));
    let mut out = format!(
        "n{id} start {incarnation} {role:?} t{term} leader {leader} log {first}..{last} durable {durable} commit {commit} applied {applied}{}{}{}\n\
         proposed {} applied {} sealed {} received {} sessions {} refusals {} won {} busy {}\n\
         flushes timed {} commits timed {}, the longest {} us and {} us\n",
        if status.recovering { " recovering" } else { "" },
        match (status.disk_full, status.log_full, status.shortage) {
            (true, ..) => " disk full",
            (_, true, _) => " log full",
            (.., Some(_)) => " shortage",
            _ => "",
        },
        if status.disk_slow {
            format!(" disk slow, elections wait {} to {} ms", status.election_ms.0, status.election_ms.1)
        } else {
            String::new()
        },
        counters.entries_proposed,
        counters.entries_applied,
        counters.frames_sealed,
        counters.frames_received,
        counters.sessions,
        counters.refusals,
        counters.elections_won,
        counters.busy,
        status.flush_latency.count(),
        status.commit_latency.count(),
        status.flush_latency.max_ns / 1_000,
        status.commit_latency.max_ns / 1_000,
    );
    for trouble in status.snapshot_troubles {
        out += &format!("{}: {}\n", trouble.kind, trouble.reason);
    }
    for peer in status.peers {
        let up = if peer.connected { "connected" } else { "away" };
        let mode = if peer.probing { "probe" } else { "replicate" };
        out += &format!("n{} {up} matched {} next {} {mode} under way {}\n", peer.id, peer.matched, peer.next, peer.inflight_bytes);
    }
    out
}

#[test]
fn messages_are_written_in_short() {
    let message = kontiki_core::Message::Vote {
        term: kontiki_core::Term(3),
        last_index: LogIndex(4),
        last_term: kontiki_core::Term(2),
        all_answered: true,
    };
    assert_eq!(compact(&message), "Vote term=3 last_index=4 last_term=2 all_answered=true");
}
