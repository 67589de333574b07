//! What can go wrong with a log, and what to do about it.

use std::path::PathBuf;

use kontiki_core::{ClusterId, Incarnation, LogIndex, NodeId};
use kontiki_frame::FrameError;
use kontiki_io::{IoError, IoErrorKind, Name};

/// Why bytes at some place are not the log's next frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// The frame or its stamp is not intact.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// An intact frame of another place or of an earlier use of the file.
    #[error("a frame of an earlier use of the file")]
    Stale,
    /// The boot number falls.
    #[error("a frame of boot {found} after boot {before}")]
    BootFell {
        /// Boot number of the frame or segment before.
        before: Incarnation,
        /// Boot number found.
        found: Incarnation,
    },
    /// The frame does not follow from the log before it: a hole, or another term than it says stood before it.
    #[error("a frame from index {from} does not continue a log that ends at {last}")]
    Discontinuous {
        /// First index that counts in the frame found.
        from: LogIndex,
        /// Last index of the log before it.
        last: LogIndex,
    },
    /// An intact frame of another cluster, group or node.
    #[error("a frame of another cluster, group or node")]
    Foreign,
    /// The frame is longer than the rest of its segment, or the file ends inside it.
    #[error("a frame longer than the rest of its segment")]
    TooLong,
    /// The stamp claims that what comes after the frame was durable before it.
    #[error("a watermark past its own frame")]
    Watermark,
    /// The segment's header is not intact.
    #[error("the segment's header is damaged")]
    SegmentHeader,
    /// A segment file between others is not there.
    #[error("segment file {} is missing", crate::names::segment(*.number))]
    SegmentMissing {
        /// Its number.
        number: u64,
    },
    /// The segment ends here and no other continues the log.
    #[error("the log ends with its segment, and no segment continues it")]
    SegmentEnd,
    /// Something that was written to another place of this log: a file or a block was put here, or a write went astray.
    #[error("what was written at position {of} stands here")]
    Displaced {
        /// The position that it was written at.
        of: u64,
    },
    /// A segment file has lost its end. Files have their whole length before they have their names, and keep it.
    #[error("the file has {found} bytes, a segment has {expected}")]
    FileLength {
        /// Its length.
        found: u64,
        /// A segment's.
        expected: u64,
    },
    /// The newest segment's file is not the one that was prepared.
    #[error("the file is not the one that was prepared under this name: it was put here, or what stood in it is lost")]
    OtherFile,
    /// The index in memory says that the frame is here, and it is not.
    #[error("the frame that stood here is not there any more")]
    Vanished,
}

/// Acknowledged data that is not there any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "damage at position {position} (segment {}, offset {offset}): {cause}. The log is whole up to position {end}, and was known to be \
     durable up to {watermark}",
    crate::names::segment(*.segment)
)]
pub struct Damage {
    /// Number of the segment.
    pub segment: u64,
    /// Offset in the segment's file, in bytes.
    pub offset: u64,
    /// Absolute position in the log, in bytes.
    pub position: u64,
    /// Position up to which the log is whole.
    pub end: u64,
    /// Position up to which the log was durable, as later frames and the hard state say.
    pub watermark: u64,
    /// What is wrong there.
    pub cause: Cause,
}

/// Why a log cannot be opened, or must stop.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalError {
    /// A value of [`crate::Options`] cannot be.
    #[error("log options: {problem}")]
    Options {
        /// Which, and what it must be.
        problem: &'static str,
    },
    /// The data directory cannot be made, entered or listed.
    #[error("data directory {}: {source}{}", .dir.display(), advice(.source))]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        source: IoError,
    },
    /// The start was given up before the log was open, as was asked for ([`crate::Opening::stop`]).
    #[error("asked to stop while the log was being opened")]
    Stopped,
    /// Another process uses the data directory.
    #[error("data directory {} is in use by another process, or by another node of this one", .dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// Files cannot be written.
    #[error("no permission to {what} {name}, or the file system is read-only: {source}")]
    Permission {
        /// What was tried.
        what: &'static str,
        /// On which file.
        name: Name,
        /// What the system said.
        source: IoError,
    },
    /// No space for what a start needs. (A full disk later on is not an error: see [`crate::Space::Full`].)
    #[error("no space to {what} {name}: free some and start again")]
    DiskFull {
        /// What was tried.
        what: &'static str,
        /// On which file.
        name: Name,
    },
    /// The system lacks something for now: descriptors, memory, threads. Nothing is damaged. (Where a spare segment is
    /// prepared it is waited out: see [`crate::Space::Short`].)
    #[error("cannot {what} {name}: {source}. Nothing is damaged: raise the limit, or free some, and start again")]
    Shortage {
        /// What was tried.
        what: &'static str,
        /// On which file.
        name: Name,
        /// Of what.
        source: IoError,
    },
    /// A file operation failed. After a failed write or flush nobody knows what is on the medium: the log is poisoned,
    /// and the node stops and starts again from what it can read.
    #[error("cannot {what} {name}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        name: Name,
        /// What the system said.
        source: IoError,
    },
    /// The data directory belongs to another cluster.
    #[error("{name} belongs to cluster {found:032x}, this node to {expected:032x}: wrong data directory?", found = .found.0, expected = .expected.0)]
    WrongCluster {
        /// The file that says so.
        name: Name,
        /// The cluster found.
        found: ClusterId,
        /// The cluster configured.
        expected: ClusterId,
    },
    /// The data directory belongs to another node of the cluster.
    #[error("{name} belongs to node {found}, this is node {expected}: wrong data directory?")]
    WrongNode {
        /// The file that says so.
        name: Name,
        /// The node found.
        found: NodeId,
        /// The node configured.
        expected: NodeId,
    },
    /// The data directory belongs to another group.
    #[error("{name} belongs to another group of this node: wrong data directory?")]
    WrongGroup {
        /// The file that says so.
        name: Name,
    },
    /// Written by a newer program.
    #[error("{name} has format version {found}, this program reads up to {known}: update it")]
    NewerFormat {
        /// The file.
        name: Name,
        /// Version found.
        found: u16,
        /// Newest version known.
        known: u16,
    },
    /// Written by an older program, in a format that this one does not read.
    #[error(
        "{name} has format version {found}, this program reads version {known} alone: nothing was changed, and the release that wrote it still \
         reads it"
    )]
    OlderFormat {
        /// The file.
        name: Name,
        /// Version found.
        found: u16,
        /// The version known.
        known: u16,
    },
    /// The log was made with segments of another size.
    #[error(
        "the log has segments of {found} bytes, the configuration says {expected}: their size is fixed at first start, so set segment_bytes to {found} \
         (and max_frame_bytes to what fits)"
    )]
    SegmentBytes {
        /// Size found.
        found: u64,
        /// Size configured.
        expected: u64,
    },
    /// Both copies of the hard state are unreadable. Guessing a term or a vote could elect two leaders.
    #[error(
        "both copies of the hard state are damaged: term and vote are lost. This node may not vote again under \
         this id: leave it off and keep the directory; the others go on while they are a majority. An older copy of the directory would vote \
         again where it has voted"
    )]
    HardStateLost,
    /// Two intact copies that no interrupted update explains: the device lost a flushed write.
    #[error(
        "the copies of the hard state disagree (updates {first} and {second}): the device lost a flushed write. This node may not vote again under this id: leave it \
         off and keep the directory; the others go on while they are a majority"
    )]
    HardStateDisagrees {
        /// Update number of the first copy.
        first: u64,
        /// Update number of the second copy.
        second: u64,
    },
    /// Segments or snapshots, but no hard state.
    #[error(
        "there is {name} but no hard state: term and vote are lost. This node may not vote again under this id: leave it off and keep the directory; \
         the others go on while they are a majority. (A snapshot that was put into an empty directory starts no replica.)"
    )]
    HardStateMissing {
        /// A file of an earlier start.
        name: Name,
    },
    /// The log was written by a later start than the hard state knows of: an old copy of the hard state.
    #[error(
        "the log was written by boot {found}, but the hard state knows of {known} only: it is an old copy. This node may not vote again under this id: leave it \
         off and keep the directory; the others go on while they are a majority"
    )]
    HardStateOld {
        /// Boot number in the log.
        found: Incarnation,
        /// Boot number in the hard state.
        known: Incarnation,
    },
    /// The log goes on in a segment that the hard state does not know of: an old copy of the hard state.
    #[error(
        "there are log frames in {}, but the hard state knows of {} as the newest segment: it is an old copy, and term and vote may be \
         lost. This node may not vote again under this id: leave it \
         off and keep the directory; the others go on while they are a majority",
        crate::names::segment(*.found), crate::names::segment(*.known)
    )]
    HardStateBehind {
        /// Number of the segment written to.
        found: u64,
        /// The newest number in the hard state.
        known: u64,
    },
    /// Acknowledged data of a group's only voter is damaged; nobody could give it back.
    #[error(
        "{0}; this is the only voter, so no other can give the data back. `kontiki wal verify` shows what is there; if a file was moved or is \
         missing, put it back as it was"
    )]
    Damaged(Damage),
    /// More segment files than the log can keep track of.
    #[error("{found} segment files, at most {known} are supported: no log of this version has so many, so nothing was changed")]
    TooManySegments {
        /// Files found.
        found: usize,
        /// Files supported.
        known: usize,
    },
    /// No more boot or segment numbers: not in this universe, unless the file was tampered with.
    #[error("a counter of {name} is at its end")]
    Exhausted {
        /// The file.
        name: Name,
    },
}

/// What to do about a directory that cannot be used.
fn advice(source: &IoError) -> &'static str {
    match source.kind {
        IoErrorKind::NotFound | IoErrorKind::Permission => "; make it, and let this user write there",
        IoErrorKind::Full => "; free some space and start again",
        IoErrorKind::Shortage => "; nothing is damaged: raise the limit, or free some, and start again",
        _ => "",
    }
}

impl WalError {
    /// The error for a failed operation of opening.
    pub(crate) fn of(what: &'static str, name: Name, source: IoError) -> WalError {
        match source.kind {
            IoErrorKind::Full => WalError::DiskFull { what, name },
            IoErrorKind::Shortage => WalError::Shortage { what, name, source },
            IoErrorKind::Permission => WalError::Permission { what, name, source },
            _ => WalError::Io { what, name, source },
        }
    }
}
