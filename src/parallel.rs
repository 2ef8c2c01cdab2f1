//! Threads, if the caller hands them in: nothing here or below starts one by itself.

#[cfg(target_has_atomic = "ptr")]
use core::sync::atomic::{AtomicUsize, Ordering};

/// Something that can call a function from several threads at once.
///
/// Results do not depend on the number of threads: every output element is computed whole by one of them. A reference to an executor
/// is one too, so that `&dyn Executor`, chosen when the program runs, goes wherever an executor does.
///
/// ```
/// use i8gemm::Executor;
/// /// Two threads of the standard library for each call: simple, and slower to start than a pool.
/// struct Two;
/// impl Executor for Two {
///     fn threads(&self) -> usize {
///         2
///     }
///     fn run(&self, count: usize, task: &(dyn Fn() + Sync)) {
///         std::thread::scope(|scope| (0..count).for_each(|_| drop(scope.spawn(task))));
///     }
/// }
/// ```
pub trait Executor {
    /// How many calls can make progress at once: work is split into at most this many parts. At least 1.
    fn threads(&self) -> usize;

    /// Calls `task` `count` times, from whichever threads, and returns when all calls have returned. Each call takes
    /// the next part of the work; should there be fewer calls than promised, the caller's thread does the rest.
    fn run(&self, count: usize, task: &(dyn Fn() + Sync));
}

impl<E: Executor + ?Sized> Executor for &E {
    fn threads(&self) -> usize {
        (**self).threads()
    }

    fn run(&self, count: usize, task: &(dyn Fn() + Sync)) {
        (**self).run(count, task);
    }
}

/// The caller's own thread.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sequential;

impl Executor for Sequential {
    fn threads(&self) -> usize {
        1
    }

    fn run(&self, count: usize, task: &(dyn Fn() + Sync)) {
        (0..count).for_each(|_| task());
    }
}

/// The current rayon thread pool.
#[cfg(feature = "rayon")]
#[derive(Debug, Clone, Copy, Default)]
pub struct Rayon;

#[cfg(feature = "rayon")]
impl Executor for Rayon {
    fn threads(&self) -> usize {
        rayon::current_num_threads()
    }

    fn run(&self, count: usize, task: &(dyn Fn() + Sync)) {
        rayon::scope(|scope| {
            for _ in 1..count {
                scope.spawn(|_| task());
            }
            task();
        });
    }
}

/// Runs `part(0) .. part(count - 1)`, each exactly once, on the executor.
pub(crate) fn run_parts(executor: &(impl Executor + ?Sized), count: usize, part: impl Fn(usize) + Sync) {
    // Parts are numbered here and not by the executor: an executor that calls too often or too seldom, which safe code
    // may do, must not make two threads write one output.
    #[cfg(target_has_atomic = "ptr")]
    if count > 1 {
        let parts = PartNumbers::new(count);
        executor.run(count, &|| {
            if let Some(index) = parts.take() {
                part(index);
            }
        });
        while let Some(index) = parts.take() {
            part(index);
        }
        return;
    }
    let _ = executor;
    (0..count).for_each(part);
}

/// The numbers of parts, each given away once.
#[cfg(target_has_atomic = "ptr")]
struct PartNumbers {
    next: AtomicUsize,
    count: usize,
}

#[cfg(target_has_atomic = "ptr")]
impl PartNumbers {
    fn new(count: usize) -> Self {
        Self { next: AtomicUsize::new(0), count }
    }

    /// The next part, if there is one. Nothing is counted once there is none: a counter that went on would come round to the first
    /// part again, on a 32-bit target within seconds of an executor that does not stop calling.
    fn take(&self) -> Option<usize> {
        let step = |next| (next < self.count).then_some(next + 1);
        self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).ok()
    }
}

#[cfg(all(test, target_has_atomic = "ptr"))]
mod tests {
    use super::*;

    #[test]
    fn parts_are_given_away_once_however_often_they_are_asked_for() {
        let parts = PartNumbers::new(3);
        let taken: Vec<_> = (0..10).map(|_| parts.take()).collect();
        assert_eq!(taken[..4], [Some(0), Some(1), Some(2), None]);
        assert_eq!(taken[4..], [None; 6]);
        assert_eq!(parts.next.load(Ordering::Relaxed), 3, "calls without a part are not counted");
        assert_eq!(PartNumbers::new(0).take(), None);
    }
}
