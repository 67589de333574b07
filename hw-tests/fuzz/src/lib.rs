//! What the fuzz targets share: a meter for memory, the repair of checksums, and a directory or a snapshot out of bytes.

pub mod chunks;
pub mod image;
pub mod meter;
pub mod repair;
