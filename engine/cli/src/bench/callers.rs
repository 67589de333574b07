//! The load inside the leader's process: threads that call the library as a product would, and wait on their oldest
//! ticket.

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use kontiki::Node;

use super::load::{Load, Pace};
use super::recorder::Measured;
use super::window::Window;

/// The pause when the node is busy and nothing is in flight: it waits for its disk.
const BUSY_PAUSE: Duration = Duration::from_micros(50);

/// Runs the load on a node that leads. `started` is called when the warm-up is over.
///
/// # Errors
/// The node lost its leadership, or stopped: a sentence.
pub(super) fn run(node: &Node, load: &Load, started: &(dyn Fn() + Sync)) -> Result<Measured, String> {
    let callers = load.callers();
    let start = Barrier::new(callers as usize + 1);
    let seen: Vec<Result<Measured, String>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..callers)
            .map(|n| {
                let (proposer, load, start) = (node.proposer(), load.part(n, callers), &start);
                scope.spawn(move || {
                    start.wait();
                    call(Window::new(proposer, &load), &load)
                })
            })
            .collect();
        start.wait();
        thread::sleep(load.warmup());
        started();
        threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err("a caller panicked".into()))).collect()
    });
    let mut all: Option<Measured> = None;
    for seen in seen {
        let seen = seen?;
        match &mut all {
            None => all = Some(seen),
            Some(all) => all.add(&seen),
        }
    }
    all.ok_or_else(|| "there was no caller".into())
}

/// One caller.
fn call(mut window: Window, load: &Load) -> Result<Measured, String> {
    if load.rate.is_some() {
        Pace::sharpen();
    }
    loop {
        let now = window.propose()?;
        if window.is_over(now) {
            break;
        }
        let pause = window.due().map(|due| due.saturating_duration_since(now));
        // How it ended is looked at where it is taken.
        match (window.oldest(), pause) {
            (Some(ticket), None) => _ = ticket.wait(),
            (Some(ticket), Some(pause)) => _ = ticket.wait_timeout(pause),
            (None, pause) => thread::sleep(pause.unwrap_or(BUSY_PAUSE)),
        }
        window.take()?;
    }
    while let Some(ticket) = window.oldest() {
        _ = ticket.wait();
        window.take()?;
    }
    Ok(window.finish())
}
