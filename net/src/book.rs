//! The address book: which other nodes there are, each at a slot of its own.
//!
//! Who comes or goes moves nobody else: whatever is under way names its peer by the slot.

use kontiki_core::NodeId;

use crate::session::peer::Peer;

/// The other nodes. There are as many slots as memory was set aside for.
#[derive(Debug)]
pub(crate) struct Book {
    /// Whose each slot is; zero where it is free. Beside the peers, since it is looked through for each message.
    ids: Vec<NodeId>,
    slots: Vec<Option<Peer>>,
    /// Behind the last slot that is taken: what is free there costs a turn nothing.
    end: usize,
}

/// The id of nobody.
const FREE: NodeId = NodeId(0);

impl Book {
    pub(crate) fn new(places: usize) -> Book {
        Book { ids: vec![FREE; places], slots: (0..places).map(|_| None).collect(), end: 0 }
    }

    /// How many slots there are.
    pub(crate) fn places(&self) -> usize {
        self.slots.len()
    }

    /// Behind the last slot that is taken.
    pub(crate) fn end(&self) -> usize {
        self.end
    }

    /// Whose slot it is.
    #[inline]
    pub(crate) fn get(&self, p: usize) -> Option<&Peer> {
        self.slots.get(p)?.as_ref()
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, p: usize) -> Option<&mut Peer> {
        self.slots.get_mut(p)?.as_mut()
    }

    /// The slot of a peer, if it is in the book.
    #[inline]
    pub(crate) fn slot(&self, id: NodeId) -> Option<usize> {
        self.ids.get(..self.end)?.iter().position(|&known| known == id).filter(|_| id != FREE)
    }

    /// All of them, in the order of their slots.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.slots.iter().flatten()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Peer> {
        self.slots.iter_mut().flatten()
    }

    /// Gives a peer that is not in the book the first slot that is free; `None` if none is.
    pub(crate) fn add(&mut self, peer: Peer) -> Option<usize> {
        let p = self.ids.iter().position(|&id| id == FREE)?;
        *self.ids.get_mut(p)? = peer.id;
        *self.slots.get_mut(p)? = Some(peer);
        self.end = self.end.max(p + 1);
        Some(p)
    }
}
