//! A value that several owners keep. The standard library's `Arc` ends the program where there is no memory for it, and does not exist
//! on microcontrollers without atomic counters.

use alloc::{alloc::alloc, boxed::Box};
use core::{alloc::Layout, fmt, marker::PhantomData, ops::Deref, ptr::NonNull};

use crate::Error;

/// One of the owners of a value, which lives as long as any of them. Where counters cannot be atomic, all owners stay on one thread.
pub(crate) struct Shared<T> {
    counted: NonNull<Counted<T>>,
    /// The last owner drops the value.
    owns: PhantomData<Counted<T>>,
}

struct Counted<T> {
    owners: Owners,
    value: T,
}

// SAFETY: owners on any thread read the value, the last one drops it there, and the counter is atomic.
#[cfg(target_has_atomic = "ptr")]
unsafe impl<T: Send + Sync> Send for Shared<T> {}
// SAFETY: as above; a reference to an owner can be cloned.
#[cfg(target_has_atomic = "ptr")]
unsafe impl<T: Send + Sync> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// A value with one owner.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] when there is no memory for it.
    pub fn new(what: &'static str, value: T) -> Result<Self, Error> {
        let layout = Layout::new::<Counted<T>>();
        // SAFETY: a counter has a size above zero.
        let memory = unsafe { alloc(layout) };
        let missing = Error::SizeOverflow { what, rows: layout.size(), cols: 1 };
        let counted: NonNull<Counted<T>> = NonNull::new(memory).ok_or(missing)?.cast();
        // SAFETY: just allocated, with the size and alignment of what is written.
        unsafe { counted.write(Counted { owners: Owners::one(), value }) };
        Ok(Self { counted, owns: PhantomData })
    }

    fn counted(&self) -> &Counted<T> {
        // SAFETY: written by `new`, freed by the last owner only, and this is one; nobody has it mutably.
        unsafe { self.counted.as_ref() }
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.counted().value
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        self.counted().owners.add();
        Self { counted: self.counted, owns: PhantomData }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        if self.counted().owners.remove() {
            // SAFETY: no owner is left; allocated in the way of boxes, with this layout.
            drop(unsafe { Box::from_raw(self.counted.as_ptr()) });
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// How many owners there are.
#[cfg(target_has_atomic = "ptr")]
struct Owners(core::sync::atomic::AtomicUsize);

#[cfg(target_has_atomic = "ptr")]
impl Owners {
    fn one() -> Self {
        Self(1.into())
    }

    /// Never comes round to 0, however many owners are forgotten.
    fn add(&self) {
        use core::sync::atomic::Ordering::Relaxed;
        let counted = self.0.fetch_update(Relaxed, Relaxed, |owners| owners.checked_add(1));
        assert!(counted.is_ok(), "more owners than a usize can count");
    }

    /// Whether that was the last one: it then sees all that the others did with the value.
    fn remove(&self) -> bool {
        use core::sync::atomic::{Ordering, fence};
        let last = self.0.fetch_sub(1, Ordering::Release) == 1;
        if last {
            fence(Ordering::Acquire);
        }
        last
    }
}

/// The same for owners of one thread.
#[cfg(not(target_has_atomic = "ptr"))]
struct Owners(core::cell::Cell<usize>);

#[cfg(not(target_has_atomic = "ptr"))]
impl Owners {
    fn one() -> Self {
        Self(1.into())
    }

    fn add(&self) {
        let counted = self.0.get().checked_add(1);
        assert!(counted.is_some(), "more owners than a usize can count");
        self.0.set(self.0.get() + 1);
    }

    fn remove(&self) -> bool {
        self.0.set(self.0.get() - 1);
        self.0.get() == 0
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Counts how often it is dropped.
    struct Counting<'a>(&'a AtomicUsize);

    impl Drop for Counting<'_> {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn the_last_owner_drops_the_value_once() -> Result<(), Error> {
        let drops = AtomicUsize::new(0);
        let first = Shared::new("test", Counting(&drops))?;
        let second = first.clone();
        drop(first);
        assert_eq!(second.0.load(Ordering::Relaxed), 0, "an owner is left");
        drop(second.clone());
        assert_eq!(drops.load(Ordering::Relaxed), 0);
        drop(second);
        assert_eq!(drops.load(Ordering::Relaxed), 1);
        Ok(())
    }

    #[test]
    fn owners_on_many_threads() -> Result<(), Error> {
        let drops = AtomicUsize::new(0);
        let shared = Shared::new("test", Counting(&drops))?;
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let mine = shared.clone();
                scope.spawn(move || (0..1000).for_each(|_| drop(mine.clone())));
            }
            drop(shared);
        });
        assert_eq!(drops.load(Ordering::Relaxed), 1);
        Ok(())
    }
}
