//! The files of a data directory.

use kontiki_io::Name;

/// Held exclusively while a node runs.
pub const LOCK: &str = "kontiki.lock";
/// Term, vote and boot number, twice.
pub const HARD_STATE: &str = "hard-state";
/// The hard state of a first start that is not finished yet.
pub const HARD_STATE_NEW: &str = "hard-state.new";
/// A segment that is being filled with zeros.
pub const SEGMENT_NEW: &str = "segment.new";

/// A name that is known to be short and plain.
pub(crate) fn plain(name: &str) -> Name {
    match Name::new(name) {
        Some(name) => name,
        None => panic!("{name:?} is no file name"),
    }
}

/// The file of segment `number`.
pub fn segment(number: u64) -> Name {
    match Name::format(format_args!("log-{number:016x}.seg")) {
        Some(name) => name,
        None => panic!("a segment's name is short and plain"),
    }
}

/// The segment that a file name stands for, if it is exactly the name that [`segment`] gives.
pub fn segment_number(name: &Name) -> Option<u64> {
    let digits = name.as_str().strip_prefix("log-")?.strip_suffix(".seg")?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    (segment(number) == *name).then_some(number)
}

/// Whether a file is one that only a node with a hard state leaves: of its log, or of its snapshots, which lie beside it.
pub(crate) fn is_of_an_earlier_start(name: &Name) -> bool {
    let text = name.as_str();
    let of_snapshots = text.strip_prefix("snapshot").is_some_and(|rest| rest.starts_with(['-', '.']));
    segment_number(name).is_some() || text == SEGMENT_NEW || of_snapshots && [".ksn", ".new", ".part"].iter().any(|end| text.ends_with(end))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_exact_names_are_segments() {
        assert_eq!(segment(0x1f).as_str(), "log-000000000000001f.seg");
        assert_eq!(segment_number(&segment(u64::MAX)), Some(u64::MAX));
        for other in ["log-1f.seg", "log-000000000000001F.seg", "log-+00000000000001f.seg", "log-000000000000001f.seg~", HARD_STATE] {
            assert_eq!(segment_number(&Name::new(other).unwrap()), None, "{other}");
        }
    }
}
