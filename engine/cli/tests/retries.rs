//! What `put` and `get` do with a replica that does not take a request: whom they ask next, for how long, and what they
//! say in the end.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use common::{bad, good, run};
use kontiki::{ClusterId, Incarnation, NodeId};
use kontiki_core::SessionId;
use kontiki_net::limits::HELLO_BYTES;
use kontiki_net::{Channel, Hello, HelloKind, Response, codes, decode_request, encode_response};

/// What a replica of these tests answers to the request of this number, from zero.
type Answers = dyn Fn(usize) -> Response<'static> + Send + Sync;

/// Something that speaks like a replica, and answers as it is told: its address, and how often it was asked to take
/// something.
fn replica(answers: impl Fn(usize) -> Response<'static> + Send + Sync + 'static) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (addr, asked, answers) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)), Arc::new(answers));
    let count = Arc::clone(&asked);
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let (asked, answers) = (Arc::clone(&asked), Arc::clone(&answers));
            // Whoever hangs up ends its thread.
            std::thread::spawn(move || serve(socket.unwrap(), &asked, &*answers));
        }
    });
    (addr, count)
}

fn serve(mut socket: TcpStream, asked: &AtomicUsize, answers: &Answers) -> std::io::Result<()> {
    let mut greeting = [0; HELLO_BYTES];
    socket.read_exact(&mut greeting)?;
    let welcome = Hello {
        kind: HelloKind::Welcome,
        channel: Channel::Client,
        code: 0,
        detail: 0,
        cluster: ClusterId(1),
        from: NodeId(1),
        to: NodeId(0),
        incarnation: Incarnation(1),
        process_number: 1,
        session: SessionId(Hello::decode(&greeting).unwrap().session.0),
        nonce: 0,
    };
    welcome.encode(&mut greeting);
    socket.write_all(&greeting)?;
    let (mut received, mut buffer, mut out) = (Vec::new(), [0; 4096], [0; 4096]);
    loop {
        while let Ok(Some((number, request, length))) = decode_request(&received, 1 << 16) {
            let response = match request {
                kontiki_net::Request::Status => Response::Status(b""),
                _ => answers(asked.fetch_add(1, Ordering::SeqCst)),
            };
            received.drain(..length);
            let length = encode_response(number, &response, &mut out).unwrap();
            socket.write_all(&out[..length])?;
        }
        let bytes = socket.read(&mut buffer)?;
        if bytes == 0 {
            return Ok(());
        }
        received.extend(&buffer[..bytes]);
    }
}

const DONE: Response<'static> = Response::Applied { index: 7, reply: &[0] };
const DISK_FULL: Response<'static> = Response::Error { code: codes::DISK_FULL, text: "the disk is full" };
const NO_CLIENTS: Response<'static> = Response::Error { code: codes::NO_CLIENTS, text: "serves no clients" };

/// A disk has space again, a log may forget again, a shortage passes: within the command's time it is asked again.
#[test]
fn who_lacks_room_is_asked_again() {
    for code in [codes::DISK_FULL, codes::LOG_FULL, codes::SHORTAGE] {
        let (addr, asked) = replica(move |n| if n < 5 { Response::Error { code, text: "no room" } } else { DONE });
        good(&run(&["put", "k", "v", "--to", &addr.to_string(), "--timeout-ms", "60000"]));
        assert_eq!(asked.load(Ordering::SeqCst), 6);
    }
}

/// And another replica is, which may lead by then.
#[test]
fn where_one_lacks_room_the_others_are_asked() {
    let (full, _) = replica(|_| DISK_FULL);
    let (other, _) = replica(|_| DONE);
    let (hinting, hints) = replica(move |_| Response::NotLeader { leader: Some(NodeId(1)), address: Some(full.into()) });
    for to in [format!("{full},{other}"), format!("{full},{hinting},{other}")] {
        good(&run(&["put", "k", "v", "--to", &to, "--timeout-ms", "60000"]));
    }
    assert!(hints.load(Ordering::SeqCst) > 0);
}

/// In the end it is said what was lacking, and by whom; it is not "unknown", and nobody is asked whether a majority is
/// up.
#[test]
fn what_was_lacking_all_the_time_is_said() {
    let (addr, asked) = replica(|_| DISK_FULL);
    let line = bad(&run(&["put", "k", "v", "--to", &addr.to_string(), "--timeout-ms", "500"]), 1);
    assert!(line.contains("nothing of it was done") && line.contains(&format!("{addr}: the disk is full")), "{line}");
    assert!(!line.contains("unknown") && !line.contains("majority"), "{line}");
    assert!(asked.load(Ordering::SeqCst) > 1);
}

/// A replica that serves no clients says nothing of the others; where all refuse, there is nothing to wait for.
#[test]
fn a_list_is_asked_whole_before_it_is_refused() {
    let (off, _) = replica(|_| NO_CLIENTS);
    let (on, _) = replica(|_| DONE);
    good(&run(&["put", "k", "v", "--to", &format!("{off},{on}"), "--timeout-ms", "60000"]));
    let (off_too, asked) = replica(|_| NO_CLIENTS);
    let begun = Instant::now();
    let line = bad(&run(&["put", "k", "v", "--to", &format!("{off},{off_too}"), "--timeout-ms", "3600000"]), 1);
    assert!(line.contains("serves no clients"), "{line}");
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    assert!(begun.elapsed().as_secs() < 600, "it was not waited for");
    // One of them is away: for as long as it may, the command tries it; then it says what it knows.
    let away = common::free_addrs(1)[0];
    let line = bad(&run(&["put", "k", "v", "--to", &format!("{off},{away}"), "--timeout-ms", "500"]), 1);
    assert!(line.contains("serves no clients"), "{line}");
}

/// What was applied is not said to be refused, though its reply is lost.
#[test]
fn an_entry_whose_reply_was_not_kept_is_not_called_refused() {
    let (addr, _) = replica(|_| Response::Error { code: codes::REPLY_NOT_KEPT, text: "applied, but the reply was not kept" });
    let line = bad(&run(&["put", "k", "v", "--to", &addr.to_string()]), 1);
    assert!(line.contains("applied, but") && !line.contains("does not take it"), "{line}");
}

/// A value is printed as it is, also where it is no text.
#[test]
fn a_value_that_is_no_text_is_printed_as_it_is() {
    let (addr, _) = replica(|_| Response::Applied { index: 7, reply: &[1, b'a', 0xff, 0xfe, 0, b'z'] });
    let output = run(&["get", "k", "--to", &addr.to_string()]);
    assert_eq!(output.stdout, [b'a', 0xff, 0xfe, 0, b'z', b'\n']);
}
