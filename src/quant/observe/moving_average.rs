//! The range as a moving average over batches (exponential smoothing).

use super::{Interval, Levels, NonFinite, Observer, Scheme, join};
use crate::Error;

/// Moving averages of the smallest and the largest value of each batch: `m += c * (batch - m)`, the first batch
/// initialises; PyTorch's MovingAverageMinMaxObserver, `c` = 0.01 by default.
///
/// A batch is what comes between two calls of [`end_batch`](Observer::end_batch); one that is still open counts as if it had
/// ended. Under a hundred bytes of memory.
///
/// ```
/// use i8gemm::quant::{Levels, MovingAverage, Observer, Scheme};
/// let mut observer = MovingAverage::new(0.5)?;
/// observer.observe_batch(&[-1.0, 1.0])?;
/// observer.observe(&[-3.0])?; // a batch in two pieces
/// observer.observe(&[0.0, 2.0])?;
/// observer.end_batch();
/// let range = observer.range(Levels::I8, Scheme::Affine)?;
/// assert_eq!((range.min, range.max), (-2.0, 1.5));
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(try_from = "MovingAverageState", into = "MovingAverageState")
)]
pub struct MovingAverage(MovingAverageState);

/// All there is to a [`MovingAverage`], as plain data.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct MovingAverageState {
    /// Weight of a new batch, above 0 and at most 1.
    pub constant: f64,
    /// Batches that have ended and held a value.
    pub batches: u64,
    /// Smallest and largest value of the first of them; what merging needs.
    pub first: [f64; 2],
    /// The averages over them.
    pub average: [f64; 2],
    /// Of the batch that has not ended.
    pub open: Option<Interval>,
    /// What happens to NaN and infinities.
    pub non_finite: NonFinite,
}

impl MovingAverage {
    /// Nothing observed yet; `constant` is the weight of a new batch.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless it is above 0 and at most 1.
    pub fn new(constant: f64) -> Result<Self, Error> {
        MovingAverageState {
            constant,
            batches: 0,
            first: [0.0; 2],
            average: [0.0; 2],
            open: None,
            non_finite: NonFinite::Error,
        }
        .try_into()
    }

    /// What to do with NaN and infinities.
    #[must_use]
    pub fn non_finite(self, non_finite: NonFinite) -> Self {
        Self(MovingAverageState { non_finite, ..self.0 })
    }

    /// Smallest and largest value, averaged, the open batch included.
    fn average(&self) -> Option<[f64; 2]> {
        let mut closed = *self;
        closed.end_batch();
        (closed.0.batches > 0).then_some(closed.0.average)
    }
}

impl Default for MovingAverage {
    fn default() -> Self {
        Self::new(0.01).expect("0.01 lies between 0 and 1")
    }
}

impl Observer for MovingAverage {
    fn observe(&mut self, values: &[f32]) -> Result<(), Error> {
        self.0.open = join(self.0.open, self.0.non_finite.range(values)?);
        Ok(())
    }

    fn end_batch(&mut self) {
        let Some(Interval { min, max }) = self.0.open.take() else { return };
        let batch = [f64::from(min), f64::from(max)];
        if self.0.batches == 0 {
            (self.0.first, self.0.average) = (batch, batch);
        } else {
            for (average, batch) in self.0.average.iter_mut().zip(batch) {
                *average += self.0.constant * (batch - *average);
            }
        }
        self.0.batches = self.0.batches.saturating_add(1);
    }

    /// Pieces of one batch, seen by several threads, are joined. Otherwise the batches of `other` come after those of `self`,
    /// whose own batch must have ended ([`Error::State`]).
    fn merge(&mut self, other: &Self) -> Result<(), Error> {
        let (a, b) = (&mut self.0, &other.0);
        a.non_finite.check_same(b.non_finite)?;
        if a.constant != b.constant {
            return Err(Error::State { what: "moving averages of different constants" });
        }
        if b.batches == 0 {
            a.open = join(a.open, b.open);
            return Ok(());
        }
        if a.open.is_some() {
            return Err(Error::State { what: "a batch must end before later batches are merged" });
        }
        if a.batches == 0 {
            *a = MovingAverageState { non_finite: a.non_finite, ..*b };
            return Ok(());
        }
        // Had `other` started from our average instead of from its first batch, that difference would have shrunk by
        // (1 - c) for each of its batches.
        let kept = libm::pow(1.0 - a.constant, b.batches as f64);
        // States that no batches lead to may pass the largest f32, or leave the averages out of order.
        let joined = |i: usize| {
            let average = b.average[i] + kept * (a.average[i] - b.first[i]);
            average.clamp(-f64::from(f32::MAX), f32::MAX.into())
        };
        let (min, max) = (joined(0), joined(1));
        a.average = [min, max.max(min)];
        a.batches = a.batches.saturating_add(b.batches);
        a.open = b.open;
        Ok(())
    }

    fn range(&self, _levels: Levels, _scheme: Scheme) -> Result<Interval, Error> {
        let [min, max] = self.average().ok_or(Error::NothingObserved)?;
        Ok(Interval { min: min as f32, max: max as f32 })
    }
}

impl TryFrom<MovingAverageState> for MovingAverage {
    type Error = Error;

    fn try_from(state: MovingAverageState) -> Result<Self, Error> {
        let MovingAverageState { constant, first, average, open, .. } = state;
        if !(constant > 0.0 && constant <= 1.0) {
            return Err(Error::Parameter { what: "averaging constant", value: constant, min: 0.0, max: 1.0 });
        }
        let ordered =
            |[min, max]: [f64; 2]| min <= max && min.abs() <= f32::MAX.into() && max.abs() <= f32::MAX.into();
        if !ordered(first) || !ordered(average) {
            return Err(Error::State { what: "averages out of order or not finite" });
        }
        open.map_or(Ok(()), Interval::check)?;
        Ok(Self(state))
    }
}

impl From<MovingAverage> for MovingAverageState {
    fn from(observer: MovingAverage) -> Self {
        observer.0
    }
}
