//! Load against a sink in the same process.
