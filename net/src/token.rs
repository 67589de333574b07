//! How the transport's operations are named: `owner tag | generation | operation | slot`.

use kontiki_io::Token;

/// The top byte of every token of the transport.
pub const TOKEN_TAG: u8 = 2;

/// What an operation does, as its token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Listen = 1,
    Accept,
    StopListening,
    CloseListener,
    /// Closes an accepted connection that found no room.
    CloseStray,
    Connect,
    Recv,
    Send,
    Shutdown,
    Close,
    /// Looks a peer's name up; the slot is the peer's place in the table of peers.
    Resolve,
}

impl Action {
    fn from_bits(bits: u8) -> Option<Action> {
        use Action::{Accept, Close, CloseListener, CloseStray, Connect, Listen, Recv, Resolve, Send, Shutdown, StopListening};
        [Listen, Accept, StopListening, CloseListener, CloseStray, Connect, Recv, Send, Shutdown, Close, Resolve]
            .into_iter()
            .find(|action| *action as u8 == bits)
    }
}

/// A token for an action on a slot. The generation is there for whoever reads a trace.
pub(crate) fn token(action: Action, slot: u16, generation: u32) -> Token {
    Token(u64::from(TOKEN_TAG) << 56 | u64::from(generation) << 24 | u64::from(action as u8) << 16 | u64::from(slot))
}

/// The action and slot behind a token of ours.
pub(crate) fn parse(token: Token) -> Option<(Action, u16)> {
    if token.0 >> 56 != u64::from(TOKEN_TAG) {
        return None;
    }
    Some((Action::from_bits((token.0 >> 16) as u8)?, token.0 as u16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back() {
        for bits in 1..=11 {
            let action = Action::from_bits(bits);
            assert!(action.is_some_and(|action| parse(token(action, 513, u32::MAX)) == Some((action, 513))));
        }
        assert_eq!(parse(Token(1 << 56 | 1 << 16)), None);
        assert_eq!(parse(Token(2 << 56 | 200 << 16)), None);
    }
}
