//! From a connection to a session: who greets whom, in which version, and who is turned away.

pub(crate) mod dial;
pub(crate) mod hello;
pub(crate) mod listen;
pub(crate) mod reach;
pub(crate) mod refusal;
pub(crate) mod refused;
pub(crate) mod versions;
