use std::{env, error::Error, thread, time::Duration};

use kontiki::{ApplyError, Config, Entries, Member, Node, ProposeError, Replies, StateMachine};

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

/// On each of three machines: its own id, its directory, and the addresses of all three, in the same order everywhere.
fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let (id, dir) = (args.next().ok_or("an id")?.parse()?, args.next().ok_or("a directory")?);
    let members: Vec<Member> =
        args.zip(1..).map(|(addr, id)| Ok(Member::new(id, addr.parse()?))).collect::<Result<_, Box<dyn Error>>>()?;
    let node = Node::builder(Config::new(0x6b6f6e74696b69, id, members, dir)).start(Counter::default())?;
    loop {
        match node.wait_leader(Duration::from_secs(1)) {
            None => println!("nobody leads: are two of three up?"),
            Some(leader) if leader.id != node.id() => println!("node {} leads, at {}", leader.id, leader.addr),
            Some(_) => match node.propose(b"on every replica, in the same order") {
                // Copied once; not durable before the ticket says so: on a majority, and applied here.
                Ok(ticket) => println!("entry {} -> {:?}", ticket.wait()?.index, ticket.reply()),
                Err(ProposeError::Busy | ProposeError::NotLeader { .. }) => {}
                Err(error) => return Err(error.into()),
            },
        }
        thread::sleep(Duration::from_secs(1));
    }
}
