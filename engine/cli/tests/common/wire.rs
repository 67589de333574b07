//! What lies between a program and a replica, and replicas that lie.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use kontiki::{ClusterId, Incarnation, NodeId};
use kontiki_core::SessionId;
use kontiki_net::limits::{HELLO_BYTES, SNAPSHOT_CHUNK_BYTES, SNAPSHOT_RECORD_BYTES};
use kontiki_net::{Hello, HelloKind, SnapshotId, SnapshotRecord, SnapshotSays};

/// What becomes of one connection, by what comes from the replica.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fate {
    Whole,
    /// Cut behind so many bytes.
    Cut(u64),
    /// Held up behind so many bytes, and not cut.
    Stalled(u64),
    /// The byte at this place is another one.
    Spoilt(u64),
}

/// Connections to a replica, over this; each has its fate. Further ones are refused, unless the last was whole.
pub(crate) struct Between {
    pub(crate) addr: SocketAddr,
    /// Bytes that came from the replica.
    pub(crate) bytes: Arc<AtomicU64>,
}

impl Between {
    pub(crate) fn new(to: SocketAddr, fates: &[Fate]) -> Between {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let between = Between { addr: listener.local_addr().unwrap(), bytes: Arc::default() };
        let (fates, bytes) = (fates.to_vec(), Arc::clone(&between.bytes));
        thread::spawn(move || {
            for at in 0.. {
                let more = fates.last().copied().filter(|last| matches!(last, Fate::Whole));
                let Some(fate) = fates.get(at).copied().or(more) else { return };
                let Ok((program, _)) = listener.accept() else { return };
                let node = TcpStream::connect(to).unwrap();
                let (mut from, mut back) = (program.try_clone().unwrap(), node.try_clone().unwrap());
                thread::spawn(move || {
                    drop(std::io::copy(&mut from, &mut back));
                    drop(back.shutdown(Shutdown::Write));
                });
                let bytes = Arc::clone(&bytes);
                thread::spawn(move || pass(node, program, fate, &bytes));
            }
        });
        between
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }
}

fn pass(mut node: TcpStream, mut program: TcpStream, fate: Fate, bytes: &AtomicU64) {
    let (mut passed, mut piece) = (0, vec![0; 16 << 10]);
    while let Ok(count @ 1..) = node.read(&mut piece) {
        let mut count = count as u64;
        match fate {
            Fate::Cut(at) | Fate::Stalled(at) => count = count.min(at - passed),
            Fate::Spoilt(at) if (passed..passed + count).contains(&at) => piece[(at - passed) as usize] ^= 4,
            Fate::Whole | Fate::Spoilt(_) => {}
        }
        passed += count;
        bytes.fetch_add(count, Ordering::SeqCst);
        if matches!(fate, Fate::Stalled(at) if at == passed) && program.write_all(&piece[..count as usize]).is_ok() {
            // Until the program is gone: whatever else comes is not passed on.
            drop(std::io::copy(&mut node, &mut std::io::sink()));
            break;
        }
        if program.write_all(&piece[..count as usize]).is_err() || matches!(fate, Fate::Cut(at) if at == passed) {
            break;
        }
    }
    drop(node.shutdown(Shutdown::Both));
    drop(program.shutdown(Shutdown::Both));
}

/// A replica that says that it has this snapshot, of so many bytes, and then sends these, whatever they are.
pub(crate) fn liar(id: SnapshotId, bytes: u64, file: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            drop(lie(&stream, id, bytes, &file));
        }
    });
    addr
}

fn lie(mut stream: &TcpStream, id: SnapshotId, bytes: u64, file: &[u8]) -> std::io::Result<()> {
    let mut greeting = [0; HELLO_BYTES];
    stream.read_exact(&mut greeting)?;
    let hello = Hello::decode(&greeting).unwrap();
    let (cluster, incarnation) = (ClusterId(1), Incarnation(1));
    Hello { kind: HelloKind::Welcome, cluster, from: id.source, to: NodeId(0), incarnation, ..hello }.encode(&mut greeting);
    stream.write_all(&greeting)?;
    let sequence = Mutex::new(0);
    let say = |says| {
        let (mut record, mut sequence) = ([0; SNAPSHOT_RECORD_BYTES], sequence.lock().unwrap());
        *sequence += 1;
        SnapshotRecord { session: SessionId(1), sequence: *sequence, says }.encode(&mut record);
        record
    };
    loop {
        let mut record = [0; SNAPSHOT_RECORD_BYTES];
        stream.read_exact(&mut record)?;
        match SnapshotRecord::decode(&record).unwrap().says {
            SnapshotSays::Which { .. } => stream.write_all(&say(SnapshotSays::This { id, bytes }))?,
            SnapshotSays::Want(want) => {
                for n in 0..u64::from(want.chunks) {
                    let offset = want.offset + n * SNAPSHOT_CHUNK_BYTES as u64;
                    stream.write_all(&say(SnapshotSays::Chunk { id, offset }))?;
                    stream.write_all(&file[offset as usize..][..SNAPSHOT_CHUNK_BYTES])?;
                }
            }
            other => panic!("{other:?}"),
        }
    }
}
