//! What a product is told, as it happens.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use kontiki::limits::MAX_EVENTS;
use kontiki::{Event, Events, NodeId};
use support::{Cluster, LONG};

/// Waits for an event that is as asked for.
fn until(events: &mut Events, wanted: impl Fn(&Event) -> bool) -> Event {
    loop {
        let event = events.wait(LONG).expect("it comes");
        if wanted(&event) {
            return event;
        }
    }
}

#[test]
fn leadership_and_peers() {
    let mut cluster = Cluster::start(3, |config| (config.election_min_ms, config.election_max_ms) = (500, 1_000));
    cluster.wait_connected();
    let leader = cluster.leader();
    let id = NodeId(cluster.members[leader].id);
    let others: Vec<usize> = (0..3).filter(|&at| at != leader).collect();
    let (mut watching, mut asking) = (cluster.node(others[0]).events(), cluster.node(others[1]).events());
    let gained = std::thread::scope(|scope| {
        let gained = others.iter().map(|&at| {
            let mut events = cluster.node(at).events();
            let lost = NodeId(cluster.members[leader].id);
            scope.spawn(move || until(&mut events, |event| matches!(event, Event::PeerDown { peer } if *peer == lost)))
        });
        let gained: Vec<_> = gained.collect();
        cluster.node(leader).proposer().stop();
        gained.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(gained, [Event::PeerDown { peer: id }; 2]);
    cluster.stop(leader);
    let next = cluster.leader();
    let events = if next == others[0] { &mut watching } else { &mut asking };
    until(events, |event| matches!(event, Event::LeadershipGained { .. }));
    cluster.boot(leader);
    until(events, |event| *event == Event::PeerUp { peer: id });
    // Its majority goes.
    let mut lost = cluster.node(next).events();
    for at in (0..3).filter(|&at| at != next) {
        cluster.stop(at);
    }
    until(&mut lost, |event| matches!(event, Event::LeadershipLost { .. }));
}

#[derive(Default)]
struct Counts(AtomicU64);

impl Wake for Counts {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// However many await the events, each is woken by one, and by nothing else.
#[test]
fn a_crowd_that_awaits() {
    let mut cluster = Cluster::start(1, |_| {});
    cluster.commit(b"x");
    let crowd: Vec<(Events, Arc<Counts>)> = (0..40).map(|_| (cluster.node(0).events(), Arc::default())).collect();
    let mut crowd: Vec<_> = crowd.into_iter().map(|(events, counts)| (events, Waker::from(Arc::clone(&counts)), counts)).collect();
    for (events, waker, _) in &mut crowd {
        assert_eq!(events.poll_next(&mut Context::from_waker(waker)), Poll::Pending);
    }
    // A place that is given up goes to the next.
    let gone = crowd.swap_remove(7);
    drop(gone);
    let mut late = cluster.node(0).events();
    let counts = Arc::<Counts>::default();
    let waker = Waker::from(Arc::clone(&counts));
    assert_eq!(late.poll_next(&mut Context::from_waker(&waker)), Poll::Pending);
    crowd.push((late, waker, counts));
    let woken = |crowd: &[(Events, Waker, Arc<Counts>)]| crowd.iter().map(|one| one.2.0.load(Ordering::SeqCst)).collect::<Vec<_>>();
    assert_eq!(woken(&crowd), [0; 40]);
    cluster.stop(0);
    assert_eq!(woken(&crowd), [1; 40]);
    for (events, waker, _) in &mut crowd {
        assert_eq!(events.poll_next(&mut Context::from_waker(waker)), Poll::Ready(None));
    }
}

/// Awaited, and at the end: what was told before is given, then nothing more.
#[test]
fn awaited_until_the_end() {
    let mut cluster = Cluster::start(1, |_| {});
    let mut events = cluster.node(0).events();
    cluster.commit(b"x");
    let counts = Arc::new(Counts::default());
    let waker = Waker::from(Arc::clone(&counts));
    let mut cx = Context::from_waker(&waker);
    let mut seen = Vec::new();
    while let Poll::Ready(event) = events.poll_next(&mut cx) {
        seen.push(event.unwrap());
    }
    assert!(seen.len() < MAX_EVENTS && seen.iter().all(|event| matches!(event, Event::LeadershipGained { .. })), "{seen:?}");
    cluster.stop(0);
    assert_eq!((counts.0.load(Ordering::SeqCst), events.poll_next(&mut cx)), (1, Poll::Ready(None)));
    assert_eq!((events.poll(), events.wait(LONG)), (None, None));
}
