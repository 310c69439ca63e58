//! How much may be tried again: retries must not turn an overload into a bigger one.

use std::cell::Cell;

/// A fifth of the requests may be retries.
const SHARE: f64 = 0.2;
/// So many retries may come at once.
const MOST: f64 = 20.0;

/// One core's budget.
#[derive(Debug)]
pub(crate) struct Budget(Cell<f64>);

impl Default for Budget {
    fn default() -> Self {
        Budget(Cell::new(MOST))
    }
}

impl Budget {
    /// A request came.
    pub(crate) fn earn(&self) {
        self.0.set((self.0.get() + SHARE).min(MOST));
    }

    /// Whether one retry is possible; then it is paid for.
    pub(crate) fn spend(&self) -> bool {
        let left = self.0.get() - 1.0;
        if left < 0.0 {
            return false;
        }
        self.0.set(left);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_may_be_retries() {
        let budget = Budget::default();
        while budget.spend() {}
        let retries = (0..100)
            .filter(|_| {
                budget.earn();
                budget.spend()
            })
            .count();
        assert!((19..=20).contains(&retries), "{retries}");
    }
}
