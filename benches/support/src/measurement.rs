//! What the measuring program says, a JSON object on each line.

use serde::{Deserialize, Serialize};

/// A line of the measuring program.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// So many measurements will follow, at most.
    Planned(usize),
    /// What is being measured now.
    Measuring(String),
    /// What will not be measured, and why.
    Skipped(String),
    /// What a reader of the results should know.
    Noted(String),
    /// A pair was measured.
    Measured(Measurement),
    /// What ended it before it was done.
    Failed(String),
}

/// Ours and a peer, measured in turn.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Measurement {
    pub m: usize,
    pub k: usize,
    pub n: usize,
    /// Types of `lhs`, `rhs` and `out`.
    pub op: String,
    /// Of ours.
    pub kernel: String,
    pub threads: usize,
    /// Medians, in 10^9 multiply-adds a second.
    pub ours_gmacs: f64,
    pub peer: String,
    pub peer_gmacs: f64,
    /// Median over the pairs of our rate by the peer's.
    pub ratio: f64,
    /// Its quartiles: half of the pairs lie between them.
    pub ratio_quartiles: [f64; 2],
    /// Times that the row was measured: again while its spread was large. The quietest is what is kept.
    pub attempts: usize,
    /// The kernel's multiply instruction alone, in registers, on as many threads; none where it is not known.
    pub ceiling_gmacs: Option<f64>,
    /// Whether the peer's sums are ours, where they should be.
    pub agrees: Option<bool>,
}

impl Measurement {
    /// Distance of the quartiles of the ratio, as a part of it.
    pub fn spread(&self) -> f64 {
        spread(self.ratio, self.ratio_quartiles)
    }
}

/// Distance of quartiles, as a part of their median.
pub fn spread(median: f64, [low, high]: [f64; 2]) -> f64 {
    (high - low) / median
}
