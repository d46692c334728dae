//! The `options` parameter: its settings, written out again, are read as the same settings.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_fuzz::protocol::options::{boolean, parse};

fuzz_target!(|text: &str| {
    let _ = boolean(text);
    match parse(text) {
        Ok(settings) => {
            let written: String = settings
                .iter()
                .map(|(name, value)| format!(" -c {}={}", protect(name), protect(value)))
                .collect();
            assert_eq!(
                parse(&written).as_ref(),
                Ok(&settings),
                "written as {written}"
            );
        }
        Err(error) => {
            let _ = (error.code(), error.to_string());
        }
    }
});

fn protect(text: &str) -> String {
    text.chars()
        .flat_map(|character| ['\\', character])
        .collect()
}
