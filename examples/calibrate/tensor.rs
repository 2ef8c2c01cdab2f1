//! An array to calibrate: what an observer has seen of it.

use anyhow::{Result, anyhow};
use i8gemm::{
    Error,
    quant::{Calibrator, Histogram, Interval, NonFinite, Observer},
};

use crate::report::short;

pub struct Tensor {
    pub name: String,
    pub histogram: Histogram,
    pub range: Interval,
    mean: f64,
    /// Values that are NaN or infinite.
    left_out: u64,
}

impl Tensor {
    pub fn of(name: impl Into<String>, values: &[f32]) -> Result<Self> {
        let mut builder = Builder::new(NonFinite::Error);
        builder.add(values)?;
        Ok(builder.finish()?.named(name))
    }

    pub fn named(self, name: impl Into<String>) -> Self {
        Self { name: name.into(), ..self }
    }
}

/// One line: the name, and the values in a few numbers.
impl std::fmt::Display for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Interval { min, max } = self.range;
        write!(f, "{}: {} values, {} to {}", self.name, self.histogram.count(), short(min), short(max))?;
        write!(f, ", mean {}", short(self.mean))?;
        if self.left_out > 0 {
            write!(f, "; {} not finite, left out", self.left_out)?;
        }
        Ok(())
    }
}

/// A tensor whose values come in pieces.
pub struct Builder {
    histogram: Histogram,
    sum: f64,
    seen: u64,
}

impl Builder {
    pub fn new(non_finite: NonFinite) -> Self {
        // Which method it has makes no difference: all are tried.
        let histogram = Histogram::new(Calibrator::MinMax).non_finite(non_finite);
        Self { histogram, sum: 0.0, seen: 0 }
    }

    pub fn add(&mut self, values: &[f32]) -> Result<()> {
        self.histogram.observe(values).map_err(|error| match error {
            Error::NonFinite { index, value, .. } => anyhow!(
                "{value} at index {} is not finite as f32; --ignore-non-finite leaves such values out",
                self.seen + index as u64
            ),
            other => other.into(),
        })?;
        self.seen += values.len() as u64;
        self.sum += values.iter().filter(|x| x.is_finite()).map(|&x| f64::from(x)).sum::<f64>();
        Ok(())
    }

    pub fn finish(self) -> Result<Tensor> {
        let Self { histogram, sum, seen } = self;
        let count = histogram.count();
        let range = histogram.observed().ok_or_else(|| match seen {
            0 => anyhow!("the array is empty"),
            _ => anyhow!("none of the {seen} values is finite"),
        })?;
        let (mean, left_out) = (sum / count as f64, seen - count);
        Ok(Tensor { name: String::new(), histogram, range, mean, left_out })
    }
}
