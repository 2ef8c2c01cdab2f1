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
    #[must_use]
    pub fn quantize<T: Operand>(&self, r: f32) -> T {
        // Clamped as a float, before the cast; `as` alone would saturate too, but only at the ends of i32.
        let steps = libm::rintf(r / self.scale);
        let steps = if steps.is_nan() { 0.0 } else { steps };
        let q = (steps + self.zero_point as f32).clamp(T::MIN as f32, T::MAX as f32) as i32;
        // The low byte of a value of either type is its bit pattern.
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
