//! A request that is to be answered, and how much may be sent to its address, which anyone may have forged: three times its
//! bytes in all, with the empty acknowledgement and every repetition.
//!
//! The limit is that of RFC 7252 §11.3. Which answer it is belongs to the resource.

use coap_lite::{MessageType, Packet};

use super::super::blocks::{Block, Blocks};
use super::super::options;
use super::super::packet::{self, Head, Response};
use super::super::peers::Key;
use super::super::resource::AMPLIFICATION_MAX;

/// An empty acknowledgement.
const EMPTY_BYTES: usize = 4;

/// A request whose answer is awaited.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) request: Request,
    /// An empty acknowledgement has been sent: the response will be a separate one.
    pub(super) acknowledged: bool,
}

/// What is needed to answer a request.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) key: Key,
    pub(super) confirmable: bool,
    pub(super) token: Vec<u8>,
    /// Classes of responses that the client does not want (RFC 7967).
    no_response: u8,
    pub(super) bytes: usize,
    /// If it is too large: the body that would have fitted.
    pub(super) body_bytes_max: Option<u32>,
    /// The block that its body is, if it says so.
    pub(super) block1: Option<Block>,
    /// Bytes of the blocks that it wants the response in.
    block2_bytes: Option<usize>,
}

// === impl Waiting ===

impl Waiting {
    pub(super) fn new(request: Request) -> Self {
        Waiting {
            request,
            acknowledged: false,
        }
    }

    /// Bytes that may be sent from now on.
    pub(super) fn budget(&self) -> usize {
        let acknowledgement = if self.acknowledged { EMPTY_BYTES } else { 0 };
        (AMPLIFICATION_MAX * self.request.bytes).saturating_sub(acknowledgement)
    }

    /// Bytes that a text beside `response` may have, if it is sent this many times.
    pub(super) fn text_room(&self, response: &Response, transmissions: u32) -> usize {
        let room = self
            .request
            .room_beside(response, self.budget() / transmissions as usize);
        room.min(self.request.block2_bytes.unwrap_or(usize::MAX))
    }
}

// === impl Request ===

impl Request {
    /// From a datagram of `bytes`, of which more was read than what is in `packet` if it is `oversize`.
    pub(super) fn new(key: Key, head: &Head<'_>, packet: &Packet, bytes: usize) -> Self {
        let body_bytes = || u32::try_from(packet.payload.len()).ok();
        Request {
            key,
            confirmable: head.confirmable,
            token: head.token.to_vec(),
            no_response: options::no_response(packet),
            bytes,
            // As much of it was kept as fits.
            body_bytes_max: head.oversize.then(body_bytes).flatten(),
            block1: None,
            block2_bytes: None,
        }
    }

    pub(super) fn with(self, blocks: Blocks) -> Self {
        Request {
            block1: blocks.body,
            block2_bytes: blocks.response.map(Block::bytes),
            ..self
        }
    }

    /// Whether the client wants a response of this class (RFC 7967).
    pub(super) fn wants(&self, response: &Response) -> bool {
        self.no_response & 1 << (response.class() - 1) == 0
    }

    /// Bytes that a payload may have beside the rest of `response`, to an address that may be forged.
    pub(super) fn room(&self, response: &Response) -> usize {
        self.room_beside(response, AMPLIFICATION_MAX * self.bytes)
    }

    fn room_beside(&self, response: &Response, bytes: usize) -> usize {
        const PAYLOAD_MARKER: usize = 1;
        let bare = Response {
            payload: Vec::new(),
            ..response.clone()
        };
        let rest = packet::encode(MessageType::Acknowledgement, 0, &self.token, &bare);
        bytes.saturating_sub(rest.len() + PAYLOAD_MARKER)
    }
}
