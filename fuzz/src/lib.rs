//! What the fuzz targets share: the protocol module as it stands in the main crate, built alone, so that a target
//! builds in seconds and every instrumented line is one under test.

#[path = "../../src/protocol/mod.rs"]
pub mod protocol;

use protocol::frame::{HEADER_BYTES, Header};

/// The whole messages that `bytes` begins with: tag and body.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let header = Header::parse(bytes).ok()??;
        let body = bytes.get(HEADER_BYTES..header.message_bytes())?;
        bytes = &bytes[header.message_bytes()..];
        Some((header.tag, body))
    })
}
