//! The squared error of a quantization, from sums over the values, and the search for the least.

use super::{Interval, Levels, Moments, Points, Scheme};
use crate::quant::QParams;

/// What quantization does to a distribution.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Quality {
    /// Mean of the squared differences between values and what they become.
    pub mse: f64,
    /// Signal to quantization noise, `10 log10(mean x^2 / mse)`, in dB; infinite without noise.
    pub sqnr_db: f64,
    /// Share of the values, 0 to 1, whose rounded integer lies outside the levels.
    pub clipped: f64,
}

impl Points {
    /// What quantizing to these levels with these parameters does.
    pub fn quality(&self, params: QParams, levels: Levels) -> Quality {
        let (noise, clipped) = self.noise(params, levels);
        let total = self.total();
        let count = total.count as f64;
        Quality {
            mse: noise / count,
            sqnr_db: if noise == 0.0 { f64::INFINITY } else { 10.0 * libm::log10(total.squares / noise) },
            clipped: clipped as f64 / count,
        }
    }

    /// Sum of squared differences, and the number of values that are clipped.
    fn noise(&self, params: QParams, levels: Levels) -> (f64, u64) {
        let scale = f64::from(params.scale);
        let real = |q: f64| (q - f64::from(params.zero_point)) * scale;
        // Values between two levels go to the nearer; which of two equally near ones makes no difference.
        let (mut noise, mut start) = (0.0, 0);
        for q in levels.min()..=levels.max() {
            let end = if q == levels.max() {
                self.values.len()
            } else {
                start + self.values[start..].partition_point(|&x| f64::from(x) < real(f64::from(q) + 0.5))
            };
            noise += self.noise_of(start, end, real(q.into()));
            start = end;
        }
        let below = self.values.partition_point(|&x| f64::from(x) < real(f64::from(levels.min()) - 0.5));
        let above = self.values.partition_point(|&x| f64::from(x) <= real(f64::from(levels.max()) + 0.5));
        let inside = self.before[above].count - self.before[below].count;
        (noise, self.total().count - inside)
    }

    /// Sum of `(x - real)^2` over some of the values.
    fn noise_of(&self, start: usize, end: usize, real: f64) -> f64 {
        if start == end {
            return 0.0;
        }
        let (a, b): (Moments, Moments) = (self.before[start], self.before[end]);
        let count = (b.count - a.count) as f64;
        // Rounding may leave a little below 0 where there is no noise.
        ((b.squares - a.squares) - 2.0 * real * (b.sum - a.sum) + real * real * count).max(0.0)
    }
}

/// Clipping values tried.
const STEPS: usize = 4000;
/// The smallest of them, as a share of the largest.
const SMALLEST: f64 = 0.002;

/// The range of least squared error.
pub fn search(points: &Points, levels: Levels, scheme: Scheme) -> Interval {
    let noise = |range: Interval| {
        QParams::new(levels, scheme, range).map_or(f64::INFINITY, |params| points.noise(params, levels).0)
    };
    // The first among equals, ends given up in steps of equal size.
    let least = |range: &dyn Fn(f32) -> Interval| {
        let mut best = (f64::INFINITY, points.range);
        for i in 0..STEPS {
            let share = SMALLEST + (1.0 - SMALLEST) * i as f64 / (STEPS - 1) as f64;
            let range = range(share as f32);
            let noise = noise(range);
            if noise < best.0 {
                best = (noise, range);
            }
        }
        best
    };
    match scheme {
        Scheme::Symmetric => {
            let amax = points.range.max_abs();
            least(&|share| Interval { min: -amax * share, max: amax * share }).1
        }
        Scheme::Affine => {
            let Interval { min, max } = points.range.with_zero();
            let mut best = least(&|share| Interval { min: min * share, max: max * share });
            // Each end by itself; more than a few rounds have never been seen to help.
            for _ in 0..4 {
                let low = least(&|share| Interval { min: min * share, max: best.1.max });
                let low = if low.0 < best.0 { low } else { best };
                let high = least(&|share| Interval { min: low.1.min, max: max * share });
                let both = if high.0 < low.0 { high } else { low };
                if both.0 >= best.0 {
                    break;
                }
                best = both;
            }
            best.1
        }
    }
}
