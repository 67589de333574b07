//! What a demo prints at its end: what was measured, and what was proved.

use std::time::Duration;

use crate::demo::verify::Verdict;
use crate::demo::{Fall, Written};
use crate::error::Error;
use crate::load::Done;
use crate::outcomes::Tally;
use crate::output::say;
use crate::plot::Notes;
use crate::table::{Pairs, bytes, count, duration, milliseconds, table};

/// Prints what was measured.
pub(crate) fn measured(done: &Done, falls: &[Fall], notes: &Notes, written: Written, replicas: usize, entry_bytes: u32) -> Tally {
    let mut tally = Tally::default();
    for outcomes in done.outcomes.values() {
        let t = outcomes.tally();
        tally.acknowledged += t.acknowledged;
        tally.refused += t.refused;
        tally.unknown += t.unknown;
    }
    let seconds = done.length.as_secs_f64().max(0.001);
    let down: Duration = falls.iter().map(|f| f.refused).sum();
    let up = (seconds - down.as_secs_f64()).max(0.001);
    let per_second = |n: u64, s: f64| format!("{}/s", count((n as f64 / s) as u64));
    let quantile = |q| milliseconds(done.timeline.quantile(q));

    let mut rows = Pairs::new("measured");
    rows.row("writes acknowledged", count(tally.acknowledged));
    rows.row("throughput, over the whole run", per_second(tally.acknowledged, seconds));
    rows.row("throughput, while there was a leader", per_second(tally.acknowledged, up));
    rows.row("payload, while there was a leader", format!("{}/s", bytes((tally.acknowledged as f64 * f64::from(entry_bytes) / up) as u64)));
    rows.row("latency p50", quantile(0.5));
    rows.row("latency p99", quantile(0.99));
    rows.row("latency p99.9", quantile(0.999));
    rows.row("latency, longest", longest(done, notes));
    rows.row("longest time with nothing acknowledged", milliseconds(done.longest_silence));
    rows.row(
        "flushes per 1000 entries and replica",
        format!("{:.2}", written.counters.flushes as f64 * 1000.0 / tally.acknowledged.max(1) as f64 / replicas as f64),
    );
    disk(&mut rows, written, tally.acknowledged * u64::from(entry_bytes), replicas as u64);
    rows.row("refused, safe to repeat", count(tally.refused));
    rows.row("outcome unknown, not repeated", count(tally.unknown));
    say(rows);
    for stall in notes.gaps.iter().filter(|gap| !gap.expected) {
        say(format_args!("{:7.3} s  {}", stall.from.as_secs_f64(), stall.label));
    }
    if !falls.is_empty() {
        let mut rows = table(["killed", "logs read in", "then a leader after", "then a first write after", "no writes for"]);
        for fall in falls {
            let recovery = fall.recovery.map_or("-".into(), milliseconds);
            let first_write = if fall.first_write.is_zero() { "at once".into() } else { milliseconds(fall.first_write) };
            rows.add_row([fall.who.clone(), recovery, milliseconds(fall.election), first_write, milliseconds(fall.refused)]);
        }
        say(rows);
    }
    tally
}

/// The longest latency, and what it was: it may exceed every time without writes, since a client that was told to try
/// elsewhere may be the last to be answered.
fn longest(done: &Done, notes: &Notes) -> String {
    let longest = done.timeline.longest();
    let Some(point) = done.timeline.points().max_by_key(|p| p.latency_us.map_or(0, |l| l[2])) else { return milliseconds(longest) };
    let since = notes.marks.iter().rev().find(|mark| mark.at <= point.at);
    let after = since.map_or(String::new(), |mark| format!(", {} after \"{}\"", duration(point.at.saturating_sub(mark.at)), mark.label));
    format!("{}, answered at {:.2} s{after}", milliseconds(longest), point.at.as_secs_f64())
}

/// What went to the disks, and what for.
fn disk(rows: &mut Pairs, written: Written, payload: u64, replicas: u64) {
    let total = written.counters.disk_bytes_written / replicas;
    let zeros = (written.segments / replicas).min(total);
    let rest = (total - zeros).saturating_sub(payload);
    rows.row("written to disk per replica", bytes(total));
    rows.row("of it new segment files, filled with zeros once", bytes(zeros));
    rows.row("of it payload, acknowledged", bytes(payload.min(total - zeros)));
    rows.row("of it batch headers, padding to 4 KiB, term and vote, not acknowledged", bytes(rest));
}

/// Prints what was proved.
///
/// # Errors
/// [`Error::Finding`] if anything acknowledged is missing, doubled, or in another order.
pub(crate) fn judged(verdict: &Verdict, replicas: usize) -> Result<(), Error> {
    let mut rows = Pairs::new("proved from what each replica applied");
    rows.row(&format!("applied by each of {replicas} replicas, in one order"), count(verdict.applied));
    rows.row("acknowledged, and there exactly once", count(verdict.acknowledged));
    rows.row("outcome unknown, and there once", count(verdict.unknown_applied));
    rows.row("outcome unknown, and not there", count(verdict.unknown_absent));
    rows.row("refused, and not there", count(verdict.refused));
    rows.row("checksum of the order", format!("{:08x}", verdict.checksum));
    rows.row("wrong", count(verdict.wrong));
    say(rows);
    if verdict.wrong == 0 {
        say("No acknowledged write is lost, doubled or out of order.");
        return Ok(());
    }
    let mut text = format!("{} findings:", count(verdict.wrong));
    for finding in &verdict.findings {
        text.push_str(&format!("\n  {finding}"));
    }
    Err(Error::Finding(text))
}
