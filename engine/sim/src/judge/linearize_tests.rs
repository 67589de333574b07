use proptest::prelude::*;

use super::*;

fn write(value: u64, invoked: u64, returned: u64) -> Operation {
    Operation { key: 1, action: Action::Write(value), invoked, returned: Some(returned) }
}

fn read(value: u64, invoked: u64, returned: u64) -> Operation {
    Operation { key: 1, action: Action::Read(value), invoked, returned: Some(returned) }
}

fn unknown(value: u64, invoked: u64) -> Operation {
    Operation { key: 1, action: Action::Write(value), invoked, returned: None }
}

fn good(history: &[Operation]) {
    assert_eq!(check(history), Ok(()), "{history:?}");
}

/// Bad, and the search got stuck at this operation of the history.
fn bad(history: &[Operation], at: usize) {
    assert_eq!(check(history), Err(Objection::NotLinearizable(history[at])), "{history:?}");
}

#[test]
fn one_after_the_other() {
    good(&[]);
    good(&[read(INITIAL, 0, 1), write(5, 2, 3), read(5, 4, 5), write(6, 6, 7), read(6, 8, 9), read(6, 10, 11)]);
    bad(&[read(5, 0, 1)], 0);
}

#[test]
fn a_stale_read_is_bad() {
    bad(&[write(5, 0, 1), write(6, 2, 3), read(5, 4, 5)], 2);
    // Also if it comes after a read of the new value, though the write of that is still under way.
    bad(&[write(5, 0, 1), write(6, 2, 20), read(6, 4, 5), read(5, 6, 7)], 3);
    // While the newer write is under way, either is fine.
    good(&[write(5, 0, 1), write(6, 2, 20), read(5, 4, 5), read(6, 6, 7)]);
}

#[test]
fn a_lost_write_is_bad() {
    bad(&[write(5, 0, 1), read(INITIAL, 2, 3)], 1);
    bad(&[write(5, 0, 1), read(5, 2, 3), write(6, 4, 5), read(5, 6, 7)], 3);
}

#[test]
fn writes_in_another_order_than_they_returned_are_bad() {
    bad(&[write(5, 0, 1), write(6, 2, 3), read(6, 4, 5), read(5, 6, 7)], 3);
}

#[test]
fn a_write_that_takes_effect_twice_is_bad() {
    bad(&[write(5, 0, 1), read(5, 2, 3), write(6, 4, 5), read(6, 6, 7), read(5, 8, 9)], 4);
    // Nor may one of unknown outcome.
    bad(&[unknown(5, 0), read(5, 2, 3), write(6, 4, 5), read(6, 6, 7), read(5, 8, 9)], 4);
    good(&[unknown(5, 0), write(6, 4, 5), read(6, 6, 7), read(5, 8, 9)]);
}

#[test]
fn an_unknown_write_may_take_effect_late_or_never() {
    good(&[unknown(5, 0), read(INITIAL, 2, 3), read(INITIAL, 4, 5)]);
    good(&[unknown(5, 0), read(INITIAL, 2, 3), write(6, 4, 5), read(6, 6, 7), read(5, 8, 9), read(5, 10, 11)]);
    // Not before it was invoked, and not undone again.
    bad(&[read(5, 0, 1), unknown(5, 2)], 0);
    bad(&[unknown(5, 0), read(5, 2, 3), read(INITIAL, 4, 5)], 2);
}

#[test]
fn concurrent_writes_take_any_order_but_one() {
    let writes = [write(5, 0, 10), write(6, 0, 10), write(7, 0, 10)];
    for last in [5, 6, 7] {
        good(&[&writes[..], &[read(last, 11, 12)]].concat());
    }
    bad(&[&writes[..], &[read(5, 11, 12), read(6, 13, 14)]].concat(), 3);
    // Two readers meanwhile must agree on the order.
    good(&[&writes[..], &[read(5, 1, 2), read(6, 3, 4), read(5, 1, 2), read(6, 3, 4)]].concat());
    assert!(check(&[&writes[..2], &[read(5, 1, 2), read(6, 3, 4), read(6, 1, 2), read(5, 3, 4)]].concat()).is_err());
}

#[test]
fn what_touches_is_concurrent() {
    good(&[write(5, 0, 2), read(INITIAL, 2, 3), read(5, 3, 4)]);
}

#[test]
fn registers_are_independent() {
    let other = |operation: Operation| Operation { key: 2, ..operation };
    good(&[write(5, 0, 1), other(read(INITIAL, 2, 3)), read(5, 4, 5), other(unknown(5, 0))]);
    assert!(check(&[write(5, 0, 1), other(read(5, 2, 3))]).is_err());
}

#[test]
fn long_histories_are_decided_fast() {
    // Eight at a time, taking effect in the order of their numbers; every third outcome of a write is unknown.
    let mut history = Vec::new();
    let mut value = INITIAL;
    for n in 0..6_000u64 {
        let (invoked, returned) = (10 * n, 10 * n + 75);
        if n % 2 == 0 {
            value = n + 1;
            history.push(Operation { returned: (n % 6 > 0).then_some(returned), ..write(value, invoked, returned) });
        } else {
            history.push(read(value, invoked, returned));
        }
    }
    good(&history);
    // A read of what was overwritten long before.
    let at = history.len() - 10;
    history[at + 1].action = Action::Read(history.len() as u64 / 2 + 1);
    assert!(matches!(check(&history), Err(Objection::NotLinearizable(_))));
}

/// By definition: some subset of the unknown operations and all others, in some order that respects time.
fn brute_force(history: &[Operation]) -> bool {
    fn extend(history: &[Operation], done: u32, value: u64) -> bool {
        let open = |i: &usize| done & (1 << i) == 0;
        let returned = |i: usize| history[i].returned;
        if (0..history.len()).filter(open).all(|i| returned(i).is_none()) {
            return true;
        }
        (0..history.len()).filter(open).any(|i| {
            let overtakes = (0..history.len()).filter(open).any(|other| returned(other).is_some_and(|at| at < history[i].invoked));
            let after = match history[i].action {
                Action::Write(written) => Some(written),
                Action::Read(seen) => (seen == value).then_some(seen),
            };
            !overtakes && after.is_some_and(|after| extend(history, done | 1 << i, after))
        })
    }
    let keys: std::collections::BTreeSet<u64> = history.iter().map(|operation| operation.key).collect();
    keys.into_iter().all(|key| {
        let own: Vec<Operation> = history.iter().copied().filter(|operation| operation.key == key).collect();
        extend(&own, 0, INITIAL)
    })
}

prop_compose! {
    fn operation()(key in 0..2u64, is_read: bool, value in 0..4u64, invoked in 0..12u64, length in 0..8u64, known in 0..4u32) -> Operation {
        let action = if is_read { Action::Read(value) } else { Action::Write(value) };
        Operation { key, action, invoked, returned: (known > 0).then_some(invoked + length) }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_brute_force(history in prop::collection::vec(operation(), 0..8)) {
        prop_assert_eq!(check(&history).is_ok(), brute_force(&history), "{:?}", history);
    }

    /// Histories that are linearizable by making, many at a time, so that the good ones are not all trivial.
    #[test]
    fn accepts_what_was_made_linearizable(
        steps in prop::collection::vec((0..2u64, any::<bool>(), 0..6u64, 0..6u64, 0..5u32), 0..60),
    ) {
        let mut registers = [INITIAL; 2];
        let history: Vec<Operation> = (1u64..).zip(steps).map(|(n, (key, is_read, before, after, known))| {
            // It takes effect at 4n.
            let action = if is_read { Action::Read(registers[key as usize]) } else { Action::Write(n) };
            if !is_read {
                registers[key as usize] = n;
            }
            Operation { key, action, invoked: (4 * n).saturating_sub(4 * before), returned: (known > 0).then_some(4 * n + 4 * after) }
        }).collect();
        prop_assert_eq!(check(&history), Ok(()));
    }
}
