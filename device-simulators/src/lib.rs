//! p
pub mod devices;
