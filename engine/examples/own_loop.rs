//! A product with its own event loop turns the node itself: no thread but this one.
//! `cargo run --example own_loop -p kontiki`
#![allow(clippy::print_stdout, reason = "an example speaks to its reader")]

use std::time::Duration;

use kontiki::{ApplyError, Config, Entries, Member, Node, ProposeError, Replies, StateMachine};

struct Sum(u64);

impl StateMachine for Sum {
    fn apply(&mut self, entries: Entries<'_>, replies: &mut Replies<'_>) -> Result<(), ApplyError> {
        for entry in entries {
            self.0 += entry.payload.iter().map(|&b| u64::from(b)).sum::<u64>();
            replies.push(&self.0.to_le_bytes());
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let members = vec![Member::new(1, ([127, 0, 0, 1], 0).into())];
    let mut reactor = Node::builder(Config::new(0x5005, 1, members, dir.path())).driven(Sum(0))?;
    let proposer = reactor.proposer();
    let mut ticket = None;
    // A real loop would poll `reactor.poll_fd()` beside its own descriptors, until `reactor.deadline()`.
    loop {
        reactor.turn(Duration::from_millis(10))?;
        match &ticket {
            None => match proposer.propose(&[1, 2, 3]) {
                Ok(taken) => ticket = Some(taken),
                Err(ProposeError::NotLeader { .. } | ProposeError::Busy) => {}
                Err(error) => return Err(error.into()),
            },
            Some(taken) => {
                if let Some(outcome) = taken.poll() {
                    println!("applied at {}, sum {:?}", outcome?.index, taken.reply());
                    break;
                }
            }
        }
    }
    reactor.stop();
    while reactor.turn(Duration::from_millis(10))? != kontiki::State::Ended {}
    Ok(())
}
