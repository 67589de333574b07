//! The state machine: a counter.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::type_config::alias::{LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};

use crate::Types;

#[derive(Clone, Default)]
struct State {
    count: u64,
    applied: Option<LogIdOf<Types>>,
    members: StoredMembershipOf<Types>,
}

/// Counts entries; a handle.
#[derive(Clone, Default)]
pub(crate) struct Counter(Arc<Mutex<State>>);

impl Counter {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn snapshot(&self) -> SnapshotOf<Types, u64> {
        let state = self.state();
        SnapshotOf::<Types, u64> {
            meta: SnapshotMetaOf::<Types> { last_log_id: state.applied, last_membership: state.members.clone() },
            snapshot: state.count,
        }
    }
}

impl RaftStateMachine<Types> for Counter {
    type SnapshotData = u64;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogIdOf<Types>>, StoredMembershipOf<Types>)> {
        let state = self.state();
        Ok((state.applied, state.members.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let mut state = self.state();
            state.applied = Some(entry.log_id);
            match entry.payload {
                EntryPayload::Normal(_) => state.count += 1,
                EntryPayload::Membership(members) => state.members = StoredMembershipOf::<Types>::new(Some(entry.log_id), members),
                EntryPayload::Blank => {}
            }
            let count = state.count;
            drop(state);
            if let Some(responder) = responder {
                responder.send(count);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMetaOf<Types>, count: u64) -> io::Result<()> {
        *self.state() = State { count, applied: meta.last_log_id, members: meta.last_membership.clone() };
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<Types, u64>>> {
        Ok(Some(self.snapshot()).filter(|s| s.meta.last_log_id.is_some()))
    }
}

impl RaftSnapshotBuilder<Types> for Counter {
    type SnapshotData = u64;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<Types, u64>> {
        Ok(self.snapshot())
    }
}
