//! What becomes of the sums: the output type, scales, bias, rounding and clamp.

use core::marker::PhantomData;

use super::finish::{Bias, BorrowedKind, Byte, Finish, Kind};
use crate::{
    Broadcast, Error, FixedPoint, Operand, OutputElement,
    kernels::{self, End, EndByte, EndF32, EndFixed, EndI32},
};

/// Description of the output of a product: its type `T` and how sums turn into it.
///
/// Below, `s[m, n]` is the exact i32 sum over k of `(lhs[m, k] - za) * (rhs[k, n] - zb)` plus the i32 bias, if there
/// is one. Scales and biases are per column of the output, one for all or one for each.
///
/// ```
/// use i8gemm::Output;
/// let bias = [10, -10];
/// let raw = Output::i32().bias(&bias);
/// let real = Output::f32(0.02).clamp(0.0, f32::INFINITY); // ReLU
/// let bytes = Output::<u8>::requantize(&[0.5, 0.25], 128).bias(&bias).clamp(128, 255);
/// # let _ = (raw, real, bytes);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Output<'a, T> {
    pub(crate) finish: Finish<'a>,
    /// A kernel's product with the end that the kind needs. Looked up through it, so that a program links the ends of those outputs
    /// alone that it describes.
    pub(crate) product: fn(kernels::Id) -> kernels::Multiply,
    element: PhantomData<T>,
}

/// How integer requantization rounds: `s * multiplier * 2^(shift - 31)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FixedRounding {
    /// `(s * multiplier + 2^(30 - shift)) >> (31 - shift)`: one rounding, ties up.
    Single,
    /// gemmlowp and TFLite, bit for bit: a saturating rounding doubling high multiply (ties up), then a rounding divide
    /// by a power of two (ties away from zero). A shift above 0 is a saturating shift left before the multiply.
    Double,
}

impl<T> Output<'_, T> {
    /// `E` is the end of that kind.
    fn new<E: End>(kind: BorrowedKind<'_>) -> Output<'_, T> {
        Output {
            finish: Finish { kind, bias: Bias::None },
            product: kernels::multiply::<E>,
            element: PhantomData,
        }
    }
}

impl<'a> Output<'a, i32> {
    /// The sums themselves.
    #[must_use]
    pub fn i32() -> Self {
        Self::new::<EndI32>(Kind::I32 { accumulate: false })
    }

    /// Adds the sums to what the output already holds (wrapping) instead of replacing it.
    #[must_use]
    pub fn accumulate(mut self) -> Self {
        self.finish.kind = Kind::I32 { accumulate: true };
        self
    }
}

impl<'a> Output<'a, f32> {
    /// `f32(s) * (lhs scale[m] * scale[n]) + f32 bias[n]`, every operation rounded to nearest even; nothing is added without an
    /// f32 bias, so a negative sum whose product is too small for f32 gives -0.0. The scale of `lhs`
    /// comes with [`Lhs::scale`](crate::Lhs::scale) and is 1 if not given. The product of the two scales is an f32 like any: below
    /// the normal ones it loses bits, and becomes 0 below half of the smallest, whatever the sum. Should it overflow, a sum of 0 is
    /// NaN, of whatever bits the CPU makes.
    #[must_use]
    pub fn f32(scales: impl Into<Broadcast<'a, f32>>) -> Self {
        Self::new::<EndF32>(Kind::F32 { scales: scales.into(), min: f32::NEG_INFINITY, max: f32::INFINITY })
    }

    /// Clamps the result to `min..=max`; either may be infinite. NaN becomes `min`, unless they are -inf and inf. A bound of zero
    /// counts as 0.0; what is not above `min` becomes `min`, so -0.0 becomes 0.0 there, and what is above `max` becomes `max`.
    #[must_use]
    pub fn clamp(mut self, min: f32, max: f32) -> Self {
        if let Kind::F32 { scales, .. } = self.finish.kind {
            self.finish.kind = Kind::F32 { scales, min, max };
        }
        self
    }

    /// Adds `bias[n]`, in units of the output, after scaling.
    #[must_use]
    pub fn bias_f32(mut self, bias: &'a [f32]) -> Self {
        self.finish.bias = Bias::F32(bias);
        self
    }
}

impl<'a, T: Operand + OutputElement> Output<'a, T> {
    /// `clamp(rint(f32(s) * scale[n] + f32 bias[n]) + zero_point)`, rounded half to even: what ONNX and PyTorch define.
    ///
    /// `scale` is lhs scale * rhs scale / output scale. Every operation is rounded to nearest even in f32.
    #[must_use]
    pub fn requantize(scales: impl Into<Broadcast<'a, f32>>, zero_point: i32) -> Self {
        Self::new::<EndByte>(Kind::HalfEven { scales: scales.into(), to: Byte::of::<T>(zero_point) })
    }

    /// `clamp(s * multiplier * 2^(shift - 31) + zero_point)` in integers alone, for CPUs without floating point and for
    /// the same bits as TFLite.
    #[must_use]
    pub fn requantize_fixed(
        multipliers: impl Into<Broadcast<'a, FixedPoint>>,
        rounding: FixedRounding,
        zero_point: i32,
    ) -> Self {
        Self::new::<EndFixed>(Kind::Fixed {
            multipliers: multipliers.into(),
            rounding,
            to: Byte::of::<T>(zero_point),
        })
    }

    /// Clamps the result to `min..=max`, in quantized values: `clamp(zero_point, T::MAX)` is ReLU.
    #[must_use]
    pub fn clamp(mut self, min: i32, max: i32) -> Self {
        if let Kind::HalfEven { to, .. } | Kind::Fixed { to, .. } = &mut self.finish.kind {
            (to.min, to.max) = (min, max);
        }
        self
    }

    /// Adds `bias[n]`, in steps of the output (real bias / output scale), after scaling and before rounding. Not for
    /// integer requantization.
    #[must_use]
    pub fn bias_f32(mut self, bias: &'a [f32]) -> Self {
        self.finish.bias = Bias::F32(bias);
        self
    }
}

impl<'a, T> Output<'a, T> {
    /// Adds `bias[n]` to the sums: in units of lhs scale * rhs scale.
    ///
    /// The addition wraps, as all arithmetic of sums does: here neither the activations' type nor their zero points are known, and a
    /// bias near the ends of i32 may well belong to sums of the other sign. One of magnitude up to `2^31 - 1 - K * 255^2` never
    /// wraps. The layers of [`nn`](crate::nn), which know all of it, refuse a bias that could.
    #[must_use]
    pub fn bias(mut self, bias: &'a [i32]) -> Self {
        self.finish.bias = Bias::I32(bias);
        self
    }
}

/// A slice has the length that it must have.
pub(crate) fn check_len(what: &'static str, actual: usize, expected: usize) -> Result<(), Error> {
    if actual == expected { Ok(()) } else { Err(Error::Length { what, expected, actual }) }
}

/// One value, or as many as there are rows or columns.
pub(crate) fn check_broadcast<T>(
    what: &'static str,
    values: &Broadcast<T>,
    count: usize,
) -> Result<(), Error> {
    match values {
        Broadcast::All(_) => Ok(()),
        Broadcast::Each(values) => check_len(what, values.len(), count),
    }
}

/// Every scale is finite and above zero.
pub(crate) fn check_scales(what: &'static str, scales: &Broadcast<f32>, count: usize) -> Result<(), Error> {
    check_broadcast(what, scales, count)?;
    let scales = scales.as_slice();
    match scales.iter().position(|&s| !(s > 0.0 && s.is_finite())) {
        Some(index) => Err(Error::Scale { what, index, value: scales[index].into() }),
        None => Ok(()),
    }
}

/// Every zero point is a value of the element type.
pub(crate) fn check_zero_points<T: Operand>(
    what: &'static str,
    zero_points: &Broadcast<i32>,
    count: usize,
) -> Result<(), Error> {
    check_broadcast(what, zero_points, count)?;
    let values = zero_points.as_slice();
    match values.iter().position(|z| !(T::MIN..=T::MAX).contains(z)) {
        Some(index) => Err(Error::ZeroPoint { what, index, value: values[index], min: T::MIN, max: T::MAX }),
        None => Ok(()),
    }
}

impl kernels::FixedPoint {
    /// From the two numbers that TFLite and gemmlowp call quantized multiplier and shift.
    ///
    /// # Errors
    /// [`Error::FixedPoint`] unless the multiplier is 0 or at least 2^30, and the shift in -31..=30.
    pub fn new(multiplier: i32, shift: i32) -> Result<Self, Error> {
        if (multiplier == 0 || multiplier >= 1 << 30) && (-31..=30).contains(&shift) {
            Ok(Self { multiplier, shift })
        } else {
            Err(Error::FixedPoint { multiplier, shift })
        }
    }

    /// The nearest fixed-point number, as TFLite's `QuantizeMultiplier` makes it: scales too small for the shift become 0.
    ///
    /// # Errors
    /// [`Error::Scale`] unless the scale is finite and above zero, [`Error::FixedPointScale`] at 2^30 and above.
    pub fn from_scale(scale: f64) -> Result<Self, Error> {
        if !(scale > 0.0 && scale.is_finite()) {
            return Err(Error::Scale { what: "fixed-point scale", index: 0, value: scale });
        }
        let (fraction, mut shift) = libm::frexp(scale);
        let mut multiplier = libm::round(fraction * f64::from(1u32 << 31)) as i64;
        if multiplier == 1 << 31 {
            multiplier = 1 << 30;
            shift += 1;
        }
        if shift > 30 {
            return Err(Error::FixedPointScale { value: scale });
        }
        if shift < -31 {
            return Ok(Self { multiplier: 0, shift: 0 });
        }
        Ok(Self { multiplier: multiplier as i32, shift })
    }

    /// The multiplier, in units of 2^-31.
    #[must_use]
    pub fn multiplier(&self) -> i32 {
        self.multiplier
    }

    /// The power of two.
    #[must_use]
    pub fn shift(&self) -> i32 {
        self.shift
    }
}
