//! Writes the seed corpora: each format as its own encoder writes it. `cargo run --example seeds`, in this directory; the result is in the tree.
//!
//! (An example, since `cargo fuzz` builds every binary with instrumentation, which only a target links.)

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use kontiki_core::{ClusterId, FrameMeta, GroupId, Incarnation, IndexRange, LogIndex, Message, NodeId, SessionId, Term, Time, WriteId};
use kontiki_frame::{BODY_OFFSET, Header, Kind, STAMP_BYTES, WireStamp, frame_bytes, put_entry, seal, seal_noop};
use kontiki_fuzz::chunks;
use kontiki_fuzz::image::{self, Image};
use kontiki_io::{Backend, Io};
use kontiki_mem::Ring;
use kontiki_net::limits::{CONTROL_MAX_BYTES, HELLO_BYTES};
use kontiki_net::{
    Channel, Control, ControlPayload, HandshakeRefusal, Hello, HelloKind, Parameters, Request, Response, SnapshotId, SnapshotOffer,
    SnapshotRecord, SnapshotRefusal, SnapshotSays, SnapshotWant, WrittenSnapshot, encode_request, encode_response,
};
use kontiki_snapshot::limits::{CHUNK_BYTES, DATA_BYTES};
use kontiki_snapshot::{Head, Part, encode};
use kontiki_wal::limits::{HARD_STATE_COPY_OFFSET, MIN_SEGMENT_BYTES};
use kontiki_wal::{HardState, Opening, Options, Wal, names, offline};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

const CLUSTER: ClusterId = ClusterId(0xc1);

fn main() -> Outcome {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    for (target, made) in [
        ("frame", frames()),
        ("control", controls()?),
        ("hello", hellos()),
        ("client", clients()?),
        ("wal", logs()?),
        ("snapshot", snapshots()),
        ("pull", pulls()),
        ("fetch", fetches()),
        ("config", configs()),
    ] {
        let dir = seeds.join(target);
        fs::create_dir_all(&dir)?;
        for (name, bytes) in made {
            fs::write(dir.join(name), bytes)?;
        }
    }
    Ok(())
}

type Seeds = Vec<(String, Vec<u8>)>;

/// Without the zeros at its end, which the target puts back.
fn trimmed(bytes: &[u8]) -> Vec<u8> {
    bytes[..bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1)].to_vec()
}

fn meta(term: u64, first: u64, count: u32, prev_term: u64) -> FrameMeta {
    FrameMeta { term: Term(term), first: LogIndex(first), count, prev_term: Term(prev_term) }
}

/// A sealed frame of `payloads`, written into `out`, which has its length.
fn fill(out: &mut [u8], meta: FrameMeta, kind: Kind, session: Option<(u64, u64)>, payloads: &[&[u8]]) {
    let mut at = BODY_OFFSET;
    for payload in payloads {
        at = put_entry(out, at, session, payload).expect("the frame has room");
    }
    let body_bytes = (at - BODY_OFFSET) as u32;
    let (subterm, cluster_ns) = (kontiki_core::Subterm(0), 0);
    seal(
        out,
        &Header {
            kind,
            sessions: session.is_some(),
            cluster: CLUSTER,
            group: GroupId(0),
            meta,
            subterm,
            cluster_ns,
            proposed_ns: 5,
            body_bytes,
        },
    );
}

fn body_of(session: Option<(u64, u64)>, payloads: &[&[u8]]) -> usize {
    payloads.iter().map(|payload| 4 + session.map_or(0, |_| 16) + payload.len()).sum()
}

fn frames() -> Seeds {
    let stamped = |mut frame: Vec<u8>, meta: FrameMeta| {
        let stamp = WireStamp {
            session: SessionId(9),
            sequence: 1,
            leader_term: meta.term,
            commit: meta.first.prev(),
            range: meta.range(),
            round: 4,
        };
        let mut head = [0; STAMP_BYTES];
        stamp.write(&mut head, &frame);
        frame[..STAMP_BYTES].copy_from_slice(&head);
        trimmed(&frame)
    };
    let made = |kind, session, payloads: &[&[u8]]| {
        let meta = meta(3, 7, payloads.len() as u32, 2);
        let mut frame = vec![0; frame_bytes(body_of(session, payloads))];
        fill(&mut frame, meta, kind, session, payloads);
        stamped(frame, meta)
    };
    let mut noop = vec![0; frame_bytes(4)];
    seal_noop(&mut noop, CLUSTER, GroupId(0), meta(2, 1, 1, 0), 5);
    vec![
        ("noop".into(), stamped(noop, meta(2, 1, 1, 0))),
        ("one".into(), made(Kind::Entries, None, &[b"hello"])),
        ("three".into(), made(Kind::Entries, None, &[b"", b"two", b"and three"])),
        ("sessions".into(), made(Kind::Entries, Some((4, 5)), &[b"x", b""])),
        ("configuration".into(), made(Kind::Configuration, None, &[b"{}"])),
        ("two_blocks".into(), made(Kind::Entries, None, &[&[7; 4100]])),
    ]
}

fn controls() -> Outcome<Seeds> {
    let (term, index) = (Term(3), LogIndex(8));
    let messages = [
        Message::PreVote { term, last_index: index, last_term: term },
        Message::PreVoteReply { term, granted: true, last_index: index, last_term: term, recovering: false },
        Message::Vote { term, last_index: index, last_term: term, all_answered: false },
        Message::VoteReply { term, granted: true },
        Message::Heartbeat { term, commit: index, round: 4, term_start: index, session_commit: index },
        Message::HeartbeatReply { term, round: 4, recovering: false, needs_base: false, last_index: index },
        Message::Accepted { term, round: 4, matched: index },
        Message::Received { term, round: 4, index },
        Message::Rejected { term, round: 4, prev: index, last_index: index, conflict_term: term, conflict_first: index },
    ];
    let parameters = Parameters { takes_frame_bytes: 1 << 20, heartbeat_ms: 40, election_min_ms: 150, ..Parameters::default() };
    let payloads =
        messages.into_iter().map(ControlPayload::Message).chain([ControlPayload::Keepalive, ControlPayload::Parameters(parameters)]);
    let offer = SnapshotOffer { id: snapshot_id(), subterm: kontiki_core::Subterm(0), lineage: 0, bytes: 4 * CHUNK_BYTES as u64 };
    let payloads = payloads.chain([ControlPayload::Offer(offer)]);
    let mut seeds = Seeds::new();
    for (n, payload) in payloads.enumerate() {
        let mut out = [0; CONTROL_MAX_BYTES];
        let control = Control { session: SessionId(9), sequence: 1 + n as u64, payload };
        let length = control.encode(&mut out).ok_or("a message longer than the longest")?;
        seeds.push((format!("kind_{}", n + 1), out[..length].to_vec()));
    }
    Ok(seeds)
}

fn hellos() -> Seeds {
    let refused = HandshakeRefusal::Version { ours: 2.into(), theirs: 1.into() }.to_wire();
    let mut seeds = Seeds::new();
    for (name, kind, channel, (code, detail)) in [
        ("control", HelloKind::Hello, Channel::Control, (0, 0)),
        ("bulk", HelloKind::Hello, Channel::Bulk, (0, 0)),
        ("client", HelloKind::Hello, Channel::Client, (0, 0)),
        ("welcome", HelloKind::Welcome, Channel::Control, (0, 0)),
        ("refused", HelloKind::Welcome, Channel::Bulk, refused),
    ] {
        let hello = Hello {
            kind,
            channel,
            code,
            detail,
            cluster: CLUSTER,
            from: NodeId(1),
            to: NodeId(2),
            incarnation: Incarnation(3),
            process_number: 4,
            session: SessionId(5),
            nonce: 6,
        };
        let mut out = [0; HELLO_BYTES];
        hello.encode(&mut out);
        seeds.push((name.into(), out.to_vec()));
    }
    seeds
}

fn clients() -> Outcome<Seeds> {
    let mut seeds = Seeds::new();
    let mut out = [0; 512];
    let requests = [
        Request::Propose { session: None, payload: b"a proposal" },
        Request::Propose { session: Some((1, 2)), payload: b"a proposal" },
        Request::Query { payload: b"a question" },
        Request::Status,
        Request::Snapshot,
    ];
    for (n, request) in requests.iter().enumerate() {
        let length = encode_request(7, request, &mut out).ok_or("a request without room")?;
        seeds.push((format!("request_{n}"), out[..length].to_vec()));
    }
    let responses = [
        Response::Applied { index: 9, reply: b"a reply" },
        Response::NotApplied,
        Response::Unknown,
        Response::NotLeader { leader: Some(NodeId(3)), address: Some("[fe80::1]:7001".parse()?) },
        Response::NotLeader { leader: None, address: Some("127.0.0.1:7001".parse()?) },
        Response::Busy,
        Response::Status(b"leader"),
        Response::Reply(b"an answer"),
        Response::Error { code: 5, text: "no" },
        Response::Snapshot(WrittenSnapshot { index: 9, term: 2, full: true, bytes: 4 * CHUNK_BYTES as u64, digest: 0x1234_5678 }),
    ];
    for (n, response) in responses.iter().enumerate() {
        let length = encode_response(7, response, &mut out).ok_or("a response without room")?;
        seeds.push((format!("response_{n}"), out[..length].to_vec()));
    }
    Ok(seeds)
}

fn configs() -> Seeds {
    let example = include_str!("../../../engine/cli/src/node.example.toml");
    let plain = example.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let every = example.lines().map(|line| line.strip_prefix("# ").filter(|rest| rest.contains(" = ")).unwrap_or(line));
    let text = |lines: Vec<&str>| (lines.join("\n") + "\n").into_bytes();
    vec![("plain".into(), text(plain.collect())), ("every_key".into(), text(every.filter(|line| !line.starts_with('#')).collect()))]
}

/// How long to wait for something to complete.
fn soon(io: &dyn Io) -> Option<Time> {
    Some(io.now().plus_ns(100_000_000))
}

/// A log in a directory of its own, driven to rest after each step.
struct Log {
    io: Box<dyn Io + Send>,
    wal: Wal,
    ring: Ring,
    writes: u64,
}

impl Log {
    fn open(dir: &Path) -> Outcome<Log> {
        let mut io = kontiki_io::open(&kontiki_io::Options { backend: Backend::Portable, ..Default::default() }, &[])?;
        let options = Options {
            dir: dir.to_owned(),
            cluster: CLUSTER,
            node: NodeId(2),
            segment_bytes: MIN_SEGMENT_BYTES,
            max_frame_bytes: 16 << 10,
            ..Options::default()
        };
        let mut opening = Opening::start(options, &mut *io)?;
        let mut done = Vec::new();
        let wal = loop {
            if let Some(opened) = opening.poll()? {
                break opened.wal;
            }
            if opening.wants_bases() {
                opening.set_bases(&[], &mut *io);
            }
            io.turn(soon(&*io), &mut done)?;
            for completion in done.drain(..) {
                opening.on_completion(completion, &mut *io);
            }
        };
        let mut log = Log { io, wal, ring: Ring::new(1 << 20, 64)?, writes: 0 };
        log.rest()?;
        Ok(log)
    }

    /// Everything asked for is durable, and the next segment is prepared.
    fn rest(&mut self) -> Outcome {
        let mut done = Vec::new();
        self.wal.pump(&mut *self.io);
        while !self.wal.idle() {
            self.io.turn(soon(&*self.io), &mut done)?;
            for completion in done.drain(..) {
                self.wal.on_completion(completion, &mut *self.io);
            }
            while self.wal.next_event().is_some() {}
            self.wal.pump(&mut *self.io);
        }
        Ok(())
    }

    fn save(&mut self, term: u64, vote: u64) -> Outcome {
        self.writes += 1;
        self.wal.save_hard_state(WriteId(self.writes), HardState { term: Term(term), vote: Some(NodeId(vote)), recovering: false });
        self.rest()
    }

    /// A frame of one entry, superseding what stands at its index.
    fn append(&mut self, index: u64, term: u64, prev_term: u64, payload: &[u8]) -> Outcome {
        self.writes += 1;
        let meta = meta(term, index, 1, prev_term);
        let mut block = self.ring.reserve(frame_bytes(4 + payload.len())).ok_or("the ring is full")?;
        fill(block.bytes_mut(), meta, Kind::Entries, None, &[payload]);
        let range = IndexRange { from: LogIndex(index), to: LogIndex(index) };
        self.wal.append(WriteId(self.writes), block, range, meta);
        self.rest()
    }

    fn close(mut self) -> Outcome {
        let mut done = Vec::new();
        self.wal.close(&mut *self.io);
        while !self.wal.closed() {
            self.io.turn(soon(&*self.io), &mut done)?;
            for completion in done.drain(..) {
                self.wal.on_completion(completion, &mut *self.io);
            }
        }
        Ok(())
    }
}

/// The directory as it stands, as an image.
fn picture(dir: &Path, flags: u8) -> Outcome<Vec<u8>> {
    let hard_state = fs::read(dir.join(names::HARD_STATE))?;
    let copies = [&hard_state[..4096], &hard_state[HARD_STATE_COPY_OFFSET as usize..]];
    let mut segments = Vec::new();
    while let Ok(segment) = fs::read(dir.join(names::segment(1 + segments.len() as u64).as_str())) {
        segments.push(segment);
    }
    let bytes = image::describe(copies, &segments, flags);
    let image = Image::new(&bytes);
    let mut read = |name: &_, offset, into: &mut [u8]| Ok::<_, std::convert::Infallible>(image.read(name, offset, into));
    let verdict = offline::examine(&image.list(), &[], &mut read, &mut |_| ())?;
    assert!(verdict.intact(), "a seed is a good log: {verdict:?}");
    Ok(bytes)
}

fn snapshot_id() -> SnapshotId {
    SnapshotId { source: NodeId(2), index: LogIndex(9), term: Term(2), digest: 0x1234_5678 }
}

fn pulls() -> Seeds {
    let (id, chunk) = (snapshot_id(), CHUNK_BYTES as u64);
    let said = [
        ("which", SnapshotSays::Which { now: true }),
        ("this", SnapshotSays::This { id, bytes: 4 * chunk }),
        ("want", SnapshotSays::Want(SnapshotWant { id, offset: chunk, chunks: 2, held: chunk })),
        ("chunk", SnapshotSays::Chunk { id, offset: 2 * chunk }),
        ("gone", SnapshotSays::Refused(SnapshotRefusal::Gone)),
        ("for_another_reason", SnapshotSays::Refused(SnapshotRefusal::Other { code: 77 })),
    ];
    let written = said.into_iter().enumerate().map(|(n, (name, says))| {
        let mut out = [0; kontiki_net::limits::SNAPSHOT_RECORD_BYTES];
        SnapshotRecord { session: SessionId(9), sequence: 1 + n as u64, says }.encode(&mut out);
        (name.to_string(), out.to_vec())
    });
    written.collect()
}

/// Scripts of `engine/snapshot/tests/support/hostile.rs`: an instruction and its argument each.
fn fetches() -> Seeds {
    let right = [0, 0, 7, 8];
    let mut seeds = vec![("in_order".into(), right.repeat(8))];
    for (name, other) in
        [("spoilt", [2, 77]), ("elsewhere", [3, 4]), ("anothers", [6, 0]), ("cut", [8, 4]), ("abandoned", [8, 1]), ("short", [8, 3])]
    {
        let mut script = right.repeat(3);
        script.extend(other);
        script.extend(right.repeat(3));
        seeds.push((name.into(), script));
    }
    seeds
}

fn snapshots() -> Seeds {
    let base = kontiki_core::Base { index: LogIndex(9), term: Term(2), subterm: kontiki_core::Subterm(0) };
    let head = Head { cluster: CLUSTER, base, full: true, ..Head::default() };
    let zeros = vec![0; DATA_BYTES + 1];
    let whole = encode(head, &[(Part::Configuration, b"members"), (Part::Sessions, b"clients"), (Part::Machine, &zeros)]);
    let small = encode(Head { full: false, ..head }, &[]);
    vec![
        ("whole".into(), chunks::describe(&whole, 0)),
        ("whole_repaired".into(), chunks::describe(&whole, chunks::REPAIR)),
        ("small_repaired".into(), chunks::describe(&small, chunks::REPAIR)),
        ("without_foot".into(), chunks::describe(&whole[..whole.len() - CHUNK_BYTES], chunks::REPAIR)),
    ]
}

fn logs() -> Outcome<Seeds> {
    let dir: PathBuf = std::env::temp_dir().join(format!("kontiki-seeds-{}", std::process::id()));
    fs::create_dir(&dir)?;
    let mut seeds = Seeds::new();
    let mut log = Log::open(&dir)?;
    seeds.push(("empty".into(), picture(&dir, 0)?));
    log.save(2, 1)?;
    log.append(1, 2, 0, b"one")?;
    log.append(2, 2, 2, b"two")?;
    seeds.push(("two_frames".into(), picture(&dir, 0)?));
    seeds.push(("two_frames_repaired".into(), picture(&dir, image::REPAIR)?));
    log.save(3, 2)?;
    log.append(2, 3, 2, b"other")?;
    log.close()?;
    seeds.push(("superseded_and_closed".into(), picture(&dir, image::REPAIR)?));
    let mut log = Log::open(&dir)?;
    log.save(4, 1)?;
    for index in 3..16 {
        log.append(index, 4, if index == 3 { 3 } else { 4 }, &[7; 20])?;
    }
    seeds.push(("second_boot_two_segments".into(), picture(&dir, image::REPAIR)?));
    log.append(16, 4, 4, &[7; 4500])?;
    seeds.push(("frame_of_two_blocks".into(), picture(&dir, image::REPAIR)?));
    log.close()?;
    fs::remove_dir_all(&dir)?;
    Ok(seeds)
}
