//! The first packet of a connection: whatever it is, it is read or refused; what is read can be written and read again.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use sluice_fuzz::protocol::{
    message,
    startup::{First, STARTUP_MAX_BYTES, first_length, parse_first},
};

fuzz_target!(|packet: &[u8]| {
    let Some((word, body)) = packet.split_first_chunk() else {
        return;
    };
    if let Ok(length) = first_length(*word) {
        assert!((4..STARTUP_MAX_BYTES).contains(&length));
    }
    let startup = match parse_first(body) {
        Ok(First::Startup(startup)) => startup,
        Ok(_) => return,
        Err(error) => {
            let _ = (error.code(), error.hint(), error.to_string());
            return;
        }
    };
    assert!(!startup.user.is_empty() && startup.database.as_deref() != Some(""));
    assert!(startup.spoken() <= startup.version || startup.version.minor == 0);
    let mut out = BytesMut::new();
    if let Some(negotiation) = startup.negotiation() {
        message::negotiate_protocol_version(negotiation, &mut out);
        out.clear();
    }
    let user = ("user", startup.user.as_str());
    let settings = startup.parameters.iter();
    let settings = settings.map(|(name, value)| (name.as_str(), value.as_str()));
    message::startup(
        startup.version,
        std::iter::once(user).chain(settings),
        &mut out,
    )
    .expect("what came as a parameter can go as one");
    match parse_first(&out[4..]) {
        Ok(First::Startup(again)) => {
            assert_eq!(again.user, startup.user);
            assert_eq!(again.parameters, startup.parameters);
        }
        other => panic!("written as {out:?}, read as {other:?}"),
    }
});
