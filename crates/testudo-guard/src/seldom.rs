//! What is empty nearly always and is asked for by every request: then a request pays for one flag.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::{ArcSwap, Guard};

/// What can be empty.
pub trait Emptiness {
    /// Whether there is nothing in it.
    fn is_empty(&self) -> bool;
}

/// A value that is swapped whole, with a flag beside it that says whether there is anything in it.
#[derive(Default)]
pub struct Seldom<T: Emptiness> {
    is_something: AtomicBool,
    value: ArcSwap<T>,
}

impl<T: Emptiness> Seldom<T> {
    /// Replaces it. Requests see the new value at once, or a moment later where it was empty.
    pub fn store(&self, value: Arc<T>) {
        let is_something = !value.is_empty();
        self.value.store(value);
        self.is_something.store(is_something, Ordering::Release);
    }

    /// It, if there is anything in it.
    #[inline]
    pub fn get(&self) -> Option<Guard<Arc<T>>> {
        self.is_something
            .load(Ordering::Acquire)
            .then(|| self.value.load())
    }

    /// It, empty or not.
    pub fn load(&self) -> Guard<Arc<T>> {
        self.value.load()
    }

    /// The same, to keep.
    pub fn load_full(&self) -> Arc<T> {
        self.value.load_full()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Emptiness for Vec<u8> {
        fn is_empty(&self) -> bool {
            Vec::is_empty(self)
        }
    }

    #[test]
    fn what_is_empty_is_not_there() {
        let seldom = Seldom::<Vec<u8>>::default();
        assert!(seldom.get().is_none());
        seldom.store(Arc::new(vec![1]));
        assert_eq!(**seldom.get().unwrap(), [1]);
        seldom.store(Arc::default());
        assert!(seldom.get().is_none() && seldom.load_full().is_empty());
    }
}
