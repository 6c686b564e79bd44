//! stub
#![allow(clippy::unwrap_used)]
mod deliver;
