//! Majority arithmetic, over values handed in: nothing here knows about peers or terms.

/// Members of a majority of `voters`.
pub(crate) const fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// The greatest value that a majority of `values` has reached (one value a voter). Sorts `values` in place.
/// `None` only if there are no voters.
pub(crate) fn reached_by_majority<T: Ord + Copy>(values: &mut [T]) -> Option<T> {
    values.sort_unstable();
    // Ascending: the majority-th from the end, and all after it, have reached it.
    values.len().checked_sub(majority(values.len())).and_then(|at| values.get(at).copied())
}

/// How a poll stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Poll {
    /// A majority said yes.
    Won,
    /// A majority said no: it can no longer be won.
    Lost,
    /// Neither yet.
    Pending,
}

/// The state of a poll among `voters`, of which so many said yes and no.
pub(crate) const fn poll(voters: usize, yes: usize, no: usize) -> Poll {
    if yes >= majority(voters) {
        Poll::Won
    } else if no > voters - majority(voters) {
        Poll::Lost
    } else {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use alloc::{string::String, vec::Vec};
    use core::fmt::Write;

    /// The definition, with no cleverness: the greatest candidate that enough voters reached.
    fn brute_force(values: &[u64]) -> u64 {
        (0..=9).rev().find(|c| values.iter().filter(|v| *v >= c).count() * 2 > values.len()).unwrap_or(0)
    }

    /// H32: every order of every update, N = 1 to 7.
    #[test]
    fn h32_commit_equals_brute_force_in_every_order() {
        for n in 1..=7usize {
            let mut values: Vec<u64> = (0..n as u64).collect();
            permute(&mut values, 0, &mut |order| {
                // Updates arrive in this order: voter `order[k]` reaches `k + 1`; the result holds after each.
                let mut matched = alloc::vec![0u64; n];
                for (k, voter) in order.iter().enumerate() {
                    matched[*voter as usize] = k as u64 + 1;
                    let mut sorted = matched.clone();
                    assert_eq!(reached_by_majority(&mut sorted), Some(brute_force(&matched)), "{matched:?}");
                }
            });
        }
    }

    /// And every assignment of small values, which has the ties that a permutation lacks.
    #[test]
    fn h32_commit_equals_brute_force_for_every_assignment() {
        for n in 1..=7u32 {
            for code in 0..4u64.pow(n) {
                let values: Vec<u64> = (0..n).map(|k| code / 4u64.pow(k) % 4).collect();
                let mut sorted = values.clone();
                assert_eq!(reached_by_majority(&mut sorted), Some(brute_force(&values)), "{values:?}");
            }
        }
        assert_eq!(reached_by_majority::<u64>(&mut []), None);
    }

    #[test]
    fn h32_poll_equals_brute_force() {
        for n in 1..=9usize {
            for yes in 0..=n {
                for no in 0..=n - yes {
                    let open = n - yes - no;
                    let expected = match () {
                        () if yes * 2 > n => Poll::Won,
                        () if (yes + open) * 2 <= n => Poll::Lost,
                        () => Poll::Pending,
                    };
                    assert_eq!(poll(n, yes, no), expected, "{n} voters, {yes} yes, {no} no");
                }
            }
        }
    }

    fn permute(values: &mut Vec<u64>, at: usize, visit: &mut dyn FnMut(&[u64])) {
        if at == values.len() {
            return visit(values);
        }
        for k in at..values.len() {
            values.swap(at, k);
            permute(values, at + 1, visit);
            values.swap(at, k);
        }
    }

    /// One case a line, in the manner of etcd's quorum tests: `commit 1 2 3`, `vote y n _`.
    #[test]
    fn quorum_cases() {
        datadriven::walk("tests/quorum", |file| {
            file.run(|case| -> Result<String, String> {
                let mut out = String::new();
                for line in case.input.lines() {
                    let words: Vec<&str> = line.split_whitespace().collect();
                    let answer = match case.directive.as_str() {
                        "commit" => {
                            let mut matched: Vec<u64> = words.iter().map(|w| w.parse().unwrap_or(0)).collect();
                            alloc::format!("{:?}", reached_by_majority(&mut matched))
                        }
                        "vote" => {
                            let count = |what| words.iter().filter(|w| **w == what).count();
                            alloc::format!("{:?}", poll(words.len(), count("y"), count("n")))
                        }
                        other => return Err(alloc::format!("unknown directive {other}")),
                    };
                    writeln!(out, "{line}: {answer}").unwrap();
                }
                Ok(out)
            });
        });
    }
}
