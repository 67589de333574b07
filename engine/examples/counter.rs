//! A replicated counter on one node: the smallest product. `cargo run --example counter -p kontiki`
#![allow(clippy::print_stdout, reason = "an example speaks to its reader")]

use kontiki::{ApplyError, Config, Entries, Member, Node, Replies, StateMachine};

#[derive(Default)]
struct Counter(u64);

impl StateMachine for Counter {
    fn apply(&mut self, entries: Entries<'_>, replies: &mut Replies<'_>) -> Result<(), ApplyError> {
        for entry in entries {
            self.0 += entry.payload.len() as u64;
            replies.push(&self.0.to_le_bytes());
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    // One member, any free port. A cluster names all its members, the same on each node.
    let members = vec![Member::new(1, ([127, 0, 0, 1], 0).into())];
    let node = Node::builder(Config::new(0xc0ffee, 1, members, dir.path())).start(Counter::default())?;
    wait_for_leader(&node);
    for word in ["durable", "before", "acknowledged"] {
        let ticket = node.propose(word.as_bytes())?;
        let applied = ticket.wait()?;
        let count = u64::from_le_bytes(ticket.reply().try_into()?);
        println!("{word:12} at index {}, {count} bytes so far", applied.index);
    }
    node.shutdown()?;
    Ok(())
}

/// A fresh node elects itself within an election timeout.
fn wait_for_leader(node: &Node) {
    while node.status().is_none_or(|s| s.leader.is_none_or(|l| l.id != s.id)) {
        std::thread::yield_now();
    }
}
