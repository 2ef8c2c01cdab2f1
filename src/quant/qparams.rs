//! Scale and zero point, from a range of real values.

use crate::{Error, Operand};

/// Scale and zero point of quantized values: `r = scale * (q - zero_point)`.
///
/// The worked example of the survey this crate follows, the range -2..=6 as i8:
/// ```
/// use i8gemm::quant::QParams;
/// let p = QParams::affine::<i8>(-2.0, 6.0)?;
/// assert_eq!((p.scale, p.zero_point), (8.0 / 255.0, -64));
/// let q: i8 = p.quantize(0.28);
/// assert_eq!(q, -55);
/// assert!((p.dequantize(q) - 0.28235).abs() < 1e-5);
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QParams {
    /// Real size of one step; finite and above zero.
    pub scale: f32,
    /// The quantized value of the real 0; a value of the element type.
    pub zero_point: i32,
}

/// The smallest scale: what PyTorch floors at, so that a range of zero width still has a step.
const MIN_SCALE: f32 = f32::EPSILON;

impl QParams {
    /// Affine (asymmetric): the range, widened to hold 0, is spread over all values of `T`.
    ///
    /// `scale = (max - min) / (T::MAX - T::MIN)`, `zero_point = clamp(T::MIN - rint(min / scale))`.
    ///
    /// # Errors
    /// [`Error::Range`] when a bound is NaN or infinite, or min > max.
    pub fn affine<T: Operand>(min: f32, max: f32) -> Result<Self, Error> {
        check_range(min, max)?;
        let (min, max) = (min.min(0.0), max.max(0.0));
        // In f64 a range as wide as f32 itself does not overflow.
        let width = f64::from(max) - f64::from(min);
        let scale = ((width / f64::from(T::MAX - T::MIN)) as f32).max(MIN_SCALE);
        let zero_point = (T::MIN - libm::rintf(min / scale) as i32).clamp(T::MIN, T::MAX);
        Ok(Self { scale, zero_point })
    }

    /// Symmetric, narrow range, for weights: `scale = max |r| / 127`, zero point 0, values -127..=127, never -128.
    ///
    /// # Errors
    /// [`Error::Range`] when the bound is NaN, infinite or negative.
    pub fn symmetric(max_abs: f32) -> Result<Self, Error> {
        check_range(0.0, max_abs)?;
        Ok(Self { scale: (max_abs / 127.0).max(MIN_SCALE), zero_point: 0 })
    }

    /// `clamp(rint(r / scale) + zero_point)`, ties to even. Infinities saturate; NaN becomes the zero point.
    #[inline]
    #[must_use]
    pub fn quantize<T: Operand>(&self, r: f32) -> T {
        // Clamped as a float to integers, which commutes with rounding; then adding 1.5 * 2^23 leaves no fraction bits, so
        // that the addition itself rounds half to even. No step is a call or a branch: slices become vector code.
        const SHIFT: f32 = 12_582_912.0;
        let low = (T::MIN - self.zero_point) as f32;
        let high = (T::MAX - self.zero_point) as f32;
        let steps = r / self.scale;
        let steps = if steps.is_nan() { 0.0 } else { steps };
        let steps = if steps < low { low } else { steps };
        let steps = if steps > high { high } else { steps };
        // The low bits of the shifted float are the integer, whose low byte is the bit pattern of either type.
        let q = ((steps + SHIFT).to_bits() as i32).wrapping_add(self.zero_point);
        bytemuck::cast(q as u8)
    }

    /// `scale * (q - zero_point)`.
    #[must_use]
    pub fn dequantize<T: Operand>(&self, q: T) -> f32 {
        self.scale * (q.widen() - self.zero_point) as f32
    }

    /// Quantizes a slice.
    ///
    /// # Errors
    /// [`Error::Length`] when the lengths differ.
    pub fn quantize_slice<T: Operand>(&self, real: &[f32], out: &mut [T]) -> Result<(), Error> {
        if real.len() != out.len() {
            return Err(Error::Length { what: "quantized values", expected: real.len(), actual: out.len() });
        }
        for (q, &r) in out.iter_mut().zip(real) {
            *q = self.quantize(r);
        }
        Ok(())
    }
}

fn check_range(min: f32, max: f32) -> Result<(), Error> {
    if min.is_finite() && max.is_finite() && min <= max { Ok(()) } else { Err(Error::Range { min, max }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    /// The definition, step by step.
    fn plainly(p: QParams, r: f32) -> i32 {
        if (r / p.scale).is_nan() {
            return p.zero_point;
        }
        (libm::rint(f64::from(r / p.scale)) + f64::from(p.zero_point)).clamp(-128.0, 127.0) as i32
    }

    quickcheck! {
        fn quantize_is_its_definition(r: f32, scale: f32, zero_point: i8) -> bool {
            let Ok(QParams { scale, .. }) = QParams::symmetric(scale.abs()) else { return true };
            let p = QParams { scale, zero_point: zero_point.into() };
            let half_steps = (r as i32 % 600) as f32 * 0.5 * scale;
            [r, half_steps].into_iter().all(|r| i32::from(p.quantize::<i8>(r)) == plainly(p, r))
        }
    }

    #[test]
    fn edges() -> Result<(), Error> {
        let p = QParams { scale: 0.5, zero_point: 3 };
        assert_eq!(p.quantize::<i8>(f32::NAN), 3);
        assert_eq!((p.quantize::<i8>(f32::INFINITY), p.quantize::<u8>(f32::NEG_INFINITY)), (127, 0));
        assert_eq!((p.quantize::<i8>(1e30), p.quantize::<i8>(-1e30)), (127, -128));
        // A range of no width: PyTorch's floor of the scale; a constant -3 as i8.
        assert_eq!(QParams::affine::<i8>(0.0, 0.0)?.scale, f32::EPSILON);
        assert_eq!(QParams::affine::<i8>(-3.0, -3.0)?, QParams { scale: 3.0 / 255.0, zero_point: 127 });
        // 0 stays representable.
        assert_eq!(QParams::affine::<u8>(1.0, 2.0)?, QParams { scale: 2.0 / 255.0, zero_point: 0 });
        Ok(())
    }
}
