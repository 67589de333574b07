//! Log and snapshots on their way up. The log's directory is locked first, then the snapshots are looked at, and then it
//! is judged what of the log there is: what it presupposes, one of them must hold.

use kontiki_core::{ClusterId, GroupId, NodeId, Time};
use kontiki_io::{Completion, Io};
use kontiki_snapshot::{Store, StoreError};
use kontiki_wal::{Opened, Wal, WalError};

use crate::config::Config;
use crate::error::StartError;

pub(super) struct Files {
    log: Box<kontiki_wal::Opening>,
    looked_for: kontiki_snapshot::Options,
    looking: Option<Box<kontiki_snapshot::Opening>>,
    store: Option<Store>,
    /// The snapshots cannot be used: the log is told to stop.
    failed: Option<StoreError>,
    /// The log did not open; the snapshots' files are being closed.
    ended: Option<WalError>,
}

/// What came of it.
pub(super) enum Found {
    NotYet,
    Open(Box<Opened>, Box<Store>),
    /// It was asked to stop, and has.
    Stopped,
    Failed(StartError),
}

impl Files {
    pub(super) fn start(config: &Config, options: kontiki_wal::Options, io: &mut dyn Io) -> Result<Files, StartError> {
        let looked_for = kontiki_snapshot::Options {
            dir: config.dir.clone(),
            cluster: ClusterId(config.cluster),
            group: GroupId(0),
            node: NodeId(config.id),
            bytes_per_s: config.snapshot_bytes_per_s,
        };
        let log = Box::new(kontiki_wal::Opening::start(options, io)?);
        Ok(Files { log, looked_for, looking: None, store: None, failed: None, ended: None })
    }

    pub(super) fn stop(&mut self) {
        self.log.stop();
    }

    pub(super) fn on_completion(&mut self, completion: Completion, io: &mut dyn Io) {
        if (completion.token.0 >> 56) as u8 != kontiki_snapshot::OWNER {
            self.log.on_completion(completion, io);
        } else if let Some(looking) = &mut self.looking {
            looking.on_completion(completion, io);
        } else if let Some(store) = &mut self.store {
            store.on_completion(completion, io);
        }
    }

    pub(super) fn poll(&mut self, io: &mut dyn Io) -> Found {
        if self.ended.is_none() {
            self.look(io);
            match self.log.poll() {
                Ok(None) => return Found::NotYet,
                Ok(Some(opened)) => {
                    let Some(store) = self.store.take() else { panic!("the log opens when it was told of the snapshots") };
                    return Found::Open(Box::new(opened), Box::new(store));
                }
                Err(error) => self.ended = Some(error),
            }
        }
        if let Some(store) = &mut self.store {
            close(store, io);
            if !store.closed() {
                return Found::NotYet;
            }
        }
        match (self.failed.take(), self.ended.take()) {
            (Some(source), _) => Found::Failed(StartError::Snapshots { dir: self.looked_for.dir.clone(), source }),
            (None, Some(WalError::Stopped) | None) => Found::Stopped,
            (None, Some(error)) => Found::Failed(StartError::Log(error)),
        }
    }

    /// Looks at the snapshots once the log waits for that.
    fn look(&mut self, io: &mut dyn Io) {
        if !self.log.wants_bases() {
            return;
        }
        let looking = self.looking.get_or_insert_with(|| Box::new(kontiki_snapshot::Opening::start(self.looked_for.clone(), io)));
        let bases = match looking.poll() {
            Ok(None) => return,
            Ok(Some(store)) => self.store.insert(store).bases(),
            Err(error) => {
                self.failed = Some(error);
                self.log.stop();
                Vec::new()
            }
        };
        self.looking = None;
        self.log.set_bases(&bases, io);
    }
}

/// Goes on closing the snapshots' files.
fn close(store: &mut Store, io: &mut dyn Io) {
    while store.next_event().is_some() {}
    store.close(io);
    store.pump(io, false);
}

/// A log and its snapshots that are closed in order: the log, which holds the lock, last.
pub(super) struct Closing {
    pub(super) wal: Box<Wal>,
    pub(super) store: Box<Store>,
}

impl Closing {
    /// Goes on; true once it is done.
    pub(super) fn poll(&mut self, io: &mut dyn Io) -> bool {
        close(&mut self.store, io);
        if self.store.closed() {
            self.wal.close(io);
        }
        while self.wal.next_event().is_some() {}
        self.wal.pump(io);
        self.wal.closed()
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.wal.deadline()
    }

    pub(super) fn on_completion(&mut self, completion: Completion, io: &mut dyn Io) {
        match (completion.token.0 >> 56) as u8 {
            kontiki_snapshot::OWNER => self.store.on_completion(completion, io),
            _ => self.wal.on_completion(completion, io),
        }
    }
}
