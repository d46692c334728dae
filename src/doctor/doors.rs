//! The lines of pg_hba.conf judged: do our logins meet the right one, and what else leads into a granted role
//! (threat 32).

use std::net::IpAddr;

use super::{
    host_rules::{CHANNELS, Channel, Decisive, HostRule, decisive, reachable},
    report::{Addition, Findings, Topic, Verdict},
    roles::{Role, quoted},
    session::{Session, Unanswered},
};
use crate::catalog::types::{BackendLogin, Tenant};

const RULES: &str = "SELECT pg_catalog.to_json(r)::text FROM pg_catalog.pg_hba_file_rules r";

/// Whether `$1` fits the expression `$2`.
const FITS: &str = "SELECT ($1::text ~ $2::text)::text";

/// The group and map of the documentation, where the server has none yet.
const GATE: &str = "jit_assumable";
pub(super) const MAP: &str = "jit";

/// What the checks of one role need.
pub(super) struct Door<'a> {
    pub(super) rules: &'a [HostRule],
    pub(super) tenant: &'a Tenant,
    pub(super) database: &'a str,
    /// Where our connections come from, as the server sees it; `None`: a socket of its own machine.
    pub(super) from: Option<IpAddr>,
}

pub(super) async fn read(session: &mut Session) -> Result<Vec<HostRule>, Unanswered> {
    session.records(RULES, &[]).await
}

/// Notes lines that PostgreSQL cannot read: with one of them it goes on with the old file.
pub(super) fn note_errors(rules: &[HostRule], findings: &mut Findings) {
    for rule in rules {
        if let Some(error) = &rule.error {
            let message = format!(
                "{}: {error}; PostgreSQL goes on with the old file",
                rule.place()
            );
            findings.note(Topic::HostRules, Verdict::Failed, message);
        }
    }
}

/// Finds out which expressions of the file fit the role's name.
pub(super) async fn learn_expressions(
    session: &mut Session,
    rules: &[HostRule],
    role: &mut Role,
) -> Result<(), Unanswered> {
    for expression in rules.iter().flat_map(HostRule::expressions) {
        let fits = session
            .column(FITS, &[&role.name, &expression[1..]])
            .await?;
        if fits.first().is_some_and(|fits| fits == "true") {
            role.expressions.insert(expression.to_owned());
        }
    }
    Ok(())
}

impl<'a> Door<'a> {
    /// Notes whether our own logins as `role` meet the line that they need; answers that line.
    pub(super) fn note_ours(&self, role: &Role, findings: &mut Findings) -> Option<&'a HostRule> {
        let from = self.from?;
        let wanted = self.method();
        let name = &role.name;
        match decisive(self.rules, Channel::Tls, role, self.database, from) {
            Decisive::Line(rule) if self.suits(rule) => {
                let message = format!(
                    "logins as {name} from {from} meet {}: {wanted}",
                    rule.place()
                );
                findings.note(Topic::HostRules, Verdict::Ok, message);
                Some(rule)
            }
            Decisive::Line(rule) => {
                let told = if rule.method() == "cert" {
                    "cert without map=".to_owned()
                } else {
                    rule.method().to_owned()
                };
                let message = format!(
                    "logins as {name} from {from} meet {} first, which says {told} where {wanted} is needed",
                    rule.place()
                );
                let finding = findings.note(Topic::HostRules, Verdict::Failed, message);
                finding.add(self.lines(role, from, &format!("before {}", rule.place())));
                self.note_gate(role, findings);
                None
            }
            Decisive::Perhaps(rule) => {
                let message = format!(
                    "whether logins as {name} from {from} meet {} depends on names that only the server can resolve",
                    rule.place()
                );
                findings.note(Topic::HostRules, Verdict::Warning, message);
                None
            }
            Decisive::None => {
                let message = format!("no line of pg_hba.conf is for {name} from {from}");
                let finding = findings.note(Topic::HostRules, Verdict::Failed, message);
                finding.add(self.lines(role, from, "at its beginning"));
                self.note_gate(role, findings);
                None
            }
        }
    }

    /// Notes every other line that leads into `role`.
    pub(super) fn note_others(&self, role: &Role, findings: &mut Findings) {
        let before = findings.0.len();
        let mut told = Vec::new();
        for channel in CHANNELS {
            for rule in reachable(self.rules, channel, role) {
                let Some((verdict, why)) = self.judge(rule, channel, role) else {
                    continue;
                };
                // Of one line, what another channel makes worse is told as well.
                let is_told = |(place, worst): &(String, Verdict)| {
                    *place == rule.place() && *worst >= verdict
                };
                if told.iter().any(is_told) {
                    continue;
                }
                told.push((rule.place(), verdict));
                let message = format!(
                    "{} ({}) leads into {} {}: {why}",
                    rule.place(),
                    rule.method(),
                    role.name,
                    words(channel)
                );
                let finding = findings.note(Topic::SideDoors, verdict, message);
                if self.is_gated() {
                    finding.add(self.shut());
                } else if let Some(from) = self.from {
                    finding.add(only_from(role, from, rule));
                }
            }
        }
        if findings.0.len() == before {
            let message = format!("no other line of pg_hba.conf leads into {}", role.name);
            findings.note(Topic::SideDoors, Verdict::Ok, message);
        }
    }

    /// Whether the role should be reached through the pooler's own login only.
    fn is_gated(&self) -> bool {
        self.tenant.login != BackendLogin::RoleSecret
    }

    fn method(&self) -> &'static str {
        match self.tenant.login {
            BackendLogin::Certificate => "cert",
            BackendLogin::RoleSecret => "scram-sha-256",
            BackendLogin::PassThrough => "pam",
        }
    }

    fn suits(&self, rule: &HostRule) -> bool {
        match self.tenant.login {
            BackendLogin::Certificate => rule.method() == "cert" && rule.option("map").is_some(),
            BackendLogin::RoleSecret => {
                matches!(rule.method(), "scram-sha-256" | "md5" | "password")
            }
            BackendLogin::PassThrough => rule.method() == "pam",
        }
    }

    /// What is wrong with a line that leads into a granted role; `None`: nothing.
    fn judge(
        &self,
        rule: &HostRule,
        channel: Channel,
        role: &Role,
    ) -> Option<(Verdict, &'static str)> {
        match rule.method() {
            "reject" => None,
            "trust" => Some((Verdict::Unsafe, "it asks for nothing")),
            "password" | "pam" if channel == Channel::Plain => {
                Some((Verdict::Unsafe, "the password goes over the wire readable"))
            }
            _ if !self.is_gated() && self.suits(rule) && !rule.is_for_one_address() => Some((
                Verdict::Warning,
                "whoever uses the role with a token can give it another password and come back with that, past every rule",
            )),
            _ if !self.is_gated() || self.suits(rule) => None,
            "cert" => Some((
                Verdict::Warning,
                "it takes any certificate of ssl_ca_file that has the role as its CN",
            )),
            "scram-sha-256" | "md5" | "password" => Some(match role.has_password {
                Some(true) => (
                    Verdict::Unsafe,
                    "the role has a password, which outlives every rule",
                ),
                Some(false) => (
                    Verdict::Warning,
                    "the role has no password now; it will lead in as soon as it is given one",
                ),
                None => (
                    Verdict::Warning,
                    "it will lead in if the role has a password, which we may not look up",
                ),
            }),
            _ => Some((
                Verdict::Warning,
                "it goes by something that no rule and no revocation reaches",
            )),
        }
    }

    /// Notes that `role` is not in the group that the lines are for.
    fn note_gate(&self, role: &Role, findings: &mut Findings) {
        let gate = self.gate();
        if !self.is_gated() || role.is_in(gate) {
            return;
        }
        let name = &role.name;
        let message = format!("role {name} is not in the group {gate}, which the lines are for");
        let join = format!("GRANT {gate} TO {};", quoted(name));
        let sql = if gate == GATE {
            vec![format!("CREATE ROLE {gate} NOLOGIN;"), join]
        } else {
            vec![join]
        };
        findings
            .note(Topic::HostRules, Verdict::Failed, message)
            .add(Addition::new("SQL, as a superuser", sql));
    }

    /// The group whose members must come by our way: the one that the file has, else that of the documentation.
    fn gate(&self) -> &'a str {
        let ours = self.rules.iter().filter(|rule| self.suits(rule));
        ours.filter_map(HostRule::group).next().unwrap_or(GATE)
    }

    /// The lines that let our logins as `role` in, and nobody else.
    fn lines(&self, role: &Role, from: IpAddr, place: &str) -> Addition {
        let width = if from.is_ipv4() { 32 } else { 128 };
        let to = format!("pg_hba.conf, {place}");
        if !self.is_gated() {
            let line = format!(
                "hostssl all {} {from}/{width} scram-sha-256",
                quoted(&role.name)
            );
            return Addition::new(to, [line]);
        }
        let gate = self.gate();
        let method = match self.tenant.login {
            BackendLogin::PassThrough => "pam pamservice=sluice".to_owned(),
            BackendLogin::Certificate | BackendLogin::RoleSecret => {
                format!("cert clientname=DN map={MAP}")
            }
        };
        let lines = [
            format!("hostssl all +{gate} {from}/{width} {method}"),
            format!("host    all +{gate} all reject"),
            format!("local   all +{gate} reject"),
        ];
        Addition::new(to, lines)
    }

    /// The lines that shut every other way into the group.
    fn shut(&self) -> Addition {
        let gate = self.gate();
        Addition::new(
            "pg_hba.conf, right behind the line for our own logins",
            [
                format!("host    all +{gate} all reject"),
                format!("local   all +{gate} reject"),
            ],
        )
    }
}

/// The lines that let nobody but us in as `role`, with its password.
fn only_from(role: &Role, from: IpAddr, rule: &HostRule) -> Addition {
    let (name, width) = (quoted(&role.name), if from.is_ipv4() { 32 } else { 128 });
    Addition::new(
        format!("pg_hba.conf, before {}", rule.place()),
        [
            format!("hostssl all {name} {from}/{width} scram-sha-256"),
            format!("host    all {name} all reject"),
            format!("local   all {name} reject"),
        ],
    )
}

fn words(channel: Channel) -> &'static str {
    match channel {
        Channel::Tls => "over TLS",
        Channel::Plain => "without TLS",
        Channel::Socket => "through a local socket",
    }
}
