//! Snapshots of the peers: offered to the node under test, and sent as it wants them; or wanted of it.

use kontiki_core::{Base, ClusterId, LogIndex, NodeId, Subterm, Term};
use kontiki_io::Io as _;
use kontiki_net::limits::SNAPSHOT_CHUNK_BYTES;
use kontiki_net::{SnapshotId, SnapshotOffer, SnapshotWant};
use kontiki_snapshot::{Check, Head, Part, encode};

use super::peer::Peer;
use super::world::NODE;

/// One that a peer has, whole.
pub(super) struct Source {
    id: SnapshotId,
    file: Vec<u8>,
}

impl Peer {
    /// Has one as of this entry, with so many bytes of the state machine's in it, and offers it; or what is `cut` behind its
    /// first chunk.
    pub(super) fn offer(&mut self, cluster: u128, (index, term): (LogIndex, Term), bytes: usize, cut: bool) -> Result<(), String> {
        let session = self.net.session(NodeId(NODE)).ok_or("no session")?;
        let base = Base { index, term, subterm: Subterm(0) };
        let head = Head { cluster: ClusterId(cluster), base, full: true, ..Head::default() };
        let file = encode(head, &[(Part::Machine, &vec![0xA5; bytes])]);
        let mut check = Check::new();
        for chunk in file.chunks(SNAPSHOT_CHUNK_BYTES) {
            check.take(chunk).map_err(|flaw| flaw.to_string())?;
        }
        let digest = check.whole().ok_or("it is not whole")?.digest.0;
        let id = SnapshotId { source: NodeId(self.id), index, term, digest };
        let offer =
            SnapshotOffer { id, subterm: base.subterm, lineage: 0, bytes: if cut { SNAPSHOT_CHUNK_BYTES } else { file.len() } as u64 };
        self.source = Some(Source { id, file });
        self.spoke = true;
        self.net.offer_snapshot(self.io.now(), NodeId(NODE), session, &offer).map_err(|error| error.to_string())
    }

    /// Sends what is wanted of it, as far as the connection takes it.
    pub(super) fn serve(&mut self) {
        while let Some((pull, want)) = self.wanted.front_mut()
            && self.net.snapshot_room(*pull) > 0
        {
            let source = self.source.as_ref().filter(|source| source.id == want.id).expect("only what was offered is wanted");
            let at = want.offset as usize;
            let mut block = self.ring.reserve(SNAPSHOT_CHUNK_BYTES).expect("the peer's ring has room");
            block.bytes_mut().copy_from_slice(&source.file[at..at + SNAPSHOT_CHUNK_BYTES]);
            self.net.send_chunk(*pull, want.id, want.offset, block.freeze(), 0).expect("it is wanted");
            (want.offset, want.chunks) = (want.offset + SNAPSHOT_CHUNK_BYTES as u64, want.chunks - 1);
            if want.chunks == 0 {
                self.wanted.pop_front();
            }
        }
    }

    /// Wants so many chunks of what it was offered, and has so many bytes of it.
    pub(super) fn pull(&mut self, chunks: u32, held: u64) -> Result<(), String> {
        let offer = self.offered.ok_or("it was offered none")?;
        self.spoke = true;
        let want = SnapshotWant { id: offer.id, offset: held, chunks, held };
        self.net.want_snapshot(self.io.now(), NodeId(NODE), want).map_err(|error| error.to_string())
    }
}
