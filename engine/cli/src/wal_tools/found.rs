//! The snapshots beside a log, and what a start makes of them.

use std::fs;
use std::path::Path;

use kontiki_io::Name;
use kontiki_snapshot::limits::KEPT;
use kontiki_snapshot::{Flaw, Info, StoreError, names};
use kontiki_wal::Reach;
use kontiki_wal::offline::Verdict;

use crate::error::Error;
use crate::kind_of_file::named;
use crate::output::say;
use crate::snapshot_tools;
use crate::table::count;

/// What is there under a snapshot's name, oldest first, and what is not under one and may have been meant to be.
pub(super) struct Found {
    named: Vec<(Name, Result<Info, Error>)>,
    /// What a replica passes over, and why, in words.
    passed_over: Vec<String>,
}

/// Looks at every snapshot in the directory.
///
/// # Errors
/// The directory cannot be read.
pub(super) fn snapshots(dir: &Path) -> Result<Found, Error> {
    let mut found = Found { named: Vec::new(), passed_over: Vec::new() };
    for entry in fs::read_dir(dir).map_err(Error::file("cannot read the directory", dir))? {
        let entry = entry.map_err(Error::file("cannot read the directory", dir))?;
        let kind = entry.file_type().map_err(Error::file("cannot read", &entry.path()))?;
        let Some(name) = entry.file_name().to_str().and_then(Name::new) else { continue };
        match names::index(&name) {
            Some(_) if !kind.is_file() => {
                let error = Error::Finding(format!("{} is {}: no snapshot", entry.path().display(), named(kind)));
                found.named.push((name, Err(error)));
            }
            Some(index) => {
                let info = snapshot_tools::check(&entry.path()).and_then(|info| match info.base().index == index {
                    true => Ok(info),
                    false => Err(Error::Finding(format!("{}: {}", entry.path().display(), Flaw::Otherwise { what: "index" }))),
                });
                found.named.push((name, info));
            }
            None if kind.is_file() && name.as_str().ends_with(".ksn") => {
                found.passed_over.push(match snapshot_tools::check(&entry.path()) {
                    Ok(info) => format!("{name} is passed over: a replica takes it under the name {}", names::snapshot(info.base().index)),
                    Err(error) => format!("passed over, as no snapshot has that name: {error}"),
                })
            }
            None => {}
        }
    }
    found.named.sort_by(|(a, _), (b, _)| a.cmp(b));
    found.passed_over.sort();
    Ok(found)
}

impl Found {
    pub(super) fn intact(&self) -> impl Iterator<Item = &Info> {
        self.named.iter().filter_map(|(_, found)| found.as_ref().ok())
    }

    /// A line for each.
    pub(super) fn describe(&self) {
        for (name, found) in &self.named {
            match found {
                Ok(info) => say(format_args!("{name}: of {}, {} bytes, digest {}", info.base(), count(info.bytes), info.digest)),
                Err(error) => say(error),
            }
        }
        self.passed_over.iter().for_each(say);
    }

    /// The error, if a start refuses one of them, or some replicas' starts refuse a log behind them, or one is damaged: in this
    /// order.
    pub(super) fn judge(self, dir: &Path, verdict: &Verdict) -> Result<(), Error> {
        let finding = |what: String| Err(Error::Finding(format!("{}: {what}", dir.display())));
        let foreign = |info: &Info| (info.head.cluster, info.head.group) != (verdict.cluster, verdict.group);
        // A start looks at them from the newest, until it has as many as are kept.
        let intact = self.named.iter().rev().filter_map(|(name, found)| Some((name, found.as_ref().ok()?)));
        if let Some((name, _)) = intact.take(KEPT).find(|(_, info)| foreign(info)) {
            let name = name.clone();
            return finding(format!("a replica does not start here: {}", StoreError::Foreign { name }));
        }
        let base = verdict.report.base;
        // A small one is of a machine that keeps its own state: that has what the log goes on behind.
        let small = self.intact().any(|info| !info.head.full && info.base().index >= base.index);
        if !small && matches!(verdict.reaches, Reach::Machine | Reach::Nothing) {
            return finding(format!(
                "the log goes on behind {base}, and no intact snapshot here has that. A state machine that keeps its own state, and has applied that \
                 entry, goes on all the same. Any other, as that of `kontiki serve`, needs a snapshot: in a cluster start the replica, and it is sent \
                 one; a single replica does not start before a backup of it, as of entry {} or a later one, is put here under the name that `kontiki \
                 snapshot verify FILE` says",
                base.index
            ));
        }
        self.named.into_iter().find_map(|(_, found)| found.err()).map_or(Ok(()), Err)
    }
}
