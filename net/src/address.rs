//! Where a node listens: an address, or a host's name with a port.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use kontiki_io::HostName;

use crate::limits::MAX_ADDRESS_BYTES;

/// An address, or a name with a port that is looked up whenever a connection is made. At most [`MAX_ADDRESS_BYTES`]
/// bytes as text.
///
/// ```
/// use kontiki_net::Address;
///
/// let board: Address = "board-3.local:7001".parse().unwrap();
/// assert_eq!((board.socket(), board.port()), (None, 7001));
/// let fixed = Address::from(([127, 0, 0, 1], 7001));
/// assert_eq!(fixed.to_string().parse(), Ok(fixed));
/// assert!("board-3.local".parse::<Address>().is_err(), "a port is needed");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Address(Kind);

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Socket(SocketAddr),
    /// The text up to its length; host and port were seen to be such.
    Name {
        text: [u8; MAX_ADDRESS_BYTES],
        len: u8,
        port: u16,
    },
}

/// Why text is no [`Address`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no address: it must be HOST:PORT, with an address or a name of a host, a port from 1 on, and at most 64 bytes in all")]
pub struct AddressError {
    /// What was given, as far as it is worth showing.
    text: String,
}

impl Address {
    /// The address that it is, if it need not be looked up.
    pub fn socket(&self) -> Option<SocketAddr> {
        match self.0 {
            Kind::Socket(addr) => Some(addr),
            Kind::Name { .. } => None,
        }
    }

    /// The port.
    pub fn port(&self) -> u16 {
        match self.0 {
            Kind::Socket(addr) => addr.port(),
            Kind::Name { port, .. } => port,
        }
    }

    /// The name to look up, if it is one.
    pub(crate) fn host(&self) -> Option<HostName> {
        HostName::new(self.name()?.rsplit_once(':')?.0)
    }

    fn name(&self) -> Option<&str> {
        match &self.0 {
            Kind::Socket(_) => None,
            Kind::Name { text, len, .. } => core::str::from_utf8(text.get(..usize::from(*len))?).ok(),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(addr: SocketAddr) -> Address {
        Address(Kind::Socket(addr))
    }
}

impl From<([u8; 4], u16)> for Address {
    fn from(addr: ([u8; 4], u16)) -> Address {
        SocketAddr::from(addr).into()
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        if let Ok(addr) = text.parse::<SocketAddr>() {
            return Ok(addr.into());
        }
        let name = || {
            let (host, port) = text.rsplit_once(':')?;
            let port = port.parse().ok().filter(|port| *port > 0)?;
            // What has a colon is an address that is none.
            HostName::new(host).filter(|_| !host.contains([':', '[', ']']))?;
            let mut bytes = [0; MAX_ADDRESS_BYTES];
            bytes.get_mut(..text.len())?.iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from);
            Some(Address(Kind::Name { text: bytes, len: text.len() as u8, port }))
        };
        name().ok_or_else(|| AddressError { text: text.chars().take(MAX_ADDRESS_BYTES).collect() })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Socket(addr) => addr.fmt(f),
            Kind::Name { .. } => f.write_str(self.name().unwrap_or_default()),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_and_addresses_come_back_as_written() {
        let longest = format!("{}:65535", "n".repeat(MAX_ADDRESS_BYTES - 6));
        for text in ["127.0.0.1:0", "[::1]:7001", "[fe80::1%3]:7001", "board-3:1", "a.b.c.example:7001", &longest] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
            assert_eq!(address.socket().is_none(), address.host().is_some(), "{text}");
        }
    }

    #[test]
    fn anything_else_is_named() {
        let long = format!("{}:65535", "n".repeat(MAX_ADDRESS_BYTES - 5));
        for text in
            ["", ":", ":7001", "board", "board:", "board:0", "board:65536", "board:-1", "bo ard:7", "::1:7001", "[::1:7001", "a:b:7", &long]
        {
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.to_string().contains("HOST:PORT"), "{text}: {error}");
        }
    }
}
