//! Nodes that do not come together: each one's status says who refuses whom and why, and who cannot be reached.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types)]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use kontiki::client::{Client, ClientOptions};
use kontiki::{Config, Member, Node, NodeId, Status};
use support::{LONG, Recorder, free_addrs};

fn members(addrs: &[SocketAddr]) -> Vec<Member> {
    (1..).zip(addrs).map(|(id, &addr)| Member::new(id, addr.into())).collect()
}

fn node(dir: &tempfile::TempDir, cluster: u128, id: u64, members: Vec<Member>) -> Node {
    let mut config = Config::new(cluster, id, members, dir.path().join(format!("{cluster}-{id}")));
    config.segment_bytes = 4 << 20;
    config.medium = kontiki::Medium::Safe;
    Node::builder(config).start(Recorder::default()).unwrap()
}

/// Waits for a status that is as asked for.
fn until(node: &Node, what: &str, holds: impl Fn(&Status) -> bool) -> Status {
    let begun = Instant::now();
    loop {
        let status = node.status().unwrap();
        if holds(&status) {
            return status;
        }
        assert!(begun.elapsed() < LONG, "{what}: {status}");
        std::thread::yield_now();
    }
}

fn unreached(status: &Status, peer: u64) -> String {
    let peer = status.peers.iter().find(|p| p.id == NodeId(peer)).unwrap();
    peer.unreached.map(|why| why.to_string()).unwrap_or_default()
}

#[test]
fn another_cluster_and_nobody_there() {
    let dir = tempfile::tempdir().unwrap();
    let addrs = free_addrs(3);
    let (one, two) = (node(&dir, 7, 1, members(&addrs)), node(&dir, 8, 2, members(&addrs)));
    let refused = |by_peer: bool, peer: u64| {
        move |status: &Status| {
            let met = |r: &kontiki::Refused| r.by_peer == by_peer && r.peer == Some(NodeId(peer)) && r.count >= 2;
            status.refused.iter().any(met) && !unreached(status, peer).is_empty()
        }
    };
    let status = until(&one, "node 2 refuses node 1", refused(true, 2));
    assert!(status.refused.iter().all(|r| r.kind == "handshake: cluster" && r.reason.contains("belongs to another cluster")), "{status}");
    assert!(unreached(&status, 2).contains("it refused: belongs to another cluster"), "{status}");
    let status = until(&two, "node 2 says that it refuses node 1", refused(false, 1));
    assert!(unreached(&status, 1).contains("this node refuses it: belongs to another cluster"), "{status}");
    let status = until(&one, "node 3 cannot be reached", |status| !unreached(status, 3).is_empty());
    assert!(unreached(&status, 3).contains("Connection refused"), "{status}");
    one.shutdown().unwrap();
    two.shutdown().unwrap();
}

/// At the address of one member another one runs.
#[test]
fn another_nodes_address() {
    let dir = tempfile::tempdir().unwrap();
    let addrs = free_addrs(3);
    let mut swapped = members(&addrs);
    (swapped[1].addr, swapped[2].addr) = (swapped[2].addr, swapped[1].addr);
    let (one, two) = (node(&dir, 7, 1, members(&addrs)), node(&dir, 7, 2, swapped));
    let status = until(&one, "at node 3's address another one answers", |status| !unreached(status, 3).is_empty());
    assert!(unreached(&status, 3).contains("meant for node 3, which is not at this address"), "{status}");
    let status = until(&two, "node 2 was asked for node 3", |status| status.refused.iter().any(|r| !r.by_peer));
    assert_eq!((status.refused[0].peer, status.refused[0].kind), (Some(NodeId(1)), "handshake: target"), "{status}");
    one.shutdown().unwrap();
    two.shutdown().unwrap();
}

/// A program of another protocol at a peer's address, and one that knocks here: both are said; and what the wire's
/// status says is what the library says.
#[test]
fn who_speaks_another_protocol() {
    let dir = tempfile::tempdir().unwrap();
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut addrs = free_addrs(1);
    addrs.push(stranger.local_addr().unwrap());
    std::thread::spawn(move || {
        for socket in stranger.incoming() {
            let mut socket = socket.unwrap();
            // First what was sent: closed with something unread, a connection loses what was answered.
            if socket.read_exact(&mut [0; 128]).is_ok() {
                drop(socket.write_all(b"SSH-2.0-OpenSSH_9.6\r\n"));
            }
        }
    });
    let one = node(&dir, 7, 1, members(&addrs));
    for _ in 0..3 {
        TcpStream::connect(addrs[0]).unwrap().write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    }
    let both = |status: &Status| {
        let ours = status.refused.iter().any(|r| r.peer == Some(NodeId(2)) && r.kind == "greeting: magic");
        let theirs = status.refused.iter().any(|r| r.peer.is_none() && r.kind == "greeting: magic" && r.count == 3);
        ours && theirs && !unreached(status, 2).is_empty()
    };
    let status = until(&one, "both are said", both);
    assert!(status.refused.iter().all(|r| !r.by_peer && r.reason.contains("not a Kontiki greeting")), "{status}");
    assert!(unreached(&status, 2).contains("is not this node"), "{status}");
    let mut client = Client::connect(addrs[0], ClientOptions::default()).unwrap();
    let text = String::from_utf8(client.status().unwrap().to_vec()).unwrap();
    assert_eq!(text.matches("[[refused]]").count(), 2, "{text}");
    assert!(text.contains("not a Kontiki greeting") && text.contains("unreached"), "{text}");
    one.shutdown().unwrap();
}
