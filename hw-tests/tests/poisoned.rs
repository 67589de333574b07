//! After a failed write the node stops with a typed error and acknowledges nothing more.
#![allow(clippy::unwrap_used)]

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use kontiki::{ApplyError, Config, Entries, Failure, Lost, Member, ProposeError, Reactor, Replies, State, StateMachine, TurnError};
use kontiki_core::Time;
use kontiki_io::{Backend, Completion, Handle, Io, IoData, IoError, IoErrorKind, IoStats, Op, Options, Token, Wake};

/// Fails log writes with EIO while `fail` is set: the write itself is done, its completion says otherwise.
struct Failing {
    inner: Box<dyn Io + Send>,
    doomed: Vec<Token>,
    fail: Rc<Cell<bool>>,
}

impl Io for Failing {
    fn now(&self) -> Time {
        self.inner.now()
    }
    fn wall_ns(&self) -> u64 {
        self.inner.wall_ns()
    }
    fn free_bytes(&mut self, dir: Handle) -> Option<u64> {
        self.inner.free_bytes(dir)
    }

    fn submit(&mut self, token: Token, op: Op) {
        if self.fail.get() && matches!(&op, Op::Write { data: IoData::Span(_), .. }) {
            self.doomed.push(token);
        }
        self.inner.submit(token, op);
    }
    fn capacity(&self) -> usize {
        self.inner.capacity()
    }
    fn turn(&mut self, until: Option<Time>, done: &mut Vec<Completion>) -> Result<(), IoError> {
        let result = self.inner.turn(until, done);
        for completion in done {
            if let Some(at) = self.doomed.iter().position(|&t| t == completion.token) {
                self.doomed.swap_remove(at);
                completion.result = Err(IoError { kind: IoErrorKind::Device, errno: 5 });
            }
        }
        result
    }
    fn bell(&self) -> Arc<dyn Wake> {
        self.inner.bell()
    }
    fn poll_fd(&self) -> Option<std::os::fd::RawFd> {
        self.inner.poll_fd()
    }
    fn describe(&self) -> String {
        self.inner.describe()
    }
    fn stats(&self) -> IoStats {
        self.inner.stats()
    }
}

struct Quiet;

impl StateMachine for Quiet {
    fn apply(&mut self, _: Entries<'_>, _: &mut Replies<'_>) -> Result<(), ApplyError> {
        Ok(())
    }
}

#[test]
fn a_failed_write_stops_the_node_and_nothing_is_acknowledged_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let fail = Rc::new(Cell::new(false));
    let members = vec![Member::new(1, ([127, 0, 0, 1], 0).into())];
    let config = Config::new(0xE10, 1, members, dir.path());
    let io = |fail: &Rc<Cell<bool>>| Failing {
        inner: kontiki_io::open(&Options { backend: Backend::Auto, capacity: 512, ..Options::default() }, &[]).unwrap(),
        doomed: Vec::new(),
        fail: Rc::clone(fail),
    };
    let mut node = Reactor::new(config.clone(), io(&fail), Quiet).unwrap();
    let proposer = node.proposer();
    let kept = loop {
        node.turn(Duration::from_millis(10)).unwrap();
        match proposer.propose(b"kept") {
            Ok(ticket) => break ticket,
            Err(ProposeError::NotLeader { .. } | ProposeError::Busy) => {}
            Err(error) => panic!("{error}"),
        }
    };
    while kept.poll().is_none() {
        node.turn(Duration::from_millis(10)).unwrap();
    }
    let kept = kept.wait().unwrap();

    fail.set(true);
    let lost = proposer.propose(b"never acknowledged").unwrap();
    let error = loop {
        match node.turn(Duration::from_millis(10)) {
            Ok(_) => assert!(lost.poll().is_none(), "acknowledged after a failed write"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, TurnError::Failed(Failure::Log(_))), "{error:?}");
    assert_eq!(lost.poll(), Some(Err(Lost::Unknown)));
    assert_eq!(proposer.propose(b"x").unwrap_err(), ProposeError::Stopped);
    assert!(matches!(proposer.failure(), Some(Failure::Log(_))));
    assert!(proposer.status().is_some(), "the last status is still there");
    assert_eq!(node.turn(Duration::ZERO).unwrap(), State::Ended);
    drop(node);

    // The disk works again, and is read again: what was acknowledged is there.
    fail.set(false);
    let mut node = Reactor::new(config, io(&fail), Quiet).unwrap();
    while node.proposer().propose(b"after").is_err() {
        node.turn(Duration::from_millis(10)).unwrap();
    }
    let proposer = node.proposer();
    let end = std::thread::spawn(move || proposer.status().unwrap());
    while !end.is_finished() {
        node.turn(Duration::from_millis(1)).unwrap();
    }
    assert!(end.join().unwrap().last >= kept.index);
}
