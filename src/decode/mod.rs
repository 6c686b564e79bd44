//! To decode is here to take a message apart: its address into device and kind, its body into single readings.
//!
//! No payload is decoded: a reading stays the bytes that came. Pure and synchronous. [`address`] reads topic or path, [`envelope`] the content type and the shape of the body,
//! [`items`] finds the readings of a batch. What the JSON of a reading means is left to
//! `validate`. A further payload format has its content type in [`envelope`], and its parser in `validate`, beside `scan`: it
//! calls what `emit` offers.

pub mod address;

pub mod envelope;

pub mod items;

mod whitespace;
