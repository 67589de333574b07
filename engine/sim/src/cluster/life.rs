//! The life of a cluster's nodes: processes that start, are killed, stop in order or by themselves; and what is seen of them meanwhile.

use std::time::Duration;

use kontiki::{Lost, Reactor, Role, State, TurnError};
use kontiki_io::Io as _;

use super::{Cluster, Node, Running, Stopping};
use crate::conditions::MILLISECOND;

use crate::cluster::machine::{Applied, Machine, News};
use crate::cluster::marks;
use crate::disk::storage::BEYOND;
use crate::judge::{Fate, Violation};

/// When a start is tried again that was refused because writes of the process before are under way, in nanoseconds.
const AGAIN_NS: u64 = 20 * MILLISECOND;
/// Flushes that take so long at least make a slow world, in nanoseconds.
const SLOW_FLUSH_NS: u64 = 12 * MILLISECOND;

impl Cluster {
    /// Starts a node, unless it runs.
    pub fn start(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        if node.running.is_some() {
            return;
        }
        node.start_at = None;
        node.starts += 1;
        let applied = node.ledger.start();
        self.judge.started(node.config.id, applied);
        self.sim.set_own_frame_bytes(node.host, node.config.max_frame_bytes);
        let io = self.sim.boot(node.host);
        match Reactor::new(node.config.clone(), io, Machine(node.ledger.clone())) {
            Ok(reactor) => {
                let proposer = reactor.proposer();
                node.running = Some(Running { reactor, proposer, read: 0, stopping: None });
            }
            Err(error) => self.stopped(n, error.to_string(), true),
        }
    }

    /// Kills a node's process.
    pub fn crash(&mut self, n: usize) {
        self.sim.crash(self.nodes[n].host);
        self.gone(n);
    }

    /// Asks a node to stop in order. It is gone once it has ended.
    pub fn stop(&mut self, n: usize) {
        self.stop_beside(n, marks::STOP_NOTED);
    }

    /// The same, beside peers of some kind: `mark` is met once it is noted.
    pub(crate) fn stop_beside(&mut self, n: usize, mark: &'static str) {
        let able = self.is_able(n);
        let Node { host, running, may_stop, full, .. } = &mut self.nodes[n];
        if let Some(running) = running
            && running.stopping.is_none()
        {
            running.reactor.stop();
            running.stopping = Some(Stopping { must_note: able && !*full && !*may_stop, mark });
            self.sim.mark(*host, "asked to stop", 0, 0);
        }
    }

    /// Whether a node was asked to stop, and has not ended.
    pub fn is_stopping(&self, n: usize) -> bool {
        self.nodes[n].running.as_ref().is_some_and(|running| running.stopping.is_some())
    }

    fn ended(&mut self, n: usize, stopping: Stopping) {
        self.watch(n);
        let Node { host, config, .. } = &self.nodes[n];
        self.sim.mark(*host, "ended in order", 0, 0);
        let noted = self.sim.is_closed(*host);
        if noted {
            self.sim.meet(marks::STOP_NOTED);
            if stopping.mark != marks::STOP_NOTED {
                self.sim.meet(stopping.mark);
            }
        } else if stopping.must_note && !self.sim.is_writing(*host) {
            // Its own disk did not keep it from that.
            self.judge.found([Violation::StopNotNoted { node: config.id }]);
        }
        self.gone(n);
    }

    /// Pulls out what a node's disk is on, and puts it back: its process dies, and what was not flushed may be lost, while the machine runs on.
    pub fn pull(&mut self, n: usize) {
        self.sim.pull(self.nodes[n].host);
        self.gone(n);
    }

    /// Cuts a node's power.
    pub fn power_cut(&mut self, n: usize) {
        self.sim.power_cut(self.nodes[n].host);
        self.gone(n);
    }

    /// The process is gone: what it had not answered, nobody can tell.
    fn gone(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        (node.running, node.standing, node.start_at) = (None, None, None);
        for (value, _) in node.tickets.drain(..) {
            self.judge.ended(value, Fate::Unknown);
            self.history.ended(value, Fate::Unknown, &[]);
        }
    }

    fn stopped(&mut self, n: usize, reason: String, starting: bool) {
        self.watch(n);
        self.sim.mark(self.nodes[n].host, "stopped", 0, 0);
        let no_space = starting && self.nodes[n].full && reason.starts_with("no space to ");
        let locked = starting && self.sim.was_lock_refused(self.nodes[n].host) && reason.contains("is in use by another process");
        if locked {
            // The program that started it tries again.
            self.sim.meet(marks::LOCK_WAITED);
            self.gone(n);
            self.nodes[n].start_at = Some(self.sim.now().plus_ns(AGAIN_NS));
            return;
        }
        if no_space {
            self.sim.count("start refused by a full disk");
        } else if starting && self.sim.refused_in_shortage(self.nodes[n].host) > 0 {
            self.sim.count("start refused for want of descriptors");
        } else if !self.nodes[n].may_stop {
            self.judge.stopped_for_nothing(self.nodes[n].config.id, reason);
        }
        self.gone(n);
    }

    pub(super) fn turn(&mut self, n: usize) {
        if self.beyond.is_none() && self.sim.counted(BEYOND) > 0 {
            self.beyond = Some(self.judge.violations().len());
        }
        let Node { running: Some(running), host, damaged, .. } = &mut self.nodes[n] else { return };
        let node_id = n as u64 + 1;
        let role_before = running.reactor.standing().map(|(role, _)| role);
        let (damages, losses) = self.listener.damages_and_losses();
        self.listener.give_word(node_id, self.sim.now().0);
        let turned = running.reactor.turn(Duration::MAX);
        let needless = self.sim.needless_recoveries(*host);
        let heard = self.listener.damages_and_losses();
        // A node on a lossy medium may say that it lost something when it did not.
        *damaged |= heard.0 > damages || heard.1 > losses && self.sim.is_struck(*host);
        if let Some(role) = role_before
            && running.reactor.io().stats().bytes_read > running.read
        {
            self.sim.meet(if role == Role::Leader { marks::LEADER_READ } else { marks::FOLLOWER_READ });
        }
        running.read = running.reactor.io().stats().bytes_read;
        let stopping = running.stopping;
        let node = &mut self.nodes[n];
        if std::mem::replace(&mut node.needless, needless) < needless && self.judges_doubt && !node.may_stop && self.beyond.is_none() {
            self.judge.found([Violation::DoubtsForNothing { node: node_id }]);
        }
        if let Some(what) = self.sim.take_overlooked(node.host) {
            self.judge.found([Violation::Overlooked { node: node_id, what }]);
        }
        if let Some(index) = self.sim.take_forged(node.host) {
            self.judge.found([Violation::Forged { node: node_id, index }]);
        }
        let in_use = matches!(turned, Ok(State::Running)) && !node.may_stop;
        if in_use && let Some((before, snapshot)) = self.sim.take_presupposed(node.host) {
            let held = snapshot.max(node.ledger.durable());
            if held < before {
                self.judge.found([Violation::Gap { node: node_id, before, held }]);
            }
        }
        match turned {
            Ok(State::Ended) => match stopping {
                Some(stopping) => self.ended(n, stopping),
                None => self.stopped(n, "it ended though nobody asked".into(), false),
            },
            Ok(_) => self.watch(n),
            Err(TurnError::Start(error)) => self.stopped(n, error.to_string(), true),
            Err(TurnError::Failed(failure)) => {
                let reason = failure.to_string();
                self.nodes[n].damaged |= reason.contains("damage");
                self.stopped(n, reason, false);
            }
        }
    }

    /// Tells the judge what a node did in its turn: first what it applied, then whom it answered.
    fn watch(&mut self, n: usize) {
        let alone = self.nodes.len() == 1;
        let node = &mut self.nodes[n];
        let id = node.config.id;
        for news in node.ledger.news() {
            match news {
                News::Applied(Applied { index, term, value, intact }) => {
                    self.sim.mark(node.host, "applied", index, value);
                    self.judge.applied(id, index, term, value);
                    if !intact {
                        self.judge.garbled(id, index, value);
                    }
                }
                News::Restored { index, registers, intact } => {
                    self.sim.mark(node.host, "restored", index, 0);
                    self.sim.meet(marks::RESTORED);
                    self.judge.restored(id, index, &registers, intact);
                }
            }
        }
        let standing = node.running.as_ref().and_then(|running| running.reactor.standing());
        let standing = standing.map(|(role, term)| (role, term.0));
        if let Some((Role::Leader, term)) = standing {
            self.judge.leads(id, term);
        }
        if let (Some(before), Some(after)) = (node.standing, standing)
            && let Some(mark) = marks::of_roles(before, after)
        {
            self.sim.meet(mark);
            let stays = alone && !node.may_stop && node.running.as_ref().is_some_and(|running| running.stopping.is_none());
            if stays && (mark == marks::STEPPED_DOWN || mark == marks::DEPOSED) {
                self.judge.found([Violation::SteppedDownAlone { node: id }]);
            }
            if mark == marks::LEADER_ELECTED && self.sim.disk_conditions(node.host).flush.min_ns >= SLOW_FLUSH_NS {
                self.sim.meet(marks::SLOW_ELECTION);
            }
        }
        node.standing = standing;
        if node.damaged && standing.is_some() && self.beyond.is_none() && !self.sim.is_recovering(node.host) {
            node.damaged = false;
            self.sim.meet(marks::HEALED);
        }
        let (judge, history) = (&mut self.judge, &mut self.history);
        node.tickets.retain(|(value, ticket)| {
            let fate = match ticket.poll() {
                None => return true,
                Some(Ok(applied)) => Fate::Applied(applied.index.0),
                Some(Err(Lost::NotApplied { .. })) => Fate::Never,
                Some(Err(Lost::ReplyTooLong { .. })) => unreachable!("the judge's machine keeps within its limit"),
                Some(Err(Lost::Unknown)) => Fate::Unknown,
            };
            match fate {
                Fate::Never => self.sim.meet(marks::NEVER),
                Fate::Unknown => self.sim.meet(marks::UNKNOWN),
                Fate::Applied(_) | Fate::Open => {}
            }
            judge.ended(*value, fate);
            history.ended(*value, fate, ticket.reply());
            false
        });
    }
}
