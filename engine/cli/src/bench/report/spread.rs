//! Several rounds of one figure: its middle, and how far the rounds lie apart.

use serde::Serialize;

/// Median, least and greatest of some rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) greatest: f64,
}

impl Spread {
    /// Of these rounds; `None` of none.
    pub(super) fn of(rounds: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut all: Vec<f64> = rounds.into_iter().filter(|value| value.is_finite()).collect();
        all.sort_unstable_by(f64::total_cmp);
        let (least, greatest) = (*all.first()?, *all.last()?);
        let middle = all.len() / 2;
        let upper = *all.get(middle)?;
        let lower = if all.len().is_multiple_of(2) { *all.get(middle - 1)? } else { upper };
        Some(Spread { median: f64::midpoint(lower, upper), least, greatest })
    }

    /// As text, each number as `show` writes it.
    pub(super) fn show(&self, show: impl Fn(f64) -> String) -> String {
        if self.least == self.greatest {
            show(self.median)
        } else {
            format!("{} ({}..{})", show(self.median), show(self.least), show(self.greatest))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_odd_and_even() {
        let show = |spread: Option<Spread>| spread.map(|s| s.show(|v| v.to_string()));
        assert_eq!(show(Spread::of([3.0, 1.0, 2.0])).as_deref(), Some("2 (1..3)"));
        assert_eq!(show(Spread::of([4.0, 1.0, 2.0, 3.0])).as_deref(), Some("2.5 (1..4)"));
        assert_eq!(show(Spread::of([5.0])).as_deref(), Some("5"));
        assert_eq!(Spread::of([]), None);
    }
}
