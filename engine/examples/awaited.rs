//! Tickets are futures: no runtime is needed, any will do. `cargo run --example awaited -p kontiki`
#![allow(clippy::print_stdout, reason = "an example speaks to its reader")]

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use kontiki::{ApplyError, Config, Entries, Member, Node, ProposeError, Replies, StateMachine};

struct Echo;

impl StateMachine for Echo {
    fn apply(&mut self, entries: Entries<'_>, replies: &mut Replies<'_>) -> Result<(), ApplyError> {
        entries.for_each(|entry| replies.push(entry.payload));
        Ok(())
    }
}

/// The smallest executor there is: parks this thread until the future is woken.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let members = vec![Member::new(1, ([127, 0, 0, 1], 0).into())];
    let node = Node::builder(Config::new(0xec40, 1, members, dir.path())).start(Echo)?;
    let ticket = loop {
        match node.propose(b"hello") {
            // Until the node has elected itself.
            Err(ProposeError::NotLeader { .. } | ProposeError::Busy) => thread::yield_now(),
            other => break other?,
        }
    };
    let applied = block_on(ticket)?;
    println!("applied at {}", applied.index);
    node.shutdown()?;
    Ok(())
}
