//! What the fuzz targets share: a meter for memory, the repair of checksums, and a directory out of bytes.

pub mod image;
pub mod meter;
pub mod repair;
