pub(crate) mod mapped;
use crate::{Completion, Io, IoError, IoStats, Op, Options, Token, Wake};
use std::sync::Arc;
pub(crate) struct Portable {}
impl Portable {
    pub(crate) fn open(_: &Options, _: &str) -> Result<Portable, (&'static str, i32)> {
        Err(("x", 0))
    }
}
impl Io for Portable {
    fn now(&self) -> kontiki_core::Time {
        crate::clock::now()
    }
    fn wall_ns(&self) -> u64 {
        0
    }
    fn submit(&mut self, _: Token, _: Op) {}
    fn capacity(&self) -> usize {
        0
    }
    fn turn(&mut self, _: Option<kontiki_core::Time>, _: &mut Vec<Completion>) -> Result<(), IoError> {
        Ok(())
    }
    fn bell(&self) -> Arc<dyn Wake> {
        unreachable!()
    }
    fn poll_fd(&self) -> Option<i32> {
        None
    }
    fn describe(&self) -> String {
        String::new()
    }
    fn stats(&self) -> IoStats {
        IoStats::default()
    }
}
