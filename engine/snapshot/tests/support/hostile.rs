//! A source that sends anything at any place, at a node whose power fails: what it does is told by bytes, any bytes. Used by
//! the tests and by the fuzz target `fetch`.

use std::sync::OnceLock;

use kontiki_snapshot::limits::CHUNK_BYTES;

use super::{CHUNK, Node, World, file_of, offer_of, state};

const BYTES: usize = 300_000;
/// Instructions that are followed.
const MOST: usize = 64;

/// What is offered, and another snapshot of the same length.
fn files() -> &'static [Vec<u8>; 2] {
    static FILES: OnceLock<[Vec<u8>; 2]> = OnceLock::new();
    FILES.get_or_init(|| [file_of(50, BYTES), file_of(51, BYTES)])
}

/// Follows the script, and then sends what is wanted, as it is: the node has the snapshot in the end, and nothing else
/// ever counted as one.
///
/// ```text
/// what u8 | argument u8      an instruction; and so on
/// ```
pub fn source(script: &[u8]) {
    let [file, other] = files();
    let chunk = |of: &'static [u8], number: usize| &of[number * CHUNK_BYTES..(number + 1) * CHUNK_BYTES];
    let count = file.len() / CHUNK_BYTES;
    let mut node = Node::open(super::Disk::default());
    node.store.fetch(offer_of(file)).unwrap();
    for &[what, argument] in script.as_chunks::<2>().0.iter().take(MOST) {
        let at = usize::from(argument);
        let wanted = node.store.want().map(|want| want.offset);
        let place = wanted.unwrap_or(at as u64 * CHUNK);
        match what % 9 {
            // The right one, in its place.
            0 | 1 => {
                if let Some(place) = wanted {
                    let _ = node.store.accept(place, chunk(file, (place / CHUNK) as usize));
                }
            }
            2 => {
                let mut spoilt = chunk(file, (place / CHUNK) as usize % count).to_vec();
                spoilt[at * 257 % CHUNK_BYTES] ^= 1 << (what >> 5);
                let _ = node.store.accept(place, &spoilt);
            }
            // Another's place, another place's, another snapshot's, a part of one.
            3 => drop(node.store.accept(place, chunk(file, at % count))),
            4 => drop(node.store.accept((at % count) as u64 * CHUNK, chunk(file, at % count))),
            5 => drop(node.store.accept(u64::from_le_bytes([argument; 8]), chunk(file, at % count))),
            6 => drop(node.store.accept(place, chunk(other, (place / CHUNK) as usize % count))),
            7 => {
                for _ in 0..at % 16 {
                    node.step();
                }
            }
            _ => match at % 4 {
                0 => {
                    let disk = node.world.cut(u64::from(argument) / 4);
                    node = Node::start(World::new(disk)).unwrap().unwrap_or_else(|_| panic!("the power does not fail again"));
                    let _ = node.store.fetch(offer_of(if at < 240 { file } else { other }));
                }
                1 => node.store.abandon(),
                2 => drop(node.store.fetch(offer_of(other))),
                _ => drop(node.store.accept(place, &chunk(file, 1)[..at])),
            },
        }
        let known = |digest| [file, other].iter().any(|file| offer_of(file).digest == digest);
        assert!(node.store.snapshots().all(|info| known(info.digest)), "what was never offered counts as a snapshot");
    }
    // Whatever was under way ends, and then it is fetched in order.
    node.store.abandon();
    node.run();
    for _ in 0..4 {
        if node.store.snapshots().any(|info| info.digest == offer_of(file).digest) {
            break;
        }
        if node.store.fetch(offer_of(file)).is_ok() {
            node.serve(file, u64::MAX, &mut |_, _| {});
        }
        node.run();
    }
    assert_eq!(node.machine(offer_of(file).digest).unwrap(), state(50, BYTES));
}
