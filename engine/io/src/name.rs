//! File names inside a data directory: short, checked, without allocation.

use core::fmt;

/// Longest file name, in bytes.
pub const MAX_NAME_BYTES: usize = 48;

/// A plain file name (no separators), at most [`MAX_NAME_BYTES`] bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(heapless::String<MAX_NAME_BYTES>);

impl Name {
    /// A name, unless it is empty, too long, `.`, `..`, or holds `/` or NUL.
    pub fn new(name: &str) -> Option<Name> {
        if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
            return None;
        }
        heapless::String::try_from(name).ok().map(Name)
    }

    /// A name from format arguments: `Name::format(format_args!("log-{n:016x}.seg"))`.
    pub fn format(args: fmt::Arguments<'_>) -> Option<Name> {
        let mut text = heapless::String::<MAX_NAME_BYTES>::new();
        fmt::Write::write_fmt(&mut text, args).ok()?;
        Name::new(&text)
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_in_its_directory_and_within_its_bound() {
        for bad in ["", ".", "..", "a/b", "/", "nul\0", &"x".repeat(MAX_NAME_BYTES + 1)] {
            assert!(Name::new(bad).is_none(), "{bad:?}");
        }
        for good in ["a", "...", ".hidden", "log-0000000000000001.seg", &"x".repeat(MAX_NAME_BYTES), "größe"] {
            assert_eq!(Name::new(good).as_ref().map(Name::as_str), Some(good));
        }
        assert!(Name::format(format_args!("{:0>1$}", 1, MAX_NAME_BYTES)).is_some());
        assert!(Name::format(format_args!("{:0>1$}", 1, MAX_NAME_BYTES + 1)).is_none());
    }
}
