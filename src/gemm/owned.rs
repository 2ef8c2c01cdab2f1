//! What is done with sums, owned: what layers and owned products keep.

use alloc::vec::Vec;
use core::convert::Infallible;

use super::output::{Bias, Finish, Kind};
use crate::{Broadcast, Error, FixedPoint, memory};

/// Scales or multipliers are one for all columns or one for each.
pub(crate) type OwnedKind = Kind<Vec<f32>, Vec<FixedPoint>>;
pub(crate) type OwnedBias = Bias<Vec<i32>, Vec<f32>>;

/// A [`Finish`] that owns its parameters and has been checked: they do not change once they are here.
#[derive(Debug)]
pub(crate) struct OwnedFinish {
    kind: OwnedKind,
    bias: OwnedBias,
}

impl OwnedFinish {
    /// For `n` columns.
    ///
    /// # Errors
    /// Those of [`Finish::check`].
    pub fn new(kind: OwnedKind, bias: OwnedBias, n: usize) -> Result<Self, Error> {
        let finish = Self { kind, bias };
        finish.view().check(n)?;
        Ok(finish)
    }

    /// A copy, for `n` columns.
    ///
    /// # Errors
    /// Those of [`Finish::check`]; [`Error::SizeOverflow`] when there is no memory.
    pub fn copied(finish: &Finish, n: usize) -> Result<Self, Error> {
        finish.check(n)?;
        Ok(Self {
            kind: finish.kind.try_map(
                |scales| memory::copied("output scales", scales.as_slice()),
                |multipliers| memory::copied("output multipliers", multipliers.as_slice()),
            )?,
            bias: finish
                .bias
                .try_map(|bias| memory::copied("bias", bias), |bias| memory::copied("bias", bias))?,
        })
    }

    /// Of `n` columns, each of which is column `from` of these.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] when there is no memory.
    pub fn columns(&self, n: usize, from: impl Fn(usize) -> usize) -> Result<Self, Error> {
        fn each<P: Copy>(values: &[P], n: usize, from: impl Fn(usize) -> usize) -> Result<Vec<P>, Error> {
            memory::collected("output channels", (0..n).map(|column| values[from(column)]))
        }
        fn all_or_each<P: Copy>(
            values: &[P],
            n: usize,
            from: impl Fn(usize) -> usize,
        ) -> Result<Vec<P>, Error> {
            if values.len() == 1 { memory::copied("output channels", values) } else { each(values, n, from) }
        }
        Ok(Self {
            kind: self.kind.try_map(|s| all_or_each(s, n, &from), |f| all_or_each(f, n, &from))?,
            bias: self.bias.try_map(|bias| each(bias, n, &from), |bias| each(bias, n, &from))?,
        })
    }

    /// As calls take it. Nothing is checked again: a check of all columns takes up to twice the time of a product of one row.
    #[inline]
    pub fn view(&self) -> Finish<'_> {
        let Ok::<_, Infallible>(kind) = self
            .kind
            .try_map(|scales| Ok(Broadcast::of(scales)), |multipliers| Ok(Broadcast::of(multipliers)));
        let Ok::<_, Infallible>(bias) = self.bias.try_map(|bias| Ok(&bias[..]), |bias| Ok(&bias[..]));
        Finish { kind, bias }
    }

    /// Bytes of scales and bias.
    pub fn bytes(&self) -> usize {
        let kind = self.kind.parameters(|scales| size_of_val(&scales[..]), |fixed| size_of_val(&fixed[..]));
        let bias = match &self.bias {
            Bias::None => 0,
            Bias::I32(bias) => size_of_val(&bias[..]),
            Bias::F32(bias) => size_of_val(&bias[..]),
        };
        kind.unwrap_or(0) + bias
    }

    /// With the last scale made one that no check lets pass: whoever still computes has not checked its parameters again.
    #[cfg(test)]
    pub fn spoiled(&self, n: usize) -> Result<Self, Error> {
        let mut finish = self.columns(n, |column| column)?;
        if let Kind::F32 { scales, .. } | Kind::HalfEven { scales, .. } = &mut finish.kind
            && let Some(scale) = scales.last_mut()
        {
            *scale = -*scale;
        }
        Ok(finish)
    }
}
