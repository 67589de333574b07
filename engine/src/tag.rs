//! What a product says of a member, for its own use.

use std::fmt;
use std::str::FromStr;

use crate::limits::MAX_TAG_BYTES;

/// A word of the product's own on a member: mostly where that one serves the product's clients, which is not where it
/// listens for its peers. At most [`MAX_TAG_BYTES`] bytes of text without control characters; empty where none was
/// given. Kontiki makes nothing of it, and sends it to nobody: every member has all tags in its own configuration, and
/// hands out the leader's with each [`LeaderHint`](crate::LeaderHint).
///
/// ```
/// use kontiki::{Member, ProposeError, Tag};
///
/// let mut member = Member::new(1, "board-1.local:7001".parse()?);
/// member.tag = "https://board-1.local:8080".parse()?;
/// assert_eq!(member.tag.as_str(), "https://board-1.local:8080");
/// assert!(Tag::default().is_empty());
/// assert!("a".repeat(65).parse::<Tag>().is_err());
///
/// /// Where a client that came to the wrong board is sent.
/// fn elsewhere(error: &ProposeError) -> Option<&str> {
///     match error {
///         ProposeError::NotLeader { leader: Some(leader) } => Some(leader.tag.as_str()),
///         _ => None,
///     }
/// }
/// # let _ = elsewhere;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tag {
    /// The text up to its length, zeros behind it.
    text: [u8; MAX_TAG_BYTES],
    len: u8,
}

/// Why text is no [`Tag`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TagError {
    /// It is too long.
    #[error("a tag of {bytes} bytes: at most {MAX_TAG_BYTES} are kept")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// It holds a control character, which logs and terminals would take for something else.
    #[error("a tag with a control character ({character:?}): it must be plain text")]
    Control {
        /// The first of them.
        character: char,
    },
}

impl Tag {
    /// The text.
    pub fn as_str(&self) -> &str {
        self.text.get(..usize::from(self.len)).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Default for Tag {
    fn default() -> Tag {
        Tag { text: [0; MAX_TAG_BYTES], len: 0 }
    }
}

impl FromStr for Tag {
    type Err = TagError;

    fn from_str(text: &str) -> Result<Tag, TagError> {
        if let Some(character) = text.chars().find(|c| c.is_control()) {
            return Err(TagError::Control { character });
        }
        let mut tag = Tag::default();
        let Some(place) = tag.text.get_mut(..text.len()) else { return Err(TagError::TooLong { bytes: text.len() }) };
        place.iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from);
        tag.len = text.len() as u8;
        Ok(tag)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_tag_comes_back_as_written() {
        let longest = "ü".repeat(MAX_TAG_BYTES / 2);
        for text in ["", "10.0.0.1:8080", "https://board.local/ a path", &longest] {
            let tag: Tag = text.parse().unwrap();
            assert_eq!((tag.as_str(), tag.to_string().as_str(), tag.is_empty()), (text, text, text.is_empty()));
        }
    }

    #[test]
    fn anything_else_is_named() {
        let long = "x".repeat(MAX_TAG_BYTES + 1);
        assert_eq!(long.parse::<Tag>(), Err(TagError::TooLong { bytes: MAX_TAG_BYTES + 1 }));
        // One character that begins before the bound and ends behind it.
        assert_eq!(format!("{}ü", "x".repeat(MAX_TAG_BYTES - 1)).parse::<Tag>(), Err(TagError::TooLong { bytes: MAX_TAG_BYTES + 1 }));
        for text in ["\u{1b}[2J", "a\nb", "\0", "\u{85}"] {
            assert!(matches!(text.parse::<Tag>(), Err(TagError::Control { .. })), "{text:?}");
        }
    }
}
