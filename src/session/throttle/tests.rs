//! Who pays for failed logins, and who is remembered.

use super::*;

fn caller(address: &str, role: &str) -> Caller {
    of_tenant("demo", address, role)
}

fn of_tenant(tenant: &str, address: &str, role: &str) -> Caller {
    Caller::new(
        address.parse().unwrap(),
        Some(TenantRef::parse(tenant).unwrap()),
        RoleName::parse(role).unwrap(),
        Mode::Password,
    )
}

fn limits() -> Limits {
    Limits {
        clients: 1,
        tenant_clients: 1,
        unauthenticated_per_address: 1,
        wrong_cancel_keys_per_address: 1,
        leak_reports_per_address: 1,
        failed_logins_per_address: 10,
        failed_logins_per_tenant: 30,
    }
}

fn numbered(number: usize) -> String {
    IpAddr::V4((number as u32).into()).to_string()
}

impl Throttle {
    /// Lets `caller` guess wrong up to so many times; answers how often it was let.
    fn fail(&self, caller: &Caller, times: usize, now: Instant) -> usize {
        let attempt = self.attempt(caller.clone(), &limits());
        let tries = (0..times).take_while(|_| attempt.pay(now).is_some());
        tries.inspect(|_| attempt.count_failure(now)).count()
    }

    fn look(&self, caller: &Caller, now: Instant) -> Option<Standing> {
        self.attempt(caller.clone(), &limits()).standing(now)
    }
}

#[test]
fn an_address_has_so_many_failures_in_a_minute() {
    let throttle = Throttle::default();
    let now = Instant::now();
    let guesser = caller("192.0.2.1", "app");
    assert_eq!(throttle.fail(&guesser, 9, now), 9);
    assert_eq!(throttle.look(&guesser, now), Some(Standing::Stranger));
    assert_eq!(throttle.fail(&guesser, 1_000, now), 1);
    for role in ["app", "other"] {
        assert_eq!(throttle.look(&caller("192.0.2.1", role), now), None);
    }
    let elsewhere = caller("192.0.2.2", "app");
    assert_eq!(throttle.look(&elsewhere, now), Some(Standing::Stranger));
    // However much it has tried meanwhile.
    let later = now + PERIOD / 10;
    assert_eq!(throttle.fail(&guesser, 1_000, later), 1);
    assert_eq!(throttle.fail(&guesser, 1_000, now + PERIOD), 9);
    throttle.fail(&caller("2001:db8::1", "app"), 10, now);
    assert_eq!(throttle.look(&caller("2001:db8::ffff", "app"), now), None);
    let next = caller("2001:db8:0:1::1", "app");
    assert_eq!(throttle.look(&next, now), Some(Standing::Stranger));
}

#[test]
fn who_has_logged_in_pays_for_no_neighbour() {
    let throttle = Throttle::default();
    let (app, guesser) = (caller("192.0.2.1", "app"), caller("192.0.2.1", "other"));
    throttle.greet(&app);
    let now = Instant::now();
    throttle.fail(&guesser, 1_000, now);
    assert_eq!(throttle.look(&guesser, now), None);
    assert_eq!(throttle.look(&app, now), Some(Standing::Familiar));
    assert_eq!(throttle.fail(&app, 1_000, now), 100);
    assert_eq!(throttle.look(&app, now), None);
    let later = now + PERIOD / 100;
    assert_eq!(throttle.look(&app, later), Some(Standing::Familiar));
    // Whoever gets in has it filled up.
    throttle.greet(&app);
    assert_eq!(throttle.fail(&app, 1_000, Instant::now()), 100);
}

#[tokio::test]
async fn what_was_right_costs_nothing() {
    let throttle = Throttle::default();
    let limits = limits();
    for number in 0..100 {
        let role = format!("role{number}");
        let attempt = throttle.attempt(caller("192.0.2.1", &role), &limits);
        let turn = attempt.take_turn().await.unwrap();
        match number % 2 {
            0 => turn.was_right(),
            _ => turn.give_back(),
        }
    }
    let guesser = caller("192.0.2.1", "other");
    assert_eq!(throttle.fail(&guesser, 1_000, Instant::now()), 10);
    let standing = |role| throttle.look(&caller("192.0.2.1", role), Instant::now());
    assert_eq!(standing("role0"), Some(Standing::Familiar));
    assert_eq!(standing("role1"), None);
}

#[test]
fn what_others_do_to_a_tenant_makes_failures_dearer_and_refuses_nobody() {
    let throttle = Throttle::default();
    let now = Instant::now();
    for number in 0..1_000 {
        throttle.fail(&caller(&numbered(number), "app"), 1, now);
    }
    let fresh = caller("192.0.2.1", "app");
    assert_eq!(throttle.look(&fresh, now), Some(Standing::Stranger));
    assert_eq!(throttle.fail(&fresh, 1_000, now), 1);
    let other = of_tenant("other", "192.0.2.2", "app");
    assert_eq!(throttle.fail(&other, 1_000, now), 10);
    // It lasts no longer for all that came.
    let relieved = now + PERIOD / 30;
    let next = caller("192.0.2.3", "app");
    assert!(throttle.fail(&next, 1, relieved) == 1);
    assert_eq!(throttle.look(&next, relieved), Some(Standing::Stranger));
}

#[test]
fn no_more_is_remembered_than_there_is_room_for() {
    let throttle = Throttle::default();
    let now = Instant::now();
    for number in 0..DEBTORS_MAX + 10 {
        let address = numbered(number);
        let made_up = of_tenant(&format!("t{number}"), &address, "app");
        assert_eq!(throttle.fail(&made_up, 1, now), 1);
    }
    assert_eq!(throttle.addresses.len(), DEBTORS_MAX);
    assert_eq!(throttle.tenants.len(), DEBTORS_MAX);
    throttle.sweep(now + PERIOD);
    assert!(throttle.addresses.is_empty() && throttle.tenants.is_empty());
}

#[test]
fn a_tenants_many_callers_push_out_only_its_own() {
    let throttle = Throttle::default();
    let quiet = of_tenant("quiet", "192.0.2.1", "app");
    let (regular, once) = (caller("192.0.2.1", "app"), caller("192.0.2.2", "app"));
    for caller in [&quiet, &regular, &once] {
        throttle.greet(caller);
    }
    for number in 0..10 * GENERATION_MAX {
        throttle.greet(&caller(&numbered(number), "app"));
        if number % 100 == 0 {
            throttle.greet(&regular);
        }
    }
    let is_known = |caller| throttle.familiar_bucket(caller).is_some();
    assert!(is_known(&quiet) && is_known(&regular) && !is_known(&once));
    let known = throttle.familiar.get(&TenantRef::parse("demo").unwrap());
    let known = known.map_or(0, |known| known.young.len() + known.old.len());
    assert!(known <= 2 * GENERATION_MAX);
}

#[test]
fn who_stays_away_is_forgotten() {
    let throttle = Throttle::default();
    let (regular, once) = (caller("192.0.2.1", "app"), caller("192.0.2.2", "app"));
    throttle.greet(&once);
    let mut now = Instant::now();
    for _ in 0..3 {
        throttle.greet(&regular);
        now += GENERATION;
        throttle.sweep(now);
    }
    assert_eq!(throttle.look(&regular, now), Some(Standing::Familiar));
    assert_eq!(throttle.look(&once, now), Some(Standing::Stranger));
    for _ in 0..2 {
        now += GENERATION;
        throttle.sweep(now);
    }
    assert!(throttle.familiar.is_empty());
}

#[tokio::test]
async fn whoever_waits_for_a_turn_gets_one() {
    let throttle = Throttle::default();
    let (app, limits) = (caller("192.0.2.1", "app"), limits());
    throttle.greet(&app);
    throttle.fail(&app, 1_000, Instant::now());
    let attempt = throttle.attempt(app, &limits);
    // There is one every 0.6 s.
    let admission = attempt.admit().await.unwrap();
    assert_eq!(admission.standing, Standing::Familiar);
    assert!(admission.waited > Duration::ZERO);
}
