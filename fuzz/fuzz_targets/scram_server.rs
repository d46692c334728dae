//! A client's side of a SCRAM exchange, in any bytes: nobody gets in without the password.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_fuzz::protocol::scram::{
    SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ServerBinding, ServerFirst, Verifier,
};

// `client-first \n what client-final says ahead of the nonce \n what it says behind it`; the byte in front chooses
// mechanism and binding. Without a second part, client-final is the third as it stands.
fuzz_target!(|input: &[u8]| {
    let Some((choice, input)) = input.split_first() else {
        return;
    };
    let mut parts = input.splitn(3, |byte| *byte == b'\n');
    let mut next = || parts.next().unwrap_or_default();
    let (first, before, after) = (next(), next(), next());
    read_verifier(input);
    let mechanism = if choice & 1 == 0 {
        SCRAM_SHA_256
    } else {
        SCRAM_SHA_256_PLUS
    };
    let binding = if choice & 2 == 0 {
        ServerBinding::None
    } else {
        ServerBinding::EndPoint(vec![7; 32])
    };
    let verifier = Verifier::mock(&[1; 32], "nobody");
    let Ok((server_first, wait)) = ServerFirst::start(verifier, first, mechanism, binding) else {
        return;
    };
    let nonce = server_first.split(',').next().expect("r=nonce");
    let client_final = if before.is_empty() {
        after.to_vec()
    } else {
        [before, b",", nonce.as_bytes(), after].concat()
    };
    assert!(
        wait.finish(&client_final).is_err(),
        "a mock verifier took a proof"
    );
});

fn read_verifier(input: &[u8]) {
    if let Ok(text) = std::str::from_utf8(input)
        && let Ok(verifier) = Verifier::parse(text)
    {
        let written = verifier.to_text();
        let again = Verifier::parse(&written).expect("what was written can be read");
        assert_eq!(again.to_text(), written);
    }
}
