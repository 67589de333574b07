//! The snapshots' files in a data directory.

use kontiki_core::LogIndex;
use kontiki_io::Name;

/// The node's own next snapshot while that is written. At other times it holds the space for it, and what is in it means
/// nothing: no start reads it.
pub const NEW: &str = "snapshot.new";
/// A snapshot that is being fetched. A start goes on with it if the same one is offered again.
pub const PART: &str = "snapshot.part";

/// A name that is known to be short and plain.
pub(crate) fn plain(name: &str) -> Name {
    match Name::new(name) {
        Some(name) => name,
        None => panic!("{name:?} is no file name"),
    }
}

/// The file of the snapshot as of `index`.
///
/// ```
/// # use kontiki_core::LogIndex;
/// assert_eq!(kontiki_snapshot::names::snapshot(LogIndex(0x1f)).as_str(), "snapshot-000000000000001f.ksn");
/// ```
pub fn snapshot(index: LogIndex) -> Name {
    match Name::format(format_args!("snapshot-{:016x}.ksn", index.0)) {
        Some(name) => name,
        None => panic!("a snapshot's name is short and plain"),
    }
}

/// The index that a file name stands for, if it is exactly the name that [`snapshot`] gives.
///
/// ```
/// use kontiki_core::LogIndex;
/// use kontiki_io::Name;
/// use kontiki_snapshot::names::{index, snapshot};
///
/// assert_eq!(index(&snapshot(LogIndex(9))), Some(LogIndex(9)));
/// assert_eq!(index(&Name::new("snapshot-9.ksn").unwrap()), None);
/// ```
pub fn index(name: &Name) -> Option<LogIndex> {
    let digits = name.as_str().strip_prefix("snapshot-")?.strip_suffix(".ksn")?;
    let index = LogIndex(u64::from_str_radix(digits, 16).ok()?);
    (snapshot(index) == *name).then_some(index)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_exact_names_are_snapshots() {
        assert_eq!(index(&snapshot(LogIndex(u64::MAX))), Some(LogIndex(u64::MAX)));
        for other in ["snapshot-1f.ksn", "snapshot-000000000000001F.ksn", "snapshot-+00000000000001f.ksn", NEW, PART] {
            assert_eq!(index(&Name::new(other).unwrap()), None, "{other}");
        }
    }
}
