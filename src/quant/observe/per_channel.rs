//! An observer for each channel.

use alloc::vec::Vec;

use super::{Levels, NonFinite, Observer, Scheme};
use crate::{
    Error,
    quant::{ParamList, qparams::filled},
};

/// One observer for each channel of tensors whose sizes before the channel axis may vary, as a batch does. The memory of
/// one observer for each channel.
///
/// ```
/// use i8gemm::quant::{Levels, MinMax, PerChannel, Scheme};
/// // Activations, batch x 2 channels x 3.
/// let mut observer = PerChannel::new(MinMax::new(), 2, 3)?;
/// observer.observe(&[0.1, 0.2, 1.27, -2.54, 0.0, 1.0])?;
/// let params = observer.params(Levels::I8.narrow(), Scheme::Symmetric)?;
/// assert_eq!(params.scales, [0.01, 0.02]);
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PerChannel<O> {
    observers: Vec<O>,
    inner: usize,
    non_finite: NonFinite,
}

impl<O: Observer + Clone> PerChannel<O> {
    /// A copy of `observer` for each of `channels` channels, of which each has `inner` contiguous elements at a time (the
    /// product of the sizes behind the channel axis).
    ///
    /// # Errors
    /// [`Error::Zero`] when either is 0, [`Error::SizeOverflow`].
    pub fn new(observer: O, channels: usize, inner: usize) -> Result<Self, Error> {
        if channels == 0 {
            return Err(Error::Zero { what: "channels" });
        }
        if inner == 0 {
            return Err(Error::Zero { what: "elements of a channel" });
        }
        if channels.checked_mul(inner).is_none() {
            return Err(Error::SizeOverflow { what: "channels", rows: channels, cols: inner });
        }
        Ok(Self { observers: filled(observer, channels)?, inner, non_finite: NonFinite::Error })
    }

    /// What to do with NaN and infinities, instead of what the observers themselves would do: they see finite values only.
    #[must_use]
    pub fn non_finite(self, non_finite: NonFinite) -> Self {
        Self { non_finite, ..self }
    }

    /// Takes in whole rows of `channels * inner` values.
    ///
    /// # Errors
    /// [`Error::Length`] when the values are not whole rows; as [`Observer::observe`].
    pub fn observe(&mut self, values: &[f32]) -> Result<(), Error> {
        /// Values gathered at a time from channels whose elements are too few to be handed over one run after the other.
        const PART: usize = 256;
        // Only a state that was restored from elsewhere can have no such row.
        let row = self.observers.len().checked_mul(self.inner).filter(|row| *row > 0);
        let row = row.ok_or(Error::State { what: "channels without elements, or with too many" })?;
        if !values.len().is_multiple_of(row) {
            let expected = values.len() / row * row;
            return Err(Error::Length { what: "values of whole rows", expected, actual: values.len() });
        }
        // Nothing is taken in unless all of it can be.
        self.non_finite.range(values)?;
        let mut gathered = Vec::with_capacity(PART + self.inner.min(PART));
        for (channel, observer) in self.observers.iter_mut().enumerate() {
            let runs = values.chunks(row).map(|row| &row[channel * self.inner..][..self.inner]);
            if self.non_finite == NonFinite::Error && self.inner >= PART {
                runs.into_iter().try_for_each(|run| observer.observe(run))?;
                continue;
            }
            for run in runs {
                match self.non_finite {
                    NonFinite::Error => gathered.extend_from_slice(run),
                    NonFinite::Ignore => gathered.extend(run.iter().copied().filter(|x| x.is_finite())),
                }
                if gathered.len() >= PART {
                    observer.observe(&gathered)?;
                    gathered.clear();
                }
            }
            observer.observe(&gathered)?;
            gathered.clear();
        }
        Ok(())
    }

    /// Ends a batch in every observer.
    pub fn end_batch(&mut self) {
        self.observers.iter_mut().for_each(Observer::end_batch);
    }

    /// Takes in what another has seen.
    ///
    /// # Errors
    /// [`Error::State`] when channels or settings differ.
    pub fn merge(&mut self, other: &Self) -> Result<(), Error> {
        if self.observers.len() != other.observers.len() {
            return Err(Error::State { what: "observers of different numbers of channels" });
        }
        if self.inner != other.inner {
            return Err(Error::State { what: "channels of different numbers of elements" });
        }
        self.non_finite.check_same(other.non_finite)?;
        // All or nothing: a failure must not leave some channels merged.
        let mut merged = self.observers.clone();
        merged.iter_mut().zip(&other.observers).try_for_each(|(a, b)| a.merge(b))?;
        self.observers = merged;
        Ok(())
    }

    /// The observers, one for each channel.
    #[must_use]
    pub fn observers(&self) -> &[O] {
        &self.observers
    }

    /// Scales and zero points, one for each channel.
    ///
    /// # Errors
    /// As [`Observer::range`].
    pub fn params(&self, levels: Levels, scheme: Scheme) -> Result<ParamList, Error> {
        self.observers.iter().map(|observer| observer.qparams(levels, scheme)).collect()
    }

    /// [`PerChannel::params`] with scales of at least `eps`; see [`QParams::with_eps`](crate::quant::QParams::with_eps).
    ///
    /// # Errors
    /// As [`Observer::qparams_with_eps`].
    pub fn params_with_eps(&self, levels: Levels, scheme: Scheme, eps: f32) -> Result<ParamList, Error> {
        self.observers.iter().map(|observer| observer.qparams_with_eps(levels, scheme, eps)).collect()
    }
}
