//! Scale and zero point, from a range of real values.

use super::{Interval, Levels, Scheme};
use crate::{Broadcast, Error, Operand, check::check_scales};

/// Scale and zero point of quantized values: `r = scale * (q - zero_point)`.
///
/// A worked example, the range -2..=6 as i8:
/// ```
/// use i8gemm::quant::{Levels, QParams};
/// let p = QParams::affine(Levels::I8, -2.0, 6.0)?;
/// assert_eq!((p.scale, p.zero_point), (8.0 / 255.0, -64));
/// let q: i8 = p.quantize(0.28);
/// assert_eq!(q, -55);
/// assert!((p.dequantize(q) - 0.28235).abs() < 1e-5);
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct QParams {
    /// Real size of one step; finite and above zero.
    pub scale: f32,
    /// The quantized value of the real 0; a value of the element type.
    pub zero_point: i32,
}

impl QParams {
    /// Affine (asymmetric): the range, widened to hold 0, is spread over all levels.
    ///
    /// `scale = (max - min) / (levels.max - levels.min)`; `zero_point = clamp(levels.min - rint(min / scale))`; every operation in
    /// f32, as in PyTorch and ONNX. The scale is as small as the range asks for; a range of no width, or one too narrow for a scale
    /// that is a normal f32, gets scale 1, as in ONNX Runtime. [`QParams::with_eps`] has PyTorch's floor.
    ///
    /// # Errors
    /// [`Error::Range`] when a bound is NaN or infinite, or min > max.
    pub fn affine(levels: Levels, min: f32, max: f32) -> Result<Self, Error> {
        Self::new(levels, Scheme::Affine, Interval { min, max })
    }

    /// Symmetric: `scale = max_abs / ((levels.max - levels.min) / 2)`, or 1 as [`QParams::affine`] says, zero point
    /// [`Levels::middle`].
    ///
    /// That is max_abs / 127.5 for [`Levels::I8`] (PyTorch) and max_abs / 127 for its [`narrow`](Levels::narrow) form (TFLite's
    /// weights, ONNX Runtime).
    ///
    /// # Errors
    /// [`Error::Range`] when the bound is NaN, infinite or negative.
    pub fn symmetric(levels: Levels, max_abs: f32) -> Result<Self, Error> {
        Self::new(levels, Scheme::Symmetric, Interval { min: 0.0, max: max_abs })
    }

    /// By a scheme of the caller's choice.
    ///
    /// # Errors
    /// As [`QParams::affine`].
    pub fn new(levels: Levels, scheme: Scheme, range: Interval) -> Result<Self, Error> {
        Self::fit(levels, scheme, range, normal_or_one)
    }

    /// [`QParams::new`] with a scale of at least `eps`, as PyTorch's observers have it: [`f32::EPSILON`] is their default. Values
    /// much smaller than `eps` all become 0.
    ///
    /// ```
    /// use i8gemm::quant::{Interval, Levels, QParams, Scheme};
    /// let small = Interval { min: -1.27e-7, max: 1e-7 };
    /// let levels = Levels::I8.narrow();
    /// assert!(QParams::new(levels, Scheme::Symmetric, small)?.scale < 1.1e-9);
    /// assert_eq!(QParams::with_eps(levels, Scheme::Symmetric, small, f32::EPSILON)?.scale, f32::EPSILON); // 2^-23
    /// # Ok::<(), i8gemm::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`QParams::affine`]; [`Error::Scale`] unless `eps` is finite and above zero.
    pub fn with_eps(levels: Levels, scheme: Scheme, range: Interval, eps: f32) -> Result<Self, Error> {
        check_scales("eps", &Broadcast::All(eps), 1)?;
        Self::fit(levels, scheme, range, |scale| scale.max(eps))
    }

    fn fit(
        levels: Levels,
        scheme: Scheme,
        range: Interval,
        bounded: impl FnOnce(f32) -> f32,
    ) -> Result<Self, Error> {
        range.check()?;
        let steps = levels.steps() as f32;
        Ok(match scheme {
            Scheme::Affine => {
                let Interval { min, max } = range.with_zero();
                let width = max - min;
                // A range wider than the largest f32 is divided before it is summed.
                let scale =
                    bounded(if width.is_finite() { width / steps } else { max / steps - min / steps });
                let zero_point = levels.min() - libm::rintf(min / scale) as i32;
                Self { scale, zero_point: zero_point.clamp(levels.min(), levels.max()) }
            }
            Scheme::Symmetric => {
                Self { scale: bounded(range.max_abs() / (0.5 * steps)), zero_point: levels.middle() }
            }
        })
    }

    /// `clamp(rint(r / scale) + zero_point)` of one value, ties to even. Infinities saturate; NaN becomes the zero point.
    /// [`Quantizer`](super::Quantizer) does slices, and everything else.
    #[inline]
    #[must_use]
    pub fn quantize<T: Operand>(&self, r: f32) -> T {
        let steps = r / self.scale;
        let steps = if steps.is_nan() { 0.0 } else { steps };
        // Clamped as a float to integers, which commutes with rounding.
        let bound = |level: i32| level.saturating_sub(self.zero_point) as f32;
        let steps = steps.clamp(bound(T::MIN), bound(T::MAX));
        bytemuck::cast((libm::rintf(steps) as i32).wrapping_add(self.zero_point) as u8)
    }

    /// `scale * (q - zero_point)` of one value.
    #[inline]
    #[must_use]
    pub fn dequantize<T: Operand>(&self, q: T) -> f32 {
        self.scale * q.widen().saturating_sub(self.zero_point) as f32
    }

    /// The reals that the smallest and the largest level stand for: what is outside is clipped.
    #[must_use]
    pub fn range(&self, levels: Levels) -> Interval {
        let real = |q: i32| self.scale * q.saturating_sub(self.zero_point) as f32;
        Interval { min: real(levels.min()), max: real(levels.max()) }
    }
}

/// A scale that data asks for, or 1 where that is no normal f32: below them a scale has lost bits, and may have no finite reciprocal.
pub(super) fn normal_or_one(scale: f32) -> f32 {
    if scale >= f32::MIN_POSITIVE { scale } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges() -> Result<(), Error> {
        let p = QParams { scale: 0.5, zero_point: 3 };
        assert_eq!(p.quantize::<i8>(f32::NAN), 3);
        assert_eq!((p.quantize::<i8>(f32::INFINITY), p.quantize::<u8>(f32::NEG_INFINITY)), (127, 0));
        assert_eq!((p.quantize::<i8>(1e30), p.quantize::<i8>(-1e30)), (127, -128));
        // Nonsense gives nonsense, and no panic.
        let odd = QParams { scale: 0.5, zero_point: i32::MIN };
        let _ = (odd.quantize::<i8>(1.0), odd.dequantize(1i8), odd.range(Levels::I8));
        // A range of no width, and one whose scale would be subnormal; the smallest one that is not; a constant -3 as i8.
        assert_eq!(QParams::affine(Levels::I8, 0.0, 0.0)?, QParams { scale: 1.0, zero_point: -128 });
        assert_eq!(QParams::affine(Levels::U8, -1e-40, 1e-40)?, QParams { scale: 1.0, zero_point: 0 });
        assert_eq!(
            QParams::symmetric(Levels::I8.narrow(), 127.0 * f32::MIN_POSITIVE)?.scale,
            f32::MIN_POSITIVE
        );
        let constant = QParams { scale: 3.0 / 255.0, zero_point: 127 };
        assert_eq!(QParams::affine(Levels::I8, -3.0, -3.0)?, constant);
        // 0 stays representable.
        assert_eq!(QParams::affine(Levels::U8, 1.0, 2.0)?, QParams { scale: 2.0 / 255.0, zero_point: 0 });
        // A range as wide as f32 itself.
        assert!(QParams::affine(Levels::I8, f32::MIN, f32::MAX)?.scale.is_finite());
        Ok(())
    }

    /// PyTorch's floor, for whoever asks for it, is there before the zero point is found.
    #[test]
    fn floor() -> Result<(), Error> {
        let tiny = Interval { min: -f32::EPSILON, max: 1e-9 };
        let affine = QParams::with_eps(Levels::U8, Scheme::Affine, tiny, f32::EPSILON)?;
        assert_eq!(affine, QParams { scale: f32::EPSILON, zero_point: 1 });
        assert_eq!(QParams::new(Levels::U8, Scheme::Affine, tiny)?.zero_point, 253);
        for eps in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            let error = QParams::with_eps(Levels::U8, Scheme::Affine, tiny, eps);
            assert!(matches!(error, Err(Error::Scale { what: "eps", .. })), "{eps}");
        }
        Ok(())
    }

    #[test]
    fn symmetric_of_every_width() -> Result<(), Error> {
        assert_eq!(QParams::symmetric(Levels::I8, 127.5)?, QParams { scale: 1.0, zero_point: 0 });
        assert_eq!(QParams::symmetric(Levels::I8.narrow(), 127.0)?, QParams { scale: 1.0, zero_point: 0 });
        assert_eq!(QParams::symmetric(Levels::U8, 127.5)?, QParams { scale: 1.0, zero_point: 128 });
        assert_eq!(QParams::symmetric(Levels::signed(4)?.narrow(), 7.0)?.scale, 1.0);
        assert_eq!(QParams::symmetric(Levels::unsigned(4)?, 7.5)?, QParams { scale: 1.0, zero_point: 8 });
        // Two bits without the smallest value: -1, 0, 1.
        assert_eq!(Levels::signed(2)?.narrow().steps(), 2);
        assert_eq!(Levels::I8.narrow().narrow(), Levels::I8.narrow());
        Ok(())
    }
}
