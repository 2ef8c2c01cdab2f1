//! Threads, if the caller hands them in: nothing here or below starts one by itself.

/// Something that can call a function from several threads at once.
///
/// Results do not depend on the number of threads: every output element is computed whole by one of them.
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
pub(crate) fn run_parts(executor: &impl Executor, count: usize, part: impl Fn(usize) + Sync) {
    // Parts are numbered here and not by the executor: an executor that calls too often or too seldom, which safe code
    // may do, must not make two threads write one output.
    #[cfg(target_has_atomic = "ptr")]
    if count > 1 {
        use core::sync::atomic::{AtomicUsize, Ordering};
        let next = AtomicUsize::new(0);
        let take = || {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index < count {
                part(index);
            }
            index + 1 < count
        };
        executor.run(count, &|| {
            take();
        });
        while take() {}
        return;
    }
    let _ = executor;
    (0..count).for_each(part);
}
