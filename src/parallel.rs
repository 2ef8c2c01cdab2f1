//! Threads, if the caller hands them in: nothing here or below starts one by itself.

use core::ops::Range;
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
    /// How many calls can make progress at once: work is given to at most this many. At least 1.
    fn threads(&self) -> usize;

    /// Calls `task` `count` times, from whichever threads, and returns when all calls have returned. Each call does parts of the work
    /// until none is left, so that threads of unequal cores are done at the same time; should there be fewer calls than promised, the
    /// others and the caller's thread do the rest.
    fn run(&self, count: usize, task: &(dyn Fn() + Sync));

    /// Cycles of one core's work that are worth a thread of their own, at least: about what it takes to wake one. Work of less stays on
    /// fewer threads, or on the caller's.
    ///
    /// 32,768 unless said otherwise, some ten microseconds: threads that sleep, as those of most pools do. A pool whose threads
    /// spin until there is work may say less.
    fn min_cycles(&self) -> usize {
        1 << 15
    }
}

impl<E: Executor + ?Sized> Executor for &E {
    fn threads(&self) -> usize {
        (**self).threads()
    }

    fn run(&self, count: usize, task: &(dyn Fn() + Sync)) {
        (**self).run(count, task);
    }

    fn min_cycles(&self) -> usize {
        (**self).min_cycles()
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

/// Fewest cycles of a part, where there are more parts than workers: beside these, taking it is little.
const MIN_CYCLES_PER_PART: usize = 1 << 10;

/// Parts for each worker, at most: the last part of the slowest core is what all others wait for.
const PARTS_PER_WORKER: usize = 16;

/// The threads of an executor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Team {
    pub threads: usize,
    /// [`Executor::min_cycles`].
    pub min_cycles: usize,
}

impl Team {
    #[inline]
    pub fn of(executor: &(impl Executor + ?Sized)) -> Self {
        Self { threads: executor.threads(), min_cycles: executor.min_cycles() }
    }

    /// Those that there is enough work for, in cycles of one core.
    pub fn worthwhile(self, cycles: usize) -> usize {
        self.threads.min(cycles / self.min_cycles.max(1)).max(1)
    }
}

/// Parts that so much work is worth being cut in, for so many workers.
pub(crate) fn most_parts(cycles: usize, workers: usize) -> usize {
    (cycles / MIN_CYCLES_PER_PART).min(workers.saturating_mul(PARTS_PER_WORKER)).max(workers)
}

/// Has parts `0..count` of some work done, each exactly once: calls `work(worker, runs)` for at most `workers` workers, on the
/// executor's threads, each with the runs of parts that it is to do. No two calls that are under way have the same worker.
pub(crate) fn run_parts(
    executor: &(impl Executor + ?Sized),
    workers: usize,
    count: usize,
    work: impl Fn(usize, Runs) + Sync,
) {
    // Workers and parts are numbered here and not by the executor: an executor that calls too often or too seldom, which safe code
    // may do, must not make two threads write one output.
    #[cfg(target_has_atomic = "ptr")]
    if workers > 1 {
        return share(executor, workers, count, &work);
    }
    let _ = (executor, workers);
    work(0, Runs { shares: None, home: 0, left: 0..count });
}

/// As [`run_parts`], for several workers. Not inlined: the shares need some of the stack, which a single thread has no use for.
#[cfg(target_has_atomic = "ptr")]
#[inline(never)]
fn share(
    executor: &(impl Executor + ?Sized),
    workers: usize,
    count: usize,
    work: &(impl Fn(usize, Runs) + Sync),
) {
    let (numbers, shares) = (Numbers::new(0..workers), Shares::new(workers, count));
    let runs = |worker: usize| Runs { shares: Some(&shares), home: shares.home(worker), left: 0..0 };
    executor.run(workers, &|| {
        if let Some(worker) = numbers.take(|_| 1) {
            work(worker.start, runs(worker.start));
        }
    });
    // All calls have returned: no worker is at work.
    work(0, runs(0));
}

/// The runs of consecutive parts that are given to a worker, one after the other.
pub(crate) struct Runs<'a> {
    /// Where they come from, if there are other workers.
    shares: Option<&'a Shares>,
    home: usize,
    /// All of them, if there are none.
    left: Range<usize>,
}

impl Iterator for Runs<'_> {
    type Item = Range<usize>;

    #[inline(always)]
    fn next(&mut self) -> Option<Range<usize>> {
        match self.shares {
            Some(shares) => shares.take(self.home),
            None if self.left.is_empty() => None,
            None => Some(core::mem::take(&mut self.left)),
        }
    }
}

/// Nobody shares without atomic counters.
#[cfg(not(target_has_atomic = "ptr"))]
enum Shares {}

#[cfg(not(target_has_atomic = "ptr"))]
impl Shares {
    fn take(&self, _home: usize) -> Option<Range<usize>> {
        match *self {}
    }
}

/// Consecutive parts for each worker. It takes an eighth of what is left of its share at a time, and when there is nothing left, of the
/// largest share of another: equal cores do what they would do alone, each in its own corner of the work, and slow ones are helped.
#[cfg(target_has_atomic = "ptr")]
pub(crate) struct Shares {
    shares: [Numbers; MAX_SHARES],
    /// Of those.
    count: usize,
    /// What a worker takes of a share: one of so many parts of what is left.
    portion: usize,
}

/// More workers than that share a share. They lie on the stack.
#[cfg(target_has_atomic = "ptr")]
const MAX_SHARES: usize = 64;

#[cfg(target_has_atomic = "ptr")]
impl Shares {
    pub(crate) fn new(workers: usize, parts: usize) -> Self {
        let in_one = workers.div_ceil(MAX_SHARES);
        let count = workers.div_ceil(in_one);
        let share = |index| if index < count { cut(parts, count, index) } else { 0..0 };
        Self { shares: core::array::from_fn(|index| Numbers::new(share(index))), count, portion: 8 * in_one }
    }

    /// The share of a worker.
    pub(crate) fn home(&self, worker: usize) -> usize {
        worker % self.count
    }

    /// The next parts for a worker who has that share.
    pub(crate) fn take(&self, home: usize) -> Option<Range<usize>> {
        let shares = &self.shares[..self.count];
        let portion = |left: usize| left.div_ceil(self.portion);
        if let Some(parts) = shares[home].take(portion) {
            return Some(parts);
        }
        loop {
            let most = shares.iter().max_by_key(|share| share.left())?;
            match most.take(portion) {
                Some(parts) => return Some(parts),
                // Another was faster, perhaps at the last of all.
                None if shares.iter().all(|share| share.left() == 0) => return None,
                None => {}
            }
        }
    }
}

/// Consecutive numbers, each given away once. A cache line of its own: workers that count there don't disturb one another.
#[cfg(target_has_atomic = "ptr")]
#[repr(align(64))]
struct Numbers {
    next: AtomicUsize,
    end: usize,
}

#[cfg(target_has_atomic = "ptr")]
impl Numbers {
    fn new(numbers: Range<usize>) -> Self {
        Self { next: AtomicUsize::new(numbers.start), end: numbers.end }
    }

    /// How many there are still, or were a moment ago.
    fn left(&self) -> usize {
        self.end - self.next.load(Ordering::Relaxed)
    }

    /// The next `wanted(left)` numbers, at least one of those left. Nothing is counted once there is none: a counter that went on would
    /// come round to the first again, on a 32-bit target within seconds of an executor that does not stop calling.
    fn take(&self, wanted: impl Fn(usize) -> usize) -> Option<Range<usize>> {
        let after = |next: usize| next + wanted(self.end - next).clamp(1, self.end - next);
        let step = |next| (next < self.end).then(|| after(next));
        let first = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).ok()?;
        Some(first..after(first))
    }
}

/// Part `index` of `0..len`, cut into so many that are as equal as they can be.
pub(crate) fn cut(len: usize, parts: usize, index: usize) -> Range<usize> {
    let at = |i: usize| len / parts * i + (len % parts).min(i);
    at(index)..at(index + 1)
}

#[cfg(all(test, target_has_atomic = "ptr"))]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_given_away_once_however_often_they_are_asked_for() {
        let numbers = Numbers::new(4..10);
        let taken: Vec<_> = (0..9).map(|_| numbers.take(|left| left / 2)).collect();
        assert_eq!(taken[..4], [Some(4..7), Some(7..8), Some(8..9), Some(9..10)]);
        assert_eq!(taken[4..], [const { None }; 5]);
        assert_eq!(numbers.next.load(Ordering::Relaxed), 10, "calls without a number are not counted");
        assert_eq!(Numbers::new(0..0).take(|_| 1), None);
    }

    /// Whichever worker asks, and however often: each part once.
    #[test]
    fn every_part_is_given_away_once() {
        for (workers, parts) in [(2, 1), (2, 16), (3, 16), (7, 5), (40, 1000), (64, 64), (1000, 77), (5, 0)] {
            let shares = Shares::new(workers, parts);
            let mut taken = vec![0; parts];
            // The first worker asks three times as often as the second, the others never.
            let mut turn = 0;
            while let Some(run) = shares.take(shares.home([0, 0, 0, 1][turn % 4])) {
                assert!(!run.is_empty());
                taken[run].iter_mut().for_each(|count| *count += 1);
                turn += 1;
            }
            assert!(taken.iter().all(|&count| count == 1), "{workers} workers, {parts} parts: {taken:?}");
            assert!((0..workers).all(|worker| shares.take(shares.home(worker)).is_none()));
        }
    }
}
