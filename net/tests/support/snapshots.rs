//! A source and a receiver of snapshots, as nodes that read and write files.

use kontiki_core::{LogIndex, NodeId, SessionId, Subterm, Term};
use kontiki_mem::{Block, Pool};
use kontiki_net::limits::{SNAPSHOT_CHUNK_BYTES, SNAPSHOT_RECORD_BYTES};
use kontiki_net::{DownReason, NetEvent, Pull, SnapshotId, SnapshotOffer, SnapshotRecord, SnapshotSays, SnapshotWant};

use super::{Cluster, Host};

pub const CHUNK: u64 = SNAPSHOT_CHUNK_BYTES as u64;

/// A snapshot of node 1.
pub const ID: SnapshotId = SnapshotId { source: NodeId(1), index: LogIndex(500), term: Term(3), digest: 0xabcd_ef01 };

pub fn want(offset: u64, chunks: u32) -> SnapshotWant {
    SnapshotWant { id: ID, offset: offset * CHUNK, chunks, held: 0 }
}

fn byte(at: u64) -> u8 {
    (at * 31 + at / 251 + at / CHUNK) as u8
}

/// What stands in the file from `offset` on.
pub fn contents(offset: u64) -> Vec<u8> {
    (offset..offset + CHUNK).map(byte).collect()
}

/// Answers what peers want, as a node does that reads its file.
pub struct Source {
    pub pool: Pool,
    /// What was wanted, in order: (connection, id, offset).
    pub due: Vec<(Pull, SnapshotId, u64)>,
    /// The farthest that a puller said it holds, in bytes.
    pub held: u64,
    /// The newest connection over which something was wanted.
    pub seen: Option<Pull>,
}

impl Source {
    pub fn new() -> Source {
        Source { pool: Pool::new(16, SNAPSHOT_CHUNK_BYTES), due: Vec::new(), held: 0, seen: None }
    }

    pub fn block(&self, offset: u64) -> Option<Block> {
        let mut buf = self.pool.take()?;
        buf.bytes_mut().copy_from_slice(&contents(offset));
        Some(buf.freeze())
    }

    pub fn turn(&mut self, host: &mut Host) {
        let mut others = Vec::new();
        for event in host.take_events() {
            match event {
                NetEvent::SnapshotWanted { pull, want } => {
                    self.held = self.held.max(want.held);
                    self.seen = Some(pull);
                    self.due.extend((0..u64::from(want.chunks)).map(|n| (pull, want.id, want.offset + n * CHUNK)));
                }
                NetEvent::SnapshotServeDown { pull, reason } => {
                    self.due.retain(|due| due.0 != pull);
                    others.push(NetEvent::SnapshotServeDown { pull, reason });
                }
                other => others.push(other),
            }
        }
        host.events = others;
        while let Some(&(pull, id, offset)) = self.due.first() {
            if host.net.snapshot_room(pull) == 0 {
                break;
            }
            let Some(block) = self.block(offset) else { break };
            host.net.send_chunk(pull, id, offset, block, 0).unwrap();
            self.due.remove(0);
        }
    }
}

/// Pulls chunks `next..end` from node 1, and whatever breaks, goes on where it was.
pub struct Receiver {
    pub next: u64,
    pub end: u64,
    pub asked: u64,
    pub broken: Vec<DownReason>,
}

impl Receiver {
    pub fn new(end: u64) -> Receiver {
        Receiver { next: 0, end, asked: 0, broken: Vec::new() }
    }

    pub fn turn(&mut self, host: &mut Host) {
        for event in host.take_events() {
            match event {
                NetEvent::SnapshotChunk { peer, id, offset, chunk } => {
                    assert_eq!((peer, id, offset), (NodeId(1), ID, self.next * CHUNK));
                    assert!(chunk.bytes() == contents(offset), "chunk {}", self.next);
                    self.next += 1;
                }
                NetEvent::SnapshotFetchDown { reason, .. } => {
                    self.asked = self.next;
                    self.broken.push(reason);
                }
                _ => {}
            }
        }
        let now = host.io_now();
        while self.asked < self.end && host.net.want_room(NodeId(1)) > 0 {
            let chunks = (self.end - self.asked).min(3) as u32;
            let part = SnapshotWant { held: self.next * CHUNK, ..want(self.asked, chunks) };
            if host.net.want_snapshot(now, NodeId(1), part).is_err() {
                break;
            }
            self.asked += u64::from(chunks);
        }
    }

    pub fn done(&self) -> bool {
        self.next == self.end
    }
}

/// Runs until all has come; how many turns that took.
pub fn pull(cluster: &mut Cluster, source: &mut Source, receiver: &mut Receiver, mut between: impl FnMut(&mut Cluster, usize)) -> usize {
    for n in 0..20_000 {
        if receiver.done() {
            return n;
        }
        source.turn(&mut cluster.hosts[0]);
        receiver.turn(&mut cluster.hosts[1]);
        between(cluster, n);
        cluster.turn();
    }
    panic!("{} of {} chunks came, and {:?}", receiver.next, receiver.end, receiver.broken);
}

pub fn offer() -> SnapshotOffer {
    SnapshotOffer { id: ID, subterm: Subterm(2), lineage: 7, bytes: 40 * CHUNK }
}

pub fn fetch_downs(host: &Host) -> Vec<DownReason> {
    let reason = |event: &NetEvent| if let NetEvent::SnapshotFetchDown { reason, .. } = event { Some(*reason) } else { None };
    host.events.iter().filter_map(reason).collect()
}

pub fn serve_downs(host: &Host) -> Vec<DownReason> {
    let reason = |event: &NetEvent| if let NetEvent::SnapshotServeDown { reason, .. } = event { Some(*reason) } else { None };
    host.events.iter().filter_map(reason).collect()
}

/// The connections over which something was wanted or asked, in order.
pub fn pulls(host: &Host) -> Vec<Pull> {
    let pull = |event: &NetEvent| match event {
        NetEvent::SnapshotWanted { pull, .. } | NetEvent::SnapshotAsked { pull, .. } => Some(*pull),
        _ => None,
    };
    host.events.iter().filter_map(pull).collect()
}

pub fn wants(host: &Host) -> Vec<SnapshotWant> {
    let want = |event: &NetEvent| if let NetEvent::SnapshotWanted { want, .. } = event { Some(*want) } else { None };
    host.events.iter().filter_map(want).collect()
}

/// A record in session 5.
pub fn said(sequence: u64, says: SnapshotSays) -> Vec<u8> {
    let mut bytes = [0; SNAPSHOT_RECORD_BYTES];
    SnapshotRecord { session: SessionId(5), sequence, says }.encode(&mut bytes);
    bytes.to_vec()
}
