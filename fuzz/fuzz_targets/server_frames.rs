//! A server's messages, in any bytes, after any requests: nothing that reads them panics, and no answer is made up.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use sluice_fuzz::{
    messages,
    protocol::{
        error::ErrorResponse,
        frame::HEADER_BYTES,
        pipeline::{Answer, Pipeline, TransactionStatus},
    },
};

const REQUESTS: &[u8; 12] = b"PBDECSQFcfdH";

// A first byte says how many requests follow; then come the server's messages. A message of the tag `!`, which no
// server sends, stands for the requests in its body.
fuzz_target!(|input: &[u8]| {
    let Some((count, rest)) = input.split_first() else {
        return;
    };
    let (requests, stream) = rest.split_at(rest.len().min(usize::from(*count)));
    let mut pipeline = Pipeline::default();
    request(&mut pipeline, requests);
    for (tag, body) in messages(stream) {
        if tag == b'!' {
            request(&mut pipeline, body);
            continue;
        }
        match pipeline.from_server(tag, body.first().copied()) {
            Ok(answer) => assert_eq!(answer, Answer::Pass, "nobody asked for another"),
            // The session ends here.
            Err(error) => {
                let _ = error.to_string();
                return;
            }
        }
        if pipeline.is_releasable() {
            assert!(!pipeline.is_busy());
            assert_eq!(pipeline.status(), TransactionStatus::Idle);
        }
        if matches!(tag, b'E' | b'N') {
            read_error(body);
        }
    }
});

fn request(pipeline: &mut Pipeline, requests: &[u8]) {
    for byte in requests {
        let tag = REQUESTS[usize::from(*byte) % REQUESTS.len()];
        pipeline.to_server(tag).expect("a client's message");
    }
}

/// An error that was read and written again is the same error.
fn read_error(body: &[u8]) {
    let error = ErrorResponse::parse(body);
    let mut out = BytesMut::new();
    error.write(&mut out);
    let again = ErrorResponse::parse(&out[HEADER_BYTES..]);
    // What is longer than the limit grows and shrinks with what is put in the place of broken UTF-8.
    if body.len() < 2_000 {
        assert_eq!(again, error);
    }
}
