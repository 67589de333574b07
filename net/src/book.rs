//! The address book: which other nodes there are, each at a slot of its own.
//!
//! Who comes or goes moves nobody else: whatever is under way names its peer by the slot.

use kontiki_core::{NodeId, Time};
use kontiki_io::Io;

use crate::address::Address;
use crate::event::DownReason;
use crate::net::Net;
use crate::session::peer::Peer;

/// Why a peer is not taken into the address book.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BookError {
    /// Node ids start at 1.
    #[error("a peer has the id 0: ids start at 1")]
    ZeroId,
    /// There are as many peers as memory was set aside for.
    #[error("no place for another peer: this node was started with room for {places}")]
    Full {
        /// How many peers there can be (those of [`Options::peers`](crate::Options::peers), and `further_peers`).
        places: usize,
    },
}

/// The other nodes. There are as many slots as memory was set aside for.
#[derive(Debug)]
pub(crate) struct Book {
    /// Whose each slot is; zero where it is free. Beside the peers, since it is looked through for each message.
    ids: Vec<NodeId>,
    slots: Vec<Option<Peer>>,
    /// What is being looked up for each slot. That may be for a peer that is gone, or at another address by now: a
    /// lookup cannot be called back, and there is one for a slot at a time.
    lookups: Vec<Option<Address>>,
    /// Behind the last slot that is taken: what is free there costs a turn nothing.
    end: usize,
}

/// The id of nobody.
const FREE: NodeId = NodeId(0);

impl Book {
    pub(crate) fn new(places: usize) -> Book {
        Book { ids: vec![FREE; places], slots: (0..places).map(|_| None).collect(), lookups: vec![None; places], end: 0 }
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

    /// Frees a slot. The caller has seen to what is open with the peer.
    fn remove(&mut self, p: usize) -> Option<Peer> {
        *self.ids.get_mut(p)? = FREE;
        self.end = self.ids.iter().rposition(|&id| id != FREE).map_or(0, |last| last + 1);
        self.slots.get_mut(p)?.take()
    }

    /// Whether something is being looked up for this slot.
    pub(crate) fn looks_up(&self, p: usize) -> bool {
        self.lookups.get(p).is_some_and(Option::is_some)
    }

    /// Notes that this is being looked up.
    pub(crate) fn look_up(&mut self, p: usize, addr: Address) {
        if let Some(lookup) = self.lookups.get_mut(p) {
            *lookup = Some(addr);
        }
    }

    /// That has ended: what was looked up.
    pub(crate) fn looked_up(&mut self, p: usize) -> Option<Address> {
        self.lookups.get_mut(p)?.take()
    }
}

impl Net {
    /// Takes a peer into the address book, or notes that its address is another one, or not known any more. It is looked
    /// for from now on: dialled where its address is known (see the crate's overview), and let in where it greets. An
    /// open session stays; where this node had dialled it, the new address is dialled beside it, and takes its place. An
    /// entry for this node is skipped.
    ///
    /// ```
    /// # use kontiki_core::{ClusterId, Incarnation, NodeId, Time};
    /// # use kontiki_net::{Address, BookError, Net, Options};
    /// # fn example(net: &mut Net, io: &mut dyn kontiki_io::Io) -> Result<(), BookError> {
    /// let (now, board_4) = (io.now(), NodeId(4));
    /// net.set_peer(board_4, "board-4.local:7001".parse().ok(), now, io)?;
    /// assert!(net.peers().any(|peer| peer == board_4));
    /// net.remove_peer(board_4, now, io);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If the id is zero, or as many peers are known as there may be.
    pub fn set_peer(&mut self, id: NodeId, addr: Option<Address>, now: Time, io: &mut dyn Io) -> Result<(), BookError> {
        if id == FREE {
            return Err(BookError::ZeroId);
        }
        if id == self.options.node {
            return Ok(());
        }
        let Some(p) = self.peers.slot(id) else {
            let mut peer = Peer::new(id, addr, &self.options);
            peer.seek(self.options.idle_timeout_ns, now);
            let added = self.peers.add(peer);
            if self.granted == Some(id) {
                self.granted_slot = added;
            }
            return added.map(drop).ok_or(BookError::Full { places: self.peers.places() });
        };
        let Some(peer) = self.peers.get_mut(p).filter(|peer| peer.addr != addr) else { return Ok(()) };
        peer.addr = addr;
        (peer.tried, peer.found, peer.last_found) = (0, heapless::Vec::new(), None);
        peer.attempts = 0;
        peer.moved = addr.is_some() && peer.session.as_ref().is_some_and(|session| session.ours);
        if peer.we_decide || peer.moved {
            peer.dial_at = now;
        }
        self.half_over(p, io);
        Ok(())
    }

    /// Forgets a peer: its session ends ([`DownReason::Removed`]), what is queued for it is dropped, and it is neither
    /// dialled nor let in any more. Its place is free at once.
    pub fn remove_peer(&mut self, id: NodeId, now: Time, io: &mut dyn Io) {
        let Some(p) = self.peers.slot(id) else { return };
        self.session_down(p, DownReason::Removed, now, io);
        self.half_over(p, io);
        let Some(peer) = self.peers.remove(p) else { return };
        self.granted_slot = self.granted_slot.filter(|&granted| granted != p);
        for half in peer.greeted {
            self.conns.doom(half.control, io);
        }
        self.refused.reached(id);
    }
}

#[cfg(test)]
mod tests {
    use kontiki_core::{ClusterId, Incarnation};

    use super::*;
    use crate::options::Options;

    fn peer(id: u64) -> Peer {
        let here = ([127, 0, 0, 1], 7000).into();
        Peer::new(NodeId(id), None, &Options::new(ClusterId(1), NodeId(99), Incarnation(1), here, Vec::<(NodeId, Address)>::new()))
    }

    #[test]
    fn a_slot_is_kept_and_one_that_is_free_is_taken_again() {
        let mut book = Book::new(3);
        assert_eq!([5, 2, 9].map(|id| book.add(peer(id))), [Some(0), Some(1), Some(2)]);
        assert_eq!(book.add(peer(7)), None);
        assert_eq!(book.remove(1).map(|peer| peer.id), Some(NodeId(2)));
        assert_eq!((book.slot(NodeId(9)), book.slot(NodeId(2)), book.slot(FREE), book.end()), (Some(2), None, None, 3));
        assert_eq!(book.add(peer(7)), Some(1));
        let known: Vec<u64> = book.iter().map(|peer| peer.id.0).collect();
        assert_eq!(known, [5, 7, 9]);
        assert!([2, 1, 0].map(|p| book.remove(p)).iter().all(Option::is_some));
        assert_eq!((book.end(), book.iter().count(), book.remove(0).is_none()), (0, 0, true));
    }
}
