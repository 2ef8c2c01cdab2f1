//! Two things measured in turn.

use std::time::Instant;

use anyhow::Result;
use bench_support::{measurement::spread, median, quartiles};

/// Something that can be timed.
pub trait Contender {
    /// Multiply-adds of a call; for memory, the weights that a call reads.
    fn work(&self) -> f64;

    /// Seconds that so many calls take.
    fn seconds(&mut self, calls: usize, clock: Clock) -> Result<f64>;

    /// Lets threads go that would look for more work on cores that others need.
    fn rest(&mut self) {}

    /// The zero point of `lhs` that was applied, and the [`checksum`] of the sums, if the contender makes i32 sums.
    fn sums(&mut self) -> Result<Option<(i32, i64)>> {
        Ok(None)
    }
}

/// Something whose call is all there is to time.
pub struct Timed<F> {
    pub work: f64,
    pub call: F,
}

impl<F: FnMut() -> Result<()>> Contender for Timed<F> {
    fn work(&self) -> f64 {
        self.work
    }

    fn seconds(&mut self, calls: usize, clock: Clock) -> Result<f64> {
        let mut result = Ok(());
        let seconds = clock.time(|| result = (0..calls).try_for_each(|_| (self.call)()));
        result.map(|()| seconds)
    }
}

/// Depends on every sum and its place.
pub fn checksum(sums: impl Iterator<Item = i32>) -> i64 {
    sums.zip((1..=251).cycle()).fold(0, |all: i64, (sum, weight)| all.wrapping_add(i64::from(sum) * weight))
}

/// What seconds are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// Time that the calling thread has run: other programs' turns do not count.
    Thread,
    /// Time that has passed: for work on several threads.
    Wall,
}

impl Clock {
    /// For work on so many threads.
    pub fn of(threads: usize) -> Self {
        if threads == 1 { Self::Thread } else { Self::Wall }
    }

    /// Seconds that the work takes.
    pub fn time(self, work: impl FnOnce()) -> f64 {
        match self {
            Self::Thread => {
                let start = bench_support::now();
                work();
                bench_support::now() - start
            }
            Self::Wall => {
                let start = Instant::now();
                work();
                start.elapsed()
            }
        }
        .as_secs_f64()
    }
}

/// How long to measure.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Pairs.
    pub pairs: usize,
    /// Seconds of one sample, at least.
    pub sample: f64,
    /// Seconds after which no more pairs are begun.
    pub limit: f64,
    /// Times that pairs are taken at most, again while they spread.
    pub attempts: usize,
}

impl Effort {
    pub const FULL: Self = Self { pairs: 41, sample: 4e-3, limit: 4.0, attempts: 4 };
    pub const QUICK: Self = Self { pairs: 7, sample: 5e-4, limit: 0.1, attempts: 2 };
}

/// The spread above which pairs are taken again.
const SPREAD: f64 = 0.1;

/// Medians of the pairs.
#[derive(Debug, Clone, Copy)]
pub struct Pairs {
    /// Work a second.
    pub ours: f64,
    pub peer: f64,
    pub ratio: f64,
    /// Of the ratio.
    pub quartiles: [f64; 2],
    /// Times that pairs were taken.
    pub attempts: usize,
}

impl Pairs {
    fn spread(&self) -> f64 {
        spread(self.ratio, self.quartiles)
    }
}

/// Measures ours, peer, ours, peer, ..: a shared machine's speed drifts, and the two halves of a pair see the same of it.
pub fn pairs(
    effort: Effort,
    threads: usize,
    ours: &mut dyn Contender,
    peer: &mut dyn Contender,
) -> Result<Pairs> {
    let clock = Clock::of(threads);
    let calls = [calls(effort, clock, ours)?, calls(effort, clock, peer)?];
    quietest(effort.attempts, || {
        let (mut rates, mut peers, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        let start = Instant::now();
        while rates.is_empty() || rates.len() < effort.pairs && start.elapsed().as_secs_f64() < effort.limit {
            let a = ours.work() / seconds(ours, calls[0], clock)?;
            let b = peer.work() / seconds(peer, calls[1], clock)?;
            rates.push(a);
            peers.push(b);
            ratios.push(a / b);
        }
        let [low, ratio, high] = quartiles(&mut ratios);
        let (ours, peer) = (median(&mut rates), median(&mut peers));
        Ok(Pairs { ours, peer, ratio, quartiles: [low, high], attempts: 1 })
    })
}

/// Measures until the spread is small, so many times at most: whoever else uses the machine comes and goes. Keeps what spread least.
fn quietest(attempts: usize, mut measure: impl FnMut() -> Result<Pairs>) -> Result<Pairs> {
    let mut best = measure()?;
    let mut made = 1;
    while made < attempts && best.spread() > SPREAD {
        let next = measure()?;
        made += 1;
        if next.spread() < best.spread() {
            best = next;
        }
    }
    Ok(Pairs { attempts: made, ..best })
}

/// Seconds that threads get to wake: a core that slept through the other's turn, or worked for it, comes late to several calls.
const WAKE: f64 = 4e-3;

/// Seconds after which a thread that runs has answered by far.
const PROMPT: f64 = 1e-4;

/// Seconds after which threads that do not come are waited for no longer.
const PATIENCE: f64 = 5e-2;

/// Seconds of a call, from so many. Short calls come after some that are not timed: the other's turn has taken the caches and, of
/// several threads, the cores.
fn seconds(contender: &mut dyn Contender, calls: usize, clock: Clock) -> Result<f64> {
    if clock == Clock::Wall {
        gather();
    }
    if calls > 1 {
        let start = Instant::now();
        contender.seconds(1, clock)?;
        while clock == Clock::Wall && start.elapsed().as_secs_f64() < WAKE {
            contender.seconds(1, clock)?;
        }
    }
    let seconds = contender.seconds(calls, clock)? / calls as f64;
    contender.rest();
    Ok(seconds)
}

/// Waits until every thread of the current pool comes at once, three times in a row. One whose core is still taken would leave its part
/// of each call to the others, and the row would show one thread's speed.
fn gather() {
    let start = Instant::now();
    let mut prompt = 0;
    while prompt < 3 && start.elapsed().as_secs_f64() < PATIENCE {
        let called = Instant::now();
        rayon::broadcast(|_| ());
        prompt = if called.elapsed().as_secs_f64() < PROMPT { prompt + 1 } else { 0 };
    }
}

/// Calls that make a sample long enough. The first one also touches pages and fills caches.
fn calls(effort: Effort, clock: Clock, contender: &mut dyn Contender) -> Result<usize> {
    let mut calls = 1;
    // A call that is longer by far needs no second look.
    if contender.seconds(1, clock)? > 5.0 * effort.sample {
        return Ok(1);
    }
    loop {
        let seconds = contender.seconds(calls, clock)?;
        if seconds >= effort.sample {
            return Ok(calls);
        }
        let wanted = 1.2 * effort.sample / seconds.max(1e-9) * calls as f64;
        calls = (wanted.ceil() as usize).clamp(calls + 1, 100 * calls);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What [`quietest`] makes of measurements of these spreads, and how many it took.
    fn after(spreads: &[f64], attempts: usize) -> (f64, usize) {
        let mut spreads = spreads.iter();
        let pairs = quietest(attempts, || {
            let spread = spreads.next().expect("measured too often");
            Ok(Pairs { ours: 1.0, peer: 1.0, ratio: 1.0, quartiles: [1.0, 1.0 + spread], attempts: 1 })
        });
        let pairs = pairs.expect("no measurement fails");
        ((pairs.spread() * 1000.0).round() / 1000.0, pairs.attempts)
    }

    #[test]
    fn what_spreads_is_measured_again() {
        assert_eq!(after(&[0.09], 4), (0.09, 1));
        assert_eq!(after(&[0.3, 0.05], 4), (0.05, 2));
        // The quietest is kept, and there is an end.
        assert_eq!(after(&[0.3, 0.2, 0.4, 0.5], 4), (0.2, 4));
        assert_eq!(after(&[0.3], 1), (0.3, 1));
    }

    #[test]
    fn an_error_ends_it() {
        let mut calls = 0;
        let result = quietest(4, || {
            calls += 1;
            anyhow::bail!("gone")
        });
        assert!(result.is_err() && calls == 1);
    }
}
