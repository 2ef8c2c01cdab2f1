//! Percentile calibration as ONNX Runtime defines it.

use super::{BINS, Interval, Points, Scheme, Uniform};
use crate::Error;

/// The range that holds `percent` of the values.
pub fn range(points: &Points, percent: f64, scheme: Scheme) -> Result<Interval, Error> {
    let amax = points.range.max_abs();
    match scheme {
        Scheme::Symmetric => {
            let min = points.min_abs();
            if min == amax {
                return Ok(points.range);
            }
            let histogram = points.uniform_abs(BINS, Interval { min, max: amax })?;
            let max = histogram.quantile(percent / 100.0);
            Ok(Interval { min: -max, max })
        }
        Scheme::Affine => {
            let histogram = points.uniform(BINS, Interval { min: -amax, max: amax })?;
            let cut = (100.0 - percent) / 200.0;
            Ok(Interval { min: histogram.quantile(cut), max: histogram.quantile(1.0 - cut) })
        }
    }
}

impl Uniform {
    /// The lower edge of the first bin with which at least this share of the values has been passed.
    fn quantile(&self, share: f64) -> f32 {
        let total = self.total() as f64;
        let mut passed = 0.0;
        let reached = |&count: &u64| {
            // Shares are summed, not counts: the sum's rounding decides ties as the original's does.
            passed += count as f64 / total;
            passed >= share
        };
        self.edges[self.counts.iter().position(reached).unwrap_or(self.counts.len())]
    }
}
