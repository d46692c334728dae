//! Networks as people and programs write them: `10.0.0.0/8`, `2001:db8::/32`, or one address.
//!
//! They are kept in one form only, so that equal networks look equal and none is written in a way that no address
//! could ever match: host bits are cleared, and IPv4 mapped into IPv6 is IPv4 (clients' addresses are, too).

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Deserializer};

/// Bits before the IPv4 address in `::ffff:192.0.2.1`.
const MAPPED_PREFIX: u8 = 96;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write a network (10.0.0.0/8, 2001:db8::/32) or one address")]
pub struct NotANetwork;

/// The network that `text` means.
pub fn parse(text: &str) -> Result<IpNet, NotANetwork> {
    let network = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse().map_err(|_| NotANetwork)?,
    };
    Ok(unmapped(network).trunc())
}

fn unmapped(network: IpNet) -> IpNet {
    let (IpAddr::V6(address), Some(prefix)) = (
        network.addr(),
        network.prefix_len().checked_sub(MAPPED_PREFIX),
    ) else {
        return network;
    };
    let mapped = address
        .to_ipv4_mapped()
        .and_then(|address| Ipv4Net::new(address, prefix).ok());
    mapped.map_or(network, IpNet::V4)
}

/// One network, parsed as [`parse`] does.
struct Network(IpNet);

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = String::deserialize(input)?;
        parse(&text).map(Self).map_err(serde::de::Error::custom)
    }
}

/// For fields that hold one network.
pub(super) fn one<'de, D: Deserializer<'de>>(input: D) -> Result<IpNet, D::Error> {
    Network::deserialize(input).map(|network| network.0)
}

/// For fields that hold networks.
pub(super) fn list<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<IpNet>, D::Error> {
    let networks = Vec::<Network>::deserialize(input)?;
    Ok(networks.into_iter().map(|network| network.0).collect())
}

/// For fields that may hold networks.
pub(super) fn optional_list<'de, D: Deserializer<'de>>(
    input: D,
) -> Result<Option<Vec<IpNet>>, D::Error> {
    let networks = Option::<Vec<Network>>::deserialize(input)?;
    Ok(networks.map(|networks| networks.into_iter().map(|network| network.0).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_one_form() {
        for (text, network) in [
            ("192.0.2.7", "192.0.2.7/32"),
            ("2001:db8::7", "2001:db8::7/128"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("2001:db8::7/32", "2001:db8::/32"),
            ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
            ("::ffff:192.0.2.7", "192.0.2.7/32"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(parse(text).unwrap().to_string(), network, "{text}");
        }
        for text in [
            "",
            "office",
            "10.0.0.0/33",
            "10.0.0/8",
            "10.0.0.0/-1",
            " 10.0.0.0/8",
        ] {
            assert_eq!(parse(text), Err(NotANetwork), "{text}");
        }
    }
}
