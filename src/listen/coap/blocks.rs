//! Block-wise transfers (RFC 7959), as far as there are any here.
//!
//! The body of a request comes whole: in a request without Block1, or in one that says that its only block is the first
//! and the last. Block2 in a request asks for blocks of at most a size. The list of streams is given in such blocks; what
//! else is answered has a short text at most, which is cut to that size. Nothing is remembered between two blocks.

use coap_lite::Packet;

use super::options::{self, Refused};

pub const BLOCK2: u16 = 23;
pub const BLOCK1: u16 = 27;

/// A later block of a response that has no more than one.
pub const ONE_BLOCK: Refused = Refused::Unsupported("option 23 (Block2): this response has only one block");

const SEVERAL_BLOCKS: Refused = Refused::Unsupported(
    "option 27 (Block1): bodies in several blocks are not supported; send the reading in one datagram",
);

/// The value of a Block1 or Block2 option (§2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    pub number: u32,
    pub more: bool,
    /// SZX: a block has 2 to the power of this and 4 bytes, 16 to 1024.
    pub exponent: u8,
}

/// The blocks that a request names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Blocks {
    /// Of its body, which has arrived whole.
    pub body: Option<Block>,
    /// Of the response that it asks for.
    pub response: Option<Block>,
}

/// Reads both options, once [`options::check`] has found them well formed. Of an `oversize` request the end of the body is
/// not there; that it is too large is told by who looks at its size.
pub fn of(packet: &Packet, oversize: bool) -> Result<Blocks, Refused> {
    let body = block(packet, BLOCK1)?;
    if let Some(body) = body {
        if body.number > 0 || body.more {
            return Err(SEVERAL_BLOCKS);
        }
        if !oversize && packet.payload.len() > body.bytes() {
            return Err(Refused::Block("the payload is longer than its block"));
        }
    }
    let response = block(packet, BLOCK2)?;
    Ok(Blocks { body, response })
}

fn block(packet: &Packet, option: u16) -> Result<Option<Block>, Refused> {
    let Some(value) = options::uint_of(packet, option, 3) else {
        return Ok(None);
    };
    let block = Block {
        number: value >> 4,
        more: value & 8 != 0,
        exponent: (value & 7) as u8,
    };
    match block.exponent {
        7 => Err(Refused::Block("block size 7 is reserved")), // §2.2
        _ => Ok(Some(block)),
    }
}

// === impl Block ===

impl Block {
    pub fn bytes(self) -> usize {
        16 << self.exponent
    }

    pub fn value(self) -> u32 {
        self.number << 4 | u32::from(self.more) << 3 | u32::from(self.exponent)
    }

    /// The part of `body` that this block asks for, and the block that the response names; `None` if it is past the end.
    pub fn of_body(self, body: &[u8]) -> Option<(&[u8], Block)> {
        let start = usize::try_from(self.number).ok()?.checked_mul(self.bytes())?;
        if start >= body.len() && self.number > 0 {
            return None;
        }
        let rest = body.get(start..).unwrap_or_default();
        let part = rest.get(..self.bytes()).unwrap_or(rest);
        let more = part.len() < rest.len();
        Some((part, Block { more, ..self }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(option: u16, value: &[u8], payload: &str) -> Packet {
        let mut packet = Packet::new();
        packet.add_option(option.into(), value.to_vec());
        packet.payload = payload.into();
        packet
    }

    #[test]
    fn a_body_comes_whole_in_its_first_block() {
        let check = |value: &[u8], payload_bytes: usize, expected: Result<usize, Refused>| {
            let blocks = of(&packet(BLOCK1, value, &"x".repeat(payload_bytes)), false);
            let bytes = blocks.map(|blocks| blocks.body.expect("a Block1").bytes());
            assert_eq!(bytes, expected, "{value:02x?}, {payload_bytes} bytes");
        };
        check(&[], 16, Ok(16));
        check(&[0], 0, Ok(16));
        check(&[6], 1024, Ok(1024));
        check(&[0, 0, 2], 64, Ok(64));
        let longer = Err(Refused::Block("the payload is longer than its block"));
        check(&[], 17, longer);
        check(&[6], 1025, longer);
        check(&[7], 1, Err(Refused::Block("block size 7 is reserved")));
        // More to come, or something before it.
        check(&[0x0E], 1024, Err(SEVERAL_BLOCKS));
        check(&[0x16], 10, Err(SEVERAL_BLOCKS));
        check(&[0xFF, 0xFF, 0xF6], 10, Err(SEVERAL_BLOCKS));
        assert_eq!(of(&Packet::new(), false), Ok(Blocks::default()));
        let reserved = Err(Refused::Block("block size 7 is reserved"));
        assert_eq!(of(&packet(BLOCK2, &[7], ""), false), reserved);
    }

    #[test]
    fn a_body_is_given_in_the_blocks_that_are_asked_for() {
        let body: Vec<u8> = (0..40).collect();
        let check = |value: &[u8], body: &[u8], expected: Option<(std::ops::Range<usize>, u32)>| {
            let asked = of(&packet(BLOCK2, value, ""), false).unwrap().response.unwrap();
            let given = asked.of_body(body).map(|(part, block)| (part.to_vec(), block.value()));
            let expected = expected.map(|(range, value)| (body.get(range).unwrap().to_vec(), value));
            assert_eq!(given, expected, "{value:02x?}");
        };
        check(&[0x00], &body, Some((0..16, 0x08)));
        check(&[0x10], &body, Some((16..32, 0x18)));
        check(&[0x20], &body, Some((32..40, 0x20)));
        check(&[0x30], &body, None);
        check(&[0xFF, 0xFF, 0xF6], &body, None);
        check(&[0x06], &body, Some((0..40, 0x06)));
        check(&[0x08], &body, Some((0..16, 0x08))); // the M bit of a request says nothing
        check(&[0x10], &body[..32], Some((16..32, 0x10)));
        check(&[0x20], &body[..32], None);
        check(&[0x00], &[], Some((0..0, 0x00)));
        check(&[0x10], &[], None);
    }
}
