//! Whom an address stands for, where addresses are counted.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv6Net};

/// An address, or the network of which somebody who has one IPv6 address usually has all.
#[must_use]
pub fn own_network(address: IpAddr) -> IpNet {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address).into(),
        IpAddr::V6(address) => Ipv6Net::new(address, 64).map_or_else(
            // 64 is a length that an IPv6 network can have, so this is never asked for.
            |_| IpAddr::V6(address).into(),
            |network| network.trunc().into(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_in_one_ipv6_network_are_one() {
        let network = |text: &str| own_network(text.parse().unwrap());
        assert_eq!(network("2001:db8::1"), network("2001:db8::ffff:1"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
        assert_eq!(network("::ffff:10.0.0.1"), network("10.0.0.1"));
        assert_ne!(network("10.0.0.1"), network("10.0.0.2"));
    }
}
