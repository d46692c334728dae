//! The values that are written as text: durations, addresses, networks.
//!
//! Each says in its error what would have been right.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ipnet::IpNet;
use serde::de::{self, Deserialize, Deserializer, Unexpected, Visitor};

macro_rules! text_value {
    ($name:ident($inner:ty), $expected:literal, $parse:expr) => {
        #[derive(Debug, Clone, Copy)]
        pub(super) struct $name(pub(super) $inner);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Reader;

                impl Visitor<'_> for Reader {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expected)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        let parse: fn(&str) -> Option<$inner> = $parse;
                        parse(text)
                            .map($name)
                            .ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
                    }
                }

                deserializer.deserialize_str(Reader)
            }
        }
    };
}

text_value!(
    Span(Duration),
    r#"a duration such as "30s", "5m" or "1h""#,
    |text| humantime::parse_duration(text).ok()
);
text_value!(
    SpanOrOff(Option<Duration>),
    r#"a duration such as "30s", "5m" or "1h", or "off""#,
    |text| or_off(text, |text| humantime::parse_duration(text).ok())
);
text_value!(
    Address(SocketAddr),
    r#"an address and port such as "127.0.0.1:6543" or "[::]:6543""#,
    |text| text.parse().ok()
);
text_value!(
    AddressOrOff(Option<SocketAddr>),
    r#"an address and port such as "127.0.0.1:5432" or "[::]:5432", or "off""#,
    |text| or_off(text, |text| text.parse().ok())
);
text_value!(
    Network(IpNet),
    r#"a network such as "10.0.0.0/8" or an address"#,
    |text| text
        .parse()
        .ok()
        .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
);

/// `"off"` is no value; anything else must be one.
fn or_off<T>(text: &str, parse: fn(&str) -> Option<T>) -> Option<Option<T>> {
    match text {
        "off" => Some(None),
        _ => parse(text).map(Some),
    }
}
