//! PyTorch's HistogramObserver: the range narrowed until the squared error rises.

use super::{BINS, Interval, Levels, Points};
use crate::{Error, memory};

/// Share of the values that each step gives up on one side.
const STEP: f64 = 1e-5;

pub fn range(points: &Points, levels: Levels) -> Result<Interval, Error> {
    let (min, max) = (f64::from(points.range.min), f64::from(points.range.max));
    let counts = points.uniform(BINS, points.range)?.counts;
    let mut passed = 0;
    let sums = counts.iter().map(|count| {
        passed += count;
        passed
    });
    let up_to = memory::collected("bins", sums)?;
    let total = passed as f64;
    let bin = (max - min) / BINS as f64;
    let targets = f64::from(levels.steps() + 1);

    let (mut start, mut end) = (0, BINS - 1);
    let (mut low, mut high) = (0.0, 1.0);
    let mut least = f64::INFINITY;
    while low < high {
        let (next_low, next_high) = (low + STEP, high - STEP);
        let (mut left, mut right) = (start, end);
        while left < end && (up_to[left] as f64) < next_low * total {
            left += 1;
        }
        while right > start && up_to[right] as f64 > next_high * total {
            right -= 1;
        }
        let mut next = (start, end);
        if left - start > end - right {
            (next.0, low) = (left, next_low);
        } else {
            (next.1, high) = (right, next_high);
        }
        if next == (start, end) {
            continue;
        }
        let error = squared_error(&counts, bin, next.0, next.1, targets);
        if error > least {
            break;
        }
        least = error;
        (start, end) = next;
    }
    Ok(Interval { min: (min + bin * start as f64) as f32, max: (min + bin * (end + 1) as f64) as f32 })
}

/// The squared error of quantizing bins `start..=end` to `targets` values in the middle of as many equal parts, the counts
/// of a bin spread evenly over it; what lies outside goes to the nearest part.
fn squared_error(counts: &[u64], bin: f64, start: usize, end: usize, targets: f64) -> f64 {
    let part = bin * (end - start + 1) as f64 / targets;
    if part == 0.0 {
        return 0.0;
    }
    // Integral of density * t^2.
    let norm = |density: f64, from: f64, to: f64| density * (to * to * to - from * from * from) / 3.0;
    let nearest = |x: f64| libm::floor(x / part).clamp(0.0, targets - 1.0);
    let mut error = 0.0;
    for (i, &count) in counts.iter().enumerate() {
        let density = count as f64 / bin;
        let from = (i as f64 - start as f64) * bin;
        let to = from + bin;
        let (first, last) = (nearest(from), nearest(to));
        error += norm(density, from - (first + 0.5) * part, part / 2.0)
            + (last - first - 1.0) * norm(density, -part / 2.0, part / 2.0)
            + norm(density, -part / 2.0, to - (last + 0.5) * part);
    }
    error
}
