//! Observers: what is to be known of calibration data, gathered a piece at a time in constant memory.

#[cfg(feature = "alloc")]
mod histogram;
mod moving_average;
#[cfg(feature = "alloc")]
mod per_channel;

#[cfg(feature = "alloc")]
pub use histogram::{Histogram, HistogramState};
pub use moving_average::{MovingAverage, MovingAverageState};
#[cfg(feature = "alloc")]
pub use per_channel::PerChannel;

use super::{Interval, Levels, QParams, Scheme, engine::Engine};
use crate::{Error, kernels::vectors::extent::Extent};

/// Something that is shown calibration data and then says which range of reals to quantize.
///
/// Data comes in pieces of any length: for every way to cut a batch into pieces the result is the same. Observers of several
/// threads are merged.
///
/// ```
/// use i8gemm::quant::{Interval, Levels, MinMax, Observer, Scheme};
/// let (mut a, mut b) = (MinMax::new(), MinMax::new());
/// a.observe(&[0.5, -2.0])?;
/// b.observe(&[6.0])?; // on another thread
/// a.merge(&b)?;
/// assert_eq!(a.range(Levels::I8, Scheme::Affine)?, Interval { min: -2.0, max: 6.0 });
/// assert_eq!(a.qparams(Levels::I8, Scheme::Affine)?.zero_point, -64);
/// # Ok::<(), i8gemm::Error>(())
/// ```
pub trait Observer {
    /// Takes in values: a batch, or a piece of one.
    ///
    /// # Errors
    /// [`Error::NonFinite`] for the first NaN or infinity, unless [`NonFinite::Ignore`] was chosen; nothing has been taken in
    /// then, and neither after [`Error::SizeOverflow`], where an observer finds no memory for what it keeps. [`Error::State`] for
    /// more values than can be counted. The errors of [`Kernel::best`](crate::Kernel::best).
    fn observe(&mut self, values: &[f32]) -> Result<(), Error>;

    /// Ends a batch. Only an observer that weighs batches, [`MovingAverage`], takes notice.
    fn end_batch(&mut self) {}

    /// Takes in a whole batch.
    ///
    /// # Errors
    /// As [`Observer::observe`].
    fn observe_batch(&mut self, values: &[f32]) -> Result<(), Error> {
        self.observe(values)?;
        self.end_batch();
        Ok(())
    }

    /// Takes in what another observer of the same settings has seen.
    ///
    /// # Errors
    /// [`Error::State`] when the settings differ; [`Error::SizeOverflow`].
    fn merge(&mut self, other: &Self) -> Result<(), Error>
    where
        Self: Sized;

    /// A copy. Observers whose copies take memory of their own say how they ask for it.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] when there is not as much memory.
    fn try_clone(&self) -> Result<Self, Error>
    where
        Self: Clone,
    {
        Ok(self.clone())
    }

    /// The range to quantize.
    ///
    /// # Errors
    /// [`Error::NothingObserved`] before the first finite value; [`Error::SizeOverflow`].
    fn range(&self, levels: Levels, scheme: Scheme) -> Result<Interval, Error>;

    /// Scale and zero point of that range.
    ///
    /// # Errors
    /// As [`Observer::range`].
    fn qparams(&self, levels: Levels, scheme: Scheme) -> Result<QParams, Error> {
        QParams::new(levels, scheme, self.range(levels, scheme)?)
    }

    /// [`Observer::qparams`] with a scale of at least `eps`; see [`QParams::with_eps`].
    ///
    /// # Errors
    /// As [`Observer::range`]; [`Error::Scale`] unless `eps` is finite and above zero.
    fn qparams_with_eps(&self, levels: Levels, scheme: Scheme, eps: f32) -> Result<QParams, Error> {
        QParams::with_eps(levels, scheme, self.range(levels, scheme)?, eps)
    }
}

/// What an observer does with NaN and infinities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum NonFinite {
    /// Refuses the piece that holds one.
    #[default]
    Error,
    /// Leaves them out.
    Ignore,
}

impl NonFinite {
    /// Observers are merged only if they treat NaN and infinities alike.
    fn check_same(self, other: Self) -> Result<(), Error> {
        let what = "observers that treat NaN and infinities differently";
        if self == other { Ok(()) } else { Err(Error::State { what }) }
    }

    /// The range of the values to take in; `None` when there are none.
    fn range(self, values: &[f32]) -> Result<Option<Interval>, Error> {
        let engine = Engine::new(None)?;
        if self == Self::Error {
            return engine.finite_extent("observed value", values);
        }
        let Extent { min, max, magnitude } = engine.extent(values);
        if magnitude <= Extent::FINITE {
            return Ok((!values.is_empty()).then_some(Interval { min, max }));
        }
        let finite = values.iter().filter(|x| x.is_finite());
        Ok(finite.map(|&x| Interval { min: x, max: x }).reduce(Interval::join))
    }
}

/// Of two ranges that may be of nothing.
fn join(a: Option<Interval>, b: Option<Interval>) -> Option<Interval> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.join(b)),
        (a, b) => a.or(b),
    }
}

/// The smallest and the largest value. 8 bytes of memory, and a few of settings.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct MinMax {
    /// What has been observed: plain data, to be stored and restored.
    pub observed: Option<Interval>,
    /// What happens to NaN and infinities.
    pub non_finite: NonFinite,
}

impl MinMax {
    /// Nothing observed yet; NaN and infinities are refused.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What to do with NaN and infinities.
    #[must_use]
    pub fn non_finite(self, non_finite: NonFinite) -> Self {
        Self { non_finite, ..self }
    }
}

impl Observer for MinMax {
    fn observe(&mut self, values: &[f32]) -> Result<(), Error> {
        self.observed = join(self.observed, self.non_finite.range(values)?);
        Ok(())
    }

    fn merge(&mut self, other: &Self) -> Result<(), Error> {
        self.non_finite.check_same(other.non_finite)?;
        self.observed = join(self.observed, other.observed);
        Ok(())
    }

    fn range(&self, _levels: Levels, _scheme: Scheme) -> Result<Interval, Error> {
        self.observed.ok_or(Error::NothingObserved)
    }
}
