//! pg_hba.conf as PostgreSQL reads it: the first line that fits decides, and there is no falling through.
//!
//! Two questions: which line do our own logins as a role meet, and which other lines can anybody reach as that role.
//! A line is out of reach if an earlier one takes everything that it would.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::Deserialize;

use super::roles::Role;

/// A row of `pg_hba_file_rules`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct HostRule {
    pub(super) line_number: i64,
    /// From PostgreSQL 16 on.
    file_name: Option<String>,
    /// `None`: the line has an error.
    r#type: Option<String>,
    database: Option<Vec<String>>,
    user_name: Option<Vec<String>>,
    address: Option<String>,
    netmask: Option<String>,
    auth_method: Option<String>,
    options: Option<Vec<String>>,
    pub(super) error: Option<String>,
}

/// How somebody comes to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channel {
    Tls,
    Plain,
    Socket,
}

pub(super) const CHANNELS: [Channel; 3] = [Channel::Tls, Channel::Plain, Channel::Socket];

/// Where a line holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Anywhere,
    Network(IpNet),
    /// A host name, `samehost`, `samenet`: the server alone can tell.
    Unknown,
}

/// Whether a line holds for somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fit {
    Yes,
    Perhaps,
    No,
}

impl HostRule {
    pub(super) fn place(&self) -> String {
        let file = self.file_name.as_deref().unwrap_or("pg_hba.conf");
        let file = file.rsplit('/').next().unwrap_or(file);
        format!("{file} line {}", self.line_number)
    }

    pub(super) fn method(&self) -> &str {
        self.auth_method.as_deref().unwrap_or("")
    }

    pub(super) fn option(&self, name: &str) -> Option<&str> {
        let options = self.options.iter().flatten();
        options
            .filter_map(|option| option.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    }

    /// The first group that the line is for.
    pub(super) fn group(&self) -> Option<&str> {
        let mut names = self.user_name.iter().flatten();
        names.find_map(|name| name.strip_prefix('+'))
    }

    /// The expressions that the line knows roles by, each with its leading `/`.
    pub(super) fn expressions(&self) -> impl Iterator<Item = &str> {
        let names = self.user_name.iter().flatten().map(String::as_str);
        names.filter(|name| name.starts_with('/'))
    }

    fn admits(&self, channel: Channel) -> bool {
        match self.r#type.as_deref() {
            Some("local") => channel == Channel::Socket,
            Some("host" | "hostnogssenc") => channel != Channel::Socket,
            Some("hostssl") => channel == Channel::Tls,
            Some("hostnossl") => channel == Channel::Plain,
            // Encrypted by GSSAPI: neither of ours.
            _ => false,
        }
    }

    fn fits_role(&self, role: &Role) -> bool {
        let mut names = self.user_name.iter().flatten();
        names.any(|name| match name.strip_prefix('+') {
            Some(group) => role.is_in(group),
            None if name.starts_with('/') => role.expressions.contains(name),
            None => name == "all" || *name == role.name,
        })
    }

    fn fits_database(&self, database: &str, role: &Role) -> Fit {
        let mut fit = Fit::No;
        for name in self.database.iter().flatten() {
            match name.as_str() {
                "all" => return Fit::Yes,
                "sameuser" if role.name == database => return Fit::Yes,
                "samerole" | "samegroup" if role.is_in(database) => return Fit::Yes,
                "sameuser" | "samerole" | "samegroup" | "replication" => {}
                name if name == database => return Fit::Yes,
                name if name.starts_with('/') => fit = Fit::Perhaps,
                _ => {}
            }
        }
        fit
    }

    /// Whether somebody can come to the line at all, with whatever database they name.
    fn fits_any_database(&self) -> bool {
        let mut names = self.database.iter().flatten();
        names.any(|name| name != "replication")
    }

    fn holds_for_all_databases(&self) -> bool {
        self.database.iter().flatten().any(|name| name == "all")
    }

    fn from(&self) -> From {
        let Some(address) = self.address.as_deref() else {
            return From::Anywhere;
        };
        if address == "all" {
            return From::Anywhere;
        }
        let (Ok(address), Some(Ok(mask))) = (
            address.parse::<IpAddr>(),
            self.netmask.as_deref().map(str::parse::<IpAddr>),
        ) else {
            return From::Unknown;
        };
        IpNet::with_netmask(address, mask).map_or(From::Unknown, From::Network)
    }

    /// Whether the line is for connections from a single address.
    pub(super) fn is_for_one_address(&self) -> bool {
        matches!(self.from(), From::Network(network) if network.prefix_len() == network.max_prefix_len())
    }

    fn holds_at(&self, address: IpAddr) -> Fit {
        match self.from() {
            From::Anywhere => Fit::Yes,
            From::Network(network) if network.contains(&address) => Fit::Yes,
            From::Network(_) => Fit::No,
            From::Unknown => Fit::Perhaps,
        }
    }
}

/// The line that decides about a login.
#[derive(Debug, Clone, Copy)]
pub(super) enum Decisive<'a> {
    Line(&'a HostRule),
    /// This line may decide; only the server can tell.
    Perhaps(&'a HostRule),
    /// No line: PostgreSQL refuses.
    None,
}

/// The first line that fits a login as `role` from `address` to `database`.
pub(super) fn decisive<'a>(
    rules: &'a [HostRule],
    channel: Channel,
    role: &Role,
    database: &str,
    address: IpAddr,
) -> Decisive<'a> {
    for rule in rules {
        if !rule.admits(channel) || !rule.fits_role(role) {
            continue;
        }
        match (
            rule.fits_database(database, role),
            rule.holds_at(address.to_canonical()),
        ) {
            (Fit::No, _) | (_, Fit::No) => {}
            (Fit::Yes, Fit::Yes) => return Decisive::Line(rule),
            _ => return Decisive::Perhaps(rule),
        }
    }
    Decisive::None
}

/// The lines that somebody can reach as `role` through `channel`, from wherever and to whichever database.
pub(super) fn reachable<'a>(
    rules: &'a [HostRule],
    channel: Channel,
    role: &Role,
) -> Vec<&'a HostRule> {
    let mut found: Vec<&HostRule> = Vec::new();
    for rule in rules {
        if !rule.admits(channel) || !rule.fits_role(role) || !rule.fits_any_database() {
            continue;
        }
        if !is_covered(rule, &found) {
            found.push(rule);
        }
    }
    found
}

/// Whether the earlier lines, all of the same role and channel, leave nothing for `rule`.
fn is_covered(rule: &HostRule, earlier: &[&HostRule]) -> bool {
    let whole: Vec<&&HostRule> = earlier
        .iter()
        .filter(|other| other.holds_for_all_databases() || other.database == rule.database)
        .collect();
    let takes = |net: IpNet| {
        whole.iter().any(|other| match other.from() {
            From::Anywhere => true,
            From::Network(taken) => taken.contains(&net),
            From::Unknown => false,
        })
    };
    match rule.from() {
        From::Network(network) => takes(network),
        // Anywhere is both of these; 0.0.0.0/0 alone leaves IPv6.
        From::Anywhere | From::Unknown => takes(all_of_v4()) && takes(all_of_v6()),
    }
}

fn all_of_v4() -> IpNet {
    IpNet::new_assert(Ipv4Addr::UNSPECIFIED.into(), 0)
}

fn all_of_v6() -> IpNet {
    IpNet::new_assert(Ipv6Addr::UNSPECIFIED.into(), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: i64, text: &str) -> HostRule {
        let words: Vec<_> = text.split_whitespace().collect();
        let list = |text: &str| Some(text.split(',').map(str::to_owned).collect());
        let (address, rest) = if words[0] == "local" {
            (None, &words[3..])
        } else {
            (Some(words[3]), &words[4..])
        };
        let network: Option<IpNet> = address.and_then(|address| address.parse().ok());
        HostRule {
            line_number: number,
            file_name: None,
            r#type: Some(words[0].to_owned()),
            database: list(words[1]),
            user_name: list(words[2]),
            address: match network {
                Some(network) => Some(network.network().to_string()),
                None => address.map(str::to_owned),
            },
            netmask: network.map(|network| network.netmask().to_string()),
            auth_method: Some(rest[0].to_owned()),
            options: Some(rest[1..].iter().map(|&option| option.to_owned()).collect()),
            error: None,
        }
    }

    fn lines(text: &str) -> Vec<HostRule> {
        let text = text.trim().lines();
        text.zip(1..)
            .map(|(text, number)| line(number, text))
            .collect()
    }

    fn role(name: &str, groups: &[&str]) -> Role {
        Role {
            name: name.to_owned(),
            groups: groups.iter().map(|&group| group.to_owned()).collect(),
            ..Role::default()
        }
    }

    fn first(rules: &[HostRule], role: &Role, address: &str) -> Option<i64> {
        match decisive(rules, Channel::Tls, role, "app", address.parse().unwrap()) {
            Decisive::Line(rule) => Some(rule.line_number),
            Decisive::Perhaps(rule) => Some(-rule.line_number),
            Decisive::None => None,
        }
    }

    fn reached(rules: &[HostRule], channel: Channel, role: &Role) -> Vec<i64> {
        let found = reachable(rules, channel, role);
        found.iter().map(|rule| rule.line_number).collect()
    }

    #[test]
    fn the_first_line_that_fits_decides() {
        let rules = lines(
            "local all all peer
             hostnossl all all 0.0.0.0/0 trust
             hostssl other all 0.0.0.0/0 trust
             hostssl all +gate 10.0.0.0/8 cert map=jit
             hostssl app /^app 192.0.2.0/24 md5
             host all all db.example.com scram-sha-256",
        );
        let gated = role("app_ro", &["gate"]);
        assert_eq!(first(&rules, &gated, "10.1.2.3"), Some(4));
        assert_eq!(first(&rules, &gated, "::ffff:10.1.2.3"), Some(4));
        assert_eq!(first(&rules, &gated, "192.0.2.1"), Some(-6));
        let mut other = role("app", &[]);
        assert_eq!(first(&rules, &other, "10.1.2.3"), Some(-6));
        other.expressions.insert("/^app".to_owned());
        assert_eq!(first(&rules, &other, "192.0.2.1"), Some(5));
        assert_eq!(first(&rules[..5], &gated, "192.0.2.1"), None);
    }

    #[test]
    fn a_line_is_out_of_reach_behind_one_that_takes_everything_it_would() {
        let gated = role("app_ro", &["gate"]);
        let open = lines(
            "hostssl all +gate 10.0.0.0/24 cert map=jit
             host all all 10.0.0.0/24 scram-sha-256
             host all all 0.0.0.0/0 scram-sha-256",
        );
        // The second line is left for those without TLS, the third for everybody else.
        assert_eq!(reached(&open, Channel::Tls, &gated), [1, 3]);
        assert_eq!(reached(&open, Channel::Plain, &gated), [2, 3]);
        assert!(reached(&open, Channel::Socket, &gated).is_empty());
        let shut = lines(
            "hostssl all +gate 10.0.0.0/24 cert map=jit
             host all +gate all reject
             local all +gate reject
             host all all 0.0.0.0/0 trust
             local all all trust",
        );
        assert_eq!(reached(&shut, Channel::Tls, &gated), [1, 2]);
        assert_eq!(reached(&shut, Channel::Plain, &gated), [2]);
        assert_eq!(reached(&shut, Channel::Socket, &gated), [3]);
        assert_eq!(reached(&shut, Channel::Plain, &role("other", &[])), [4]);
    }

    #[test]
    fn a_line_of_one_database_or_of_ipv4_leaves_the_rest() {
        let gated = role("app_ro", &["gate"]);
        let rules = lines(
            "host app +gate all reject
             host all +gate 0.0.0.0/0 reject
             host all all all trust",
        );
        assert_eq!(reached(&rules, Channel::Tls, &gated), [1, 2, 3]);
        let both = lines(
            "host all +gate 0.0.0.0/0 reject
             host all +gate ::/0 reject
             host all all all trust
             host replication all all trust",
        );
        assert_eq!(reached(&both, Channel::Tls, &gated), [1, 2]);
    }
}
