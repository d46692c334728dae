//! A server's side of a SCRAM exchange, in any bytes: no server passes that does not know the password.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_fuzz::protocol::scram::{ClientWithKeys, ScramKeys};

// `what server-first says behind the client's nonce \n server-final`; an odd byte in front leaves the nonce out.
fuzz_target!(|input: &[u8]| {
    let Some((choice, input)) = input.split_first() else {
        return;
    };
    let mut parts = input.splitn(2, |byte| *byte == b'\n');
    let mut next = || parts.next().unwrap_or_default();
    let (first, server_final) = (next(), next());
    let keys = ScramKeys {
        client_key: [3; 32],
        server_key: [5; 32],
    };
    let (client, client_first) = ClientWithKeys::new(keys);
    let nonce = client_first.strip_prefix("n,,n=,").expect("the header");
    let server_first = if choice & 1 == 0 {
        [nonce.as_bytes(), first].concat()
    } else {
        first.to_vec()
    };
    let Ok((wait, client_final)) = client.respond(&server_first) else {
        return;
    };
    assert!(client_final.starts_with("c=biws,r="), "{client_final}");
    // The client's nonce is fresh, so no input can hold the signature.
    assert!(
        wait.verify(server_final).is_err(),
        "a server without the password passed"
    );
});
