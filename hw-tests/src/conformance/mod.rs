//! What every `Io` must do: the documentation of [`kontiki_io::Op`], as checks that run against any backend.
//!
//! A backend is brought as a [`World`]. [`CHECKS`] need nothing but the seam; [`THREADED`] also need real threads,
//! so a simulated world leaves them out.

pub mod desk;
pub mod files;
pub mod sockets;
pub mod threads;
pub mod turns;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use kontiki_io::{HostName, Io, Region};

pub use desk::Desk;

/// A backend under test, and the places it may use.
pub trait World {
    /// Opens an `Io` for at least `capacity` operations outstanding. `memory` may be registered.
    fn open(&mut self, capacity: usize, memory: &[Region<'_>]) -> Box<dyn Io>;

    /// The path of an empty directory, or one not made yet, that no other check uses. Names of it and below must
    /// survive its `Io`.
    fn directory(&mut self) -> PathBuf;

    /// An address that the world's `Io` can listen on and connect to, with port zero.
    fn address(&mut self) -> SocketAddr;

    /// A name that is looked up, and an address that is found for it.
    fn name(&mut self) -> (HostName, IpAddr);
}

/// One named check.
pub type Check = (&'static str, fn(&mut dyn World));

macro_rules! checks {
    ($($module:ident: $($name:ident),+ $(,)?);+ $(;)?) => {
        &[$($((concat!(stringify!($module), "::", stringify!($name)), $module::$name as fn(&mut dyn World)),)+)+]
    };
}

/// Checks for any world.
pub const CHECKS: &[Check] = checks! {
    files:
        a_new_file_is_exclusive,
        what_is_missing_is_not_found,
        written_is_read_back,
        a_durable_write_is_there_after_reopening,
        several_blocks_are_written_at_once,
        reads_end_at_the_end_of_the_file,
        allocated_space_reads_as_zeros,
        allocating_sets_the_length_both_ways,
        a_rename_replaces_and_an_unlink_removes,
        a_listing_has_files_and_lengths,
        directories_are_made_with_their_parents,
        a_lock_excludes_until_it_is_closed,
        removing_the_lock_file_lets_nobody_in,
        a_directory_has_an_identity,
        as_many_writes_as_the_capacity,
        writes_and_flushes_are_counted;
    sockets:
        both_ends_learn_their_addresses,
        a_gather_of_the_most_pieces_arrives_in_order,
        large_sends_pass_a_slow_reader,
        both_directions_at_once,
        a_receive_lands_where_it_was_told,
        a_closed_peer_is_the_end_of_the_stream,
        nobody_listening_is_refused,
        a_taken_address_is_in_use,
        a_shutdown_cancels_a_receive,
        a_shutdown_cancels_a_blocked_send,
        a_shutdown_cancels_an_accept,
        a_reset_disconnects_a_send,
        many_connections_at_once,
        an_address_can_be_taken_again,
        a_name_is_looked_up,
        a_lookup_holds_up_nothing;
    turns:
        time_moves_on,
        no_deadline_is_no_waiting,
        a_deadline_ends_a_turn,
        a_ring_ends_the_next_turn_once,
        one_more_than_the_capacity_panics,
        misaligned_transfers_panic,
        dropping_with_operations_outstanding_gives_memory_back;
};

/// Checks that need real threads.
pub const THREADED: &[Check] = checks! {
    threads:
        a_ring_from_another_thread_wakes_a_sleeper,
        no_ring_is_lost_in_a_race,
        a_lock_excludes_another_io,
        a_dropped_io_keeps_its_lock_until_its_writes_have_ended;
};
