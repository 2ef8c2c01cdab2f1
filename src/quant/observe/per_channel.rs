//! An observer for each channel.

use alloc::vec::Vec;

use super::{Levels, NonFinite, Observer, Scheme};
use crate::{Error, memory, quant::ParamList};

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
        let mut observers = memory::room("channels", channels, 1)?;
        for _ in 1..channels {
            observers.push(observer.try_clone()?);
        }
        observers.push(observer);
        Ok(Self { observers, inner, non_finite: NonFinite::Error })
    }

    /// What to do with NaN and infinities, instead of what the observers themselves would do: they see finite values only.
    #[must_use]
    pub fn non_finite(self, non_finite: NonFinite) -> Self {
        Self { non_finite, ..self }
    }

    /// Takes in whole rows of `channels * inner` values.
    ///
    /// # Errors
    /// [`Error::Length`] when the values are not whole rows; as [`Observer::observe`], but that after [`Error::SizeOverflow`] some
    /// channels may have taken in theirs.
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
        let mut gathered = [0.0; 2 * PART];
        for (channel, observer) in self.observers.iter_mut().enumerate() {
            let runs = values.chunks(row).map(|row| &row[channel * self.inner..][..self.inner]);
            if self.non_finite == NonFinite::Error && self.inner >= PART {
                runs.into_iter().try_for_each(|run| observer.observe(run))?;
                continue;
            }
            let mut held = 0;
            for part in runs.flat_map(|run| run.chunks(PART)) {
                match self.non_finite {
                    NonFinite::Error => {
                        gathered[held..held + part.len()].copy_from_slice(part);
                        held += part.len();
                    }
                    NonFinite::Ignore => {
                        for &x in part.iter().filter(|x| x.is_finite()) {
                            gathered[held] = x;
                            held += 1;
                        }
                    }
                }
                if held >= PART {
                    observer.observe(&gathered[..held])?;
                    held = 0;
                }
            }
            observer.observe(&gathered[..held])?;
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
        let copies = self.observers.iter().map(Observer::try_clone);
        let mut merged = memory::try_collected("channels", copies)?;
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
        ParamList::collected(self.observers.iter().map(|observer| observer.qparams(levels, scheme)))
    }

    /// [`PerChannel::params`] with scales of at least `eps`; see [`QParams::with_eps`](crate::quant::QParams::with_eps).
    ///
    /// # Errors
    /// As [`Observer::qparams_with_eps`].
    pub fn params_with_eps(&self, levels: Levels, scheme: Scheme, eps: f32) -> Result<ParamList, Error> {
        let params = |observer: &O| observer.qparams_with_eps(levels, scheme, eps);
        ParamList::collected(self.observers.iter().map(params))
    }
}
