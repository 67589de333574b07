//! What the log's operations are called while they are outstanding.

use kontiki_io::Token;

/// The top byte of every token of the log.
pub const OWNER: u8 = 1;

const OWNER_SHIFT: u32 = 56;
const KIND_SHIFT: u32 = 48;
const NUMBER: u64 = (1 << KIND_SHIFT) - 1;

/// What an operation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The one step of opening that is under way.
    Open,
    /// A read of recovery, by its number.
    Recover(u64),
    /// A log write, by its number.
    Write(u64),
    HardState,
    Prepare,
    /// A read or lookup, by its slot.
    Read(u64),
    Close,
    /// Zeros behind the log's end.
    Blank,
}

impl Purpose {
    pub(crate) fn token(self) -> Token {
        let (kind, number) = match self {
            Purpose::Open => (0, 0),
            Purpose::Recover(n) => (1, n),
            Purpose::Write(n) => (2, n),
            Purpose::HardState => (3, 0),
            Purpose::Prepare => (4, 0),
            Purpose::Read(n) => (5, n),
            Purpose::Close => (6, 0),
            Purpose::Blank => (7, 0),
        };
        Token(u64::from(OWNER) << OWNER_SHIFT | kind << KIND_SHIFT | number & NUMBER)
    }

    /// `None` for a token that is not the log's.
    pub(crate) fn of(token: Token) -> Option<Purpose> {
        if token.0 >> OWNER_SHIFT != u64::from(OWNER) {
            return None;
        }
        let number = token.0 & NUMBER;
        Some(match token.0 >> KIND_SHIFT & 0xff {
            0 => Purpose::Open,
            1 => Purpose::Recover(number),
            2 => Purpose::Write(number),
            3 => Purpose::HardState,
            4 => Purpose::Prepare,
            5 => Purpose::Read(number),
            6 => Purpose::Close,
            7 => Purpose::Blank,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_name_their_purpose() {
        for purpose in [
            Purpose::Open,
            Purpose::Recover(9),
            Purpose::Write(NUMBER),
            Purpose::HardState,
            Purpose::Prepare,
            Purpose::Read(0),
            Purpose::Close,
            Purpose::Blank,
        ] {
            assert_eq!(Purpose::of(purpose.token()), Some(purpose));
            assert_eq!(purpose.token().0 >> 56, u64::from(OWNER));
        }
        assert_eq!(Purpose::of(Token(2 << 56)), None);
    }
}
