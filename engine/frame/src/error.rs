//! What can be wrong with a frame.

/// Why bytes are not an intact frame. From a peer: close the session. From disk: damage or a torn tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The sealed header's magic number is missing: these bytes never were a frame.
    #[error("not a frame: no magic number at its header")]
    Magic,
    /// The header's checksum does not match.
    #[error("the frame's header is damaged: its checksum does not match")]
    HeaderChecksum,
    /// Intact, but of a format that this program does not know.
    #[error("frame of format version {found}, newest known is {known}: update this program", known = crate::VERSION)]
    Version {
        /// The version found.
        found: u16,
    },
    /// A kind that this format does not have.
    #[error("frame of unknown kind {found}")]
    Kind {
        /// The kind found.
        found: u8,
    },
    /// Reserved flags or bytes are in use.
    #[error("frame uses reserved bits of its header or stamp")]
    Reserved,
    /// The body is longer than the format allows, or the memory is not exactly as long as the frame.
    #[error("frame of {found} bytes where {expected} were expected")]
    Length {
        /// Bytes the header or the format calls for.
        expected: usize,
        /// Bytes found.
        found: usize,
    },
    /// Term zero, a falling term, index zero, no entries, or an index past the end of all indexes.
    #[error("frame with impossible terms, indexes or number of entries")]
    Meta,
    /// The body's checksum does not match.
    #[error("the frame's entries are damaged: their checksum does not match")]
    BodyChecksum,
    /// The padding is not zero.
    #[error("the frame's padding is not zero")]
    Padding,
    /// The header says of sectors that they hold something where they do not, or the other way about.
    #[error("the frame's header and its entries contradict each other")]
    Filled,
    /// The entries do not tile the body.
    #[error("entry {ordinal} of the frame has an impossible length")]
    Entry {
        /// Which entry, from zero.
        ordinal: u32,
    },
    /// The stamp is of another sort, or none.
    #[error("no such stamp before the frame")]
    StampMagic,
    /// The stamp's checksum does not match, or it belongs to another frame.
    #[error("the frame's stamp is damaged or belongs to another frame")]
    StampChecksum,
    /// The stamp's range is empty, or not inside the frame.
    #[error("the stamp's range is empty or outside the frame")]
    Range,
}
