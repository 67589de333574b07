//! A bench of a cluster that runs already: puts over TCP.

use kontiki_benches::floor::Counted;

use super::Setup;
use super::load::Load as Wanted;
use super::recorder::Measured;
use super::result::Report;
use crate::cluster::{POLL, STATUS_LIMIT};
use crate::error::Error;
use crate::kv::Command;
use crate::load::{Load, Plan};
use crate::signals::StopFlag;
use crate::status;
use crate::target::Target;

/// Runs the load.
///
/// # Errors
/// The entries are too small for a put, nobody leads, or nothing was acknowledged.
pub(crate) fn run(targets: &[Target], wanted: &Wanted, keys: u32, stop: &StopFlag) -> Result<Report, Error> {
    if wanted.rate.is_some() {
        return Err(Error::Usage("--rate needs a cluster of the bench's own: leave --to out".into()));
    }
    let entry_bytes = wanted.entry_bytes as usize;
    let smallest = put(0, 0, keys).len();
    let value = entry_bytes.checked_sub(smallest).filter(|&v| v <= crate::kv::MAX_VALUE_BYTES).ok_or_else(|| {
        Error::Usage(format!(
            "--entry-bytes {entry_bytes}: with --to it must be {smallest} to {}, the size of a put",
            smallest + crate::kv::MAX_VALUE_BYTES
        ))
    })?;
    let heard: Vec<_> = targets.iter().map(|target| (target, status::fetch_of(target, STATUS_LIMIT).map(|(_, view)| view))).collect();
    let Some(leader) = heard.iter().filter_map(|(_, v)| v.as_ref().ok()).find(|v| v.leads()) else {
        let said: Vec<String> =
            heard.iter().map(|(addr, v)| format!("{addr}: {}", v.as_ref().map_or_else(Clone::clone, |v| v.role.to_lowercase()))).collect();
        return Err(Error::Unreachable(format!("none of --to leads ({})", said.join("; "))));
    };
    let (warmup, length) = (wanted.warmup(), wanted.length());
    let plan = Plan {
        targets: targets.to_vec(),
        clients: wanted.callers,
        in_flight: wanted.in_flight as usize,
        length: warmup + length,
        slots: 1,
        record_from: warmup,
    };
    let load = Load::start(&plan, &move |_| Box::new(move |number, buffer| buffer.extend(put(number, value, keys))))?;
    let pulse = load.pulse();
    while pulse.start().elapsed() < warmup + length {
        stop.check()?;
        std::thread::sleep(POLL);
    }
    let done = load.finish()?;
    if done.timeline.count() == 0 {
        return Err(Error::Finding(format!(
            "not one write was acknowledged{}",
            done.complaint.map_or(String::new(), |c| format!(": {c}"))
        )));
    }
    let measured = Measured {
        seconds: done.length.saturating_sub(warmup).as_secs_f64(),
        busy: done.outcomes.values().map(|o| o.tally().refused).sum(),
        missed: 0,
        counted: None,
        timeline: done.timeline,
    };
    // Of what those processes use, and of what they counted before, nothing is known here.
    let setup = Setup { load: wanted.clone(), replicas: (leader.peers.len() + 1) as u16, ..Setup::default() };
    let counted = Counted { backend: leader.backend.clone(), ..Counted::default() };
    Ok(Report { apply: None, ..Report::new(&setup, &measured, counted, Vec::new()) })
}

/// A put under one of so many keys, with a value of so many bytes; always of one length for one length of value.
fn put(number: u64, value_bytes: usize, keys: u32) -> Vec<u8> {
    let key = format!("bench-{:0width$}", number % u64::from(keys), width = (keys - 1).to_string().len());
    Command::Put { key: key.as_bytes(), value: &vec![b'x'; value_bytes] }.encode().unwrap_or_default()
}
