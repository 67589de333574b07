//! What the store's operations are called while they are outstanding.

use kontiki_io::Token;

/// The top byte of every token of the store.
pub const OWNER: u8 = 3;

const OWNER_SHIFT: u32 = 56;
const KIND_SHIFT: u32 = 48;

/// What an operation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The step of opening, of what is made, or of closing.
    Step,
    /// A read of what is verified.
    Verify,
    /// A read, by its slot.
    Read(usize),
}

impl Purpose {
    pub(crate) fn token(self) -> Token {
        let (kind, slot) = match self {
            Purpose::Step => (0, 0),
            Purpose::Verify => (1, 0),
            Purpose::Read(slot) => (2, slot as u64),
        };
        Token(u64::from(OWNER) << OWNER_SHIFT | kind << KIND_SHIFT | slot)
    }

    /// `None` for a token that is not the store's.
    pub(crate) fn of(token: Token) -> Option<Purpose> {
        if token.0 >> OWNER_SHIFT != u64::from(OWNER) {
            return None;
        }
        Some(match token.0 >> KIND_SHIFT & 0xff {
            0 => Purpose::Step,
            1 => Purpose::Verify,
            2 => Purpose::Read((token.0 & 0xffff) as usize),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_name_their_purpose() {
        for purpose in [Purpose::Step, Purpose::Verify, Purpose::Read(0), Purpose::Read(7)] {
            assert_eq!(Purpose::of(purpose.token()), Some(purpose));
            assert_eq!(purpose.token().0 >> 56, u64::from(OWNER));
        }
        assert_eq!(Purpose::of(Token(1 << 56)), None);
    }
}
