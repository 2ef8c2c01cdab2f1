//! Which part of the observed range to quantize.

mod error;
mod kl;
mod l2;
mod percentile;

use alloc::vec::Vec;

pub use error::Quality;

use super::{Interval, Levels, Scheme};
use crate::{Error, memory};

/// How a range is chosen from what a [`Histogram`](super::Histogram) has observed.
///
/// Narrower than all of it: values outside are clipped, the others get finer steps. Never wider than what was observed.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Calibrator {
    /// All of it.
    MinMax,
    /// What holds this share of the values, in percent: ONNX Runtime's percentile calibration. Affine: half of the rest is
    /// cut on either side of a histogram of 2,048 bins over `-max |x| ..= max |x|`; symmetric: the rest is cut from a
    /// histogram of `|x|`.
    Percentile(f64),
    /// Least squared error by PyTorch's HistogramObserver: the range of a histogram of 2,048 bins is narrowed in steps of 1e-5
    /// of the values, on the side that skips more bins, until the error, integrated over the bins, rises.
    HistogramL2,
    /// Least squared error, searched: 4,000 clipping values from 0.002 to 1 of the largest magnitude; for the affine scheme the
    /// same share of both ends first, then each end by itself until nothing improves.
    Mse,
    /// Least Kullback-Leibler divergence in TensorRT's form (S. Migacz, "8-bit inference with TensorRT", 2017): of `|x|`, 2,048
    /// bins, half as many levels as there are integers. Among equals the widest. Meant for continuous data: of a few distinct
    /// values it may keep next to nothing.
    KlTensorRt,
    /// Least Kullback-Leibler divergence in ONNX Runtime's form: a window on both sides of 0 over a histogram of 2,048 bins,
    /// level counts cut to integers, smoothed by 1e-4. Among equals the narrowest.
    KlOnnxRuntime,
}

/// Bins of the histograms that every one of these methods is defined on.
const BINS: usize = 2048;

impl Calibrator {
    /// Every method, percentiles at the two usual shares.
    pub const ALL: [Self; 7] = [
        Self::MinMax,
        Self::Percentile(99.9),
        Self::Percentile(99.99),
        Self::HistogramL2,
        Self::Mse,
        Self::KlTensorRt,
        Self::KlOnnxRuntime,
    ];

    /// The range.
    pub(super) fn range(self, points: &Points, levels: Levels, scheme: Scheme) -> Result<Interval, Error> {
        if let Self::Percentile(percent) = self
            && !(0.0..=100.0).contains(&percent)
        {
            return Err(Error::Parameter { what: "percentile", value: percent, min: 0.0, max: 100.0 });
        }
        let all = points.range;
        // One value has no distribution.
        if all.min == all.max {
            return Ok(all);
        }
        let chosen = match self {
            Self::MinMax => all,
            Self::Percentile(percent) => percentile::range(points, percent, scheme)?,
            Self::HistogramL2 => l2::range(points, levels)?,
            Self::Mse => error::search(points, levels, scheme),
            Self::KlTensorRt => kl::tensor_rt(points, levels)?,
            Self::KlOnnxRuntime => kl::onnx_runtime(points, levels)?,
        };
        // A band far from 0 that is narrower than a bin may have been cut off as a whole: what is left lies between it and 0.
        let apart = chosen.max < all.min || chosen.min > all.max;
        let all = if apart { all.with_zero() } else { all };
        // In this order a NaN, from bins wider than f32, keeps all of its side.
        Ok(Interval { min: chosen.min.max(all.min).min(all.max), max: chosen.max.min(all.max).max(all.min) })
    }
}

impl core::fmt::Display for Calibrator {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::MinMax => f.pad("MinMax"),
            Self::Percentile(percent) => f.pad(&alloc::format!("percentile {percent}")),
            Self::HistogramL2 => f.pad("histogram L2"),
            Self::Mse => f.pad("MSE search"),
            Self::KlTensorRt => f.pad("KL, TensorRT"),
            Self::KlOnnxRuntime => f.pad("KL, ONNX Runtime"),
        }
    }
}

/// Numbers with counts, in ascending order: what a histogram holds, as the calibrators see it. At least one.
pub(super) struct Points {
    pub range: Interval,
    values: Vec<f32>,
    /// Count, sum and sum of squares of the values before each, and of all.
    before: Vec<Moments>,
}

#[derive(Clone, Copy, Default)]
struct Moments {
    count: u64,
    sum: f64,
    squares: f64,
}

/// Counts in bins of equal width.
pub(super) struct Uniform {
    pub counts: Vec<u64>,
    /// One more than there are bins.
    pub edges: Vec<f32>,
}

impl Points {
    /// Of at most `most` finite values in ascending order inside `range`.
    pub fn new(
        range: Interval,
        most: usize,
        points: impl Iterator<Item = (f32, u64)>,
    ) -> Result<Self, Error> {
        let what = "observed values";
        let (mut values, mut before) = (memory::room(what, most, 1)?, memory::room(what, most + 1, 1)?);
        let mut total = Moments::default();
        before.push(total);
        for (x, count) in points {
            let (value, weight) = (f64::from(x), count as f64);
            total.count += count;
            total.sum += weight * value;
            total.squares += weight * value * value;
            values.push(x);
            before.push(total);
        }
        Ok(Self { range, values, before })
    }

    fn total(&self) -> Moments {
        self.before[self.values.len()]
    }

    fn counted(&self) -> impl Iterator<Item = (f32, u64)> {
        self.values.iter().zip(self.before.windows(2)).map(|(&x, sums)| (x, sums[1].count - sums[0].count))
    }

    /// Counts of the values in bins over a range that holds them all and is not of one value.
    pub fn uniform(&self, bins: usize, range: Interval) -> Result<Uniform, Error> {
        Uniform::new(bins, range, self.counted())
    }

    /// Counts of the magnitudes.
    pub fn uniform_abs(&self, bins: usize, range: Interval) -> Result<Uniform, Error> {
        Uniform::new(bins, range, self.counted().map(|(x, count)| (x.abs(), count)))
    }

    /// The smallest magnitude.
    pub fn min_abs(&self) -> f32 {
        self.values.iter().fold(f32::INFINITY, |min, x| min.min(x.abs()))
    }
}

impl Uniform {
    /// Edges and bins as NumPy's `histogram` has them for f32: edges rounded to f32, a value in the bin whose edges it lies
    /// between, the last bin closed on both sides.
    fn new(bins: usize, range: Interval, points: impl Iterator<Item = (f32, u64)>) -> Result<Self, Error> {
        let Interval { min, max } = range;
        let width = max - min;
        let step = width / bins as f32;
        let mut edges: Vec<f32> = memory::room("edges of bins", bins + 1, 1)?;
        if width.is_finite() {
            edges.extend((0..bins).map(|i| i as f32 * step + min));
        } else {
            // Wider than f32, where NumPy refuses.
            let step = (f64::from(max) - f64::from(min)) / bins as f64;
            edges.extend((0..bins).map(|i| (i as f64 * step + f64::from(min)) as f32));
        }
        edges.push(max);
        let mut counts = memory::zeroed("bins", bins, 1)?;
        let width = f64::from(max) - f64::from(min);
        for (x, count) in points {
            let guess = (f64::from(x) - f64::from(min)) / width * bins as f64;
            let mut bin = (guess as usize).min(bins - 1);
            if x < edges[bin] && bin > 0 {
                bin -= 1;
            } else if bin + 1 < bins && x >= edges[bin + 1] {
                bin += 1;
            }
            counts[bin] += count;
        }
        Ok(Self { counts, edges })
    }

    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }
}
