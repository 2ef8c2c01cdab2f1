//! What becomes of the sums: the output type, scales, bias, rounding and clamp, for users and as kernels take it.

use core::marker::PhantomData;

use crate::{
    Broadcast, Error, FixedPoint, FixedRounding, Operand, OutputElement,
    check::{check_broadcast, check_len, check_scales},
    kernels::{self, End, EndByte, EndF32, EndF32Added, EndFixed, EndI32, Param, Store},
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
        Self::new::<EndF32>(Kind::f32(scales.into(), f32::NEG_INFINITY, f32::INFINITY))
    }

    /// Adds the result to what the output already holds instead of replacing it, before bias and clamp:
    /// `clamp(out + f32(s) * (lhs scale[m] * scale[n]) + bias[n])`, from the left, every operation rounded to nearest even. Not for
    /// weights with scales for groups of K.
    ///
    /// ```
    /// use i8gemm::{Gemm, MatMut, MatRef, Output, PackedRhs};
    /// let weights = PackedRhs::pack(MatRef::row_major(&[1i8, -2], 1, 2)?)?;
    /// let mut y = [0.25f32, 0.25];
    /// let output = Output::f32(0.5).clamp(0.0, f32::INFINITY).accumulate();
    /// Gemm::new(&weights, output)?.apply(MatRef::row_major(&[3i8], 1, 1)?, MatMut::row_major(&mut y, 1, 2)?)?;
    /// assert_eq!(y, [1.75, 0.0]);
    /// # Ok::<(), i8gemm::Error>(())
    /// ```
    #[must_use]
    pub fn accumulate(mut self) -> Self {
        if let Kind::F32 { accumulate, .. } = &mut self.finish.kind {
            *accumulate = true;
        }
        Self { product: kernels::multiply::<EndF32Added>, ..self }
    }

    /// Clamps the result to `min..=max`; either may be infinite. NaN becomes `min`, unless they are -inf and inf. A bound of zero
    /// counts as 0.0; what is not above `min` becomes `min`, so -0.0 becomes 0.0 there, and what is above `max` becomes `max`.
    #[must_use]
    pub fn clamp(mut self, min: f32, max: f32) -> Self {
        if let Kind::F32 { min: low, max: high, .. } = &mut self.finish.kind {
            (*low, *high) = (min, max);
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

/// What is done with sums: all of an [`Output`](crate::Output) but its type.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Finish<'a> {
    pub kind: BorrowedKind<'a>,
    pub bias: BorrowedBias<'a>,
}

/// How sums become outputs, with scales `S` or fixed-point multipliers `F`: borrowed, as an
/// [`Output`](crate::Output) has them, or owned.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind<S, F> {
    I32 { accumulate: bool },
    F32 { scales: S, min: f32, max: f32, accumulate: bool },
    HalfEven { scales: S, to: Byte },
    Fixed { multipliers: F, rounding: FixedRounding, to: Byte },
}

pub(crate) type BorrowedKind<'a> = Kind<Broadcast<'a, f32>, Broadcast<'a, FixedPoint>>;

/// Zero point and clamp of an 8-bit output.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Byte {
    pub zero_point: i32,
    pub min: i32,
    pub max: i32,
    type_min: i32,
    type_max: i32,
}

impl Byte {
    pub fn of<T: Operand>(zero_point: i32) -> Self {
        Self { zero_point, min: T::MIN, max: T::MAX, type_min: T::MIN, type_max: T::MAX }
    }

    fn check(&self) -> Result<(), Error> {
        let Self { zero_point, min, max, type_min, type_max } = *self;
        if zero_point < type_min || zero_point > type_max {
            let what = "output zero point";
            return Err(Error::ZeroPoint { what, index: 0, value: zero_point, min: type_min, max: type_max });
        }
        if min > max || min < type_min || max > type_max {
            let [min, max, type_min, type_max] = [min, max, type_min, type_max].map(f64::from);
            return Err(Error::Clamp { min, max, type_min, type_max });
        }
        Ok(())
    }
}

/// A bias in i32 or in f32, borrowed or owned as in [`Kind`].
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bias<I, F> {
    None,
    I32(I),
    F32(F),
}

pub(crate) type BorrowedBias<'a> = Bias<&'a [i32], &'a [f32]>;

impl Finish<'_> {
    /// Checks every parameter against `n` columns.
    pub fn check(&self, n: usize) -> Result<(), Error> {
        match &self.kind {
            Kind::I32 { .. } => {}
            Kind::F32 { scales, min, max, .. } => {
                check_scales("output scale", scales, n)?;
                if min.is_nan() || max.is_nan() || min > max {
                    let (type_min, type_max) = (f64::NEG_INFINITY, f64::INFINITY);
                    return Err(Error::Clamp { min: (*min).into(), max: (*max).into(), type_min, type_max });
                }
            }
            Kind::HalfEven { scales, to } => {
                check_scales("output scale", scales, n)?;
                to.check()?;
            }
            Kind::Fixed { multipliers, to, .. } => {
                check_broadcast("output multipliers", multipliers, n)?;
                to.check()?;
            }
        }
        match self.bias {
            Bias::None => {}
            Bias::I32(bias) => check_len("bias", bias.len(), n)?,
            Bias::F32(bias) => {
                check_len("bias", bias.len(), n)?;
                if let Some(index) = bias.iter().position(|b| !b.is_finite()) {
                    return Err(Error::Bias { index, value: bias[index].into() });
                }
                if matches!(self.kind, Kind::I32 { .. } | Kind::Fixed { .. }) {
                    return Err(Error::BiasType);
                }
            }
        }
        Ok(())
    }

    /// The output is one that sums over groups of K have.
    pub fn check_groups(&self) -> Result<(), Error> {
        if self.kind.takes_groups() && !matches!(self.bias, Bias::I32(_)) {
            Ok(())
        } else {
            Err(Error::GroupedOutput)
        }
    }

    /// There are scales and biases for `n` columns: what kernels read.
    pub fn fits(&self, n: usize) -> bool {
        let scales = self.kind.parameters(
            |scales| check_broadcast("output scale", scales, n).is_ok(),
            |multipliers| check_broadcast("output multipliers", multipliers, n).is_ok(),
        );
        let bias = match self.bias {
            Bias::None => true,
            Bias::I32(bias) => bias.len() == n,
            Bias::F32(bias) => bias.len() == n,
        };
        scales.unwrap_or(true) && bias
    }

    /// The i32 bias and the store of a kernel's epilogue. The output outlives the job that uses it.
    pub fn for_kernel(&self, row_scales: Param<f32>) -> (*const i32, Store) {
        let (bias_i32, bias_f32) = match self.bias {
            Bias::None => (core::ptr::null(), core::ptr::null()),
            Bias::I32(bias) => (bias.as_ptr(), core::ptr::null()),
            Bias::F32(bias) => (core::ptr::null(), bias.as_ptr()),
        };
        let store = match &self.kind {
            &Kind::I32 { accumulate } => Store::I32 { accumulate },
            Kind::F32 { scales, min, max, .. } => {
                let [min, max] = positive_zeros([*min, *max]);
                let col_scales = Param::new(scales.as_slice());
                Store::F32 { row_scales, col_scales, bias: bias_f32, min, max }
            }
            Kind::HalfEven { scales, to } => Store::HalfEven {
                scales: Param::new(scales.as_slice()),
                bias: bias_f32,
                zero_point: to.zero_point,
                min: to.min,
                max: to.max,
            },
            Kind::Fixed { multipliers, rounding, to } => Store::Fixed {
                multipliers: Param::new(multipliers.as_slice()),
                double_rounding: *rounding == FixedRounding::Double,
                zero_point: to.zero_point,
                min: to.min,
                max: to.max,
            },
        };
        (bias_i32, store)
    }
}

/// The bounds of a clamp with -0.0 replaced by 0.0.
pub(crate) fn positive_zeros(bounds: [f32; 2]) -> [f32; 2] {
    bounds.map(|bound| bound + 0.0)
}

impl<S, F> Kind<S, F> {
    /// f32 that replaces what is there.
    pub fn f32(scales: S, min: f32, max: f32) -> Self {
        Self::F32 { scales, min, max, accumulate: false }
    }

    /// Rows of `lhs` may have scales.
    pub fn takes_row_scales(&self) -> bool {
        match self {
            Self::F32 { .. } => true,
            Self::I32 { .. } | Self::HalfEven { .. } | Self::Fixed { .. } => false,
        }
    }

    /// The output may be a sum over groups of K that have scales: kernels compute every such output as the same one.
    fn takes_groups(&self) -> bool {
        match self {
            Self::F32 { accumulate, .. } => !accumulate,
            Self::I32 { .. } | Self::HalfEven { .. } | Self::Fixed { .. } => false,
        }
    }

    /// What is asked of the scales or of the multipliers, if it has some.
    pub fn parameters<'s, R>(
        &'s self,
        of_scales: impl FnOnce(&'s S) -> R,
        of_multipliers: impl FnOnce(&'s F) -> R,
    ) -> Option<R> {
        match self {
            Self::I32 { .. } => None,
            Self::F32 { scales, .. } | Self::HalfEven { scales, .. } => Some(of_scales(scales)),
            Self::Fixed { multipliers, .. } => Some(of_multipliers(multipliers)),
        }
    }

    /// The same with scales or multipliers that are kept in another way.
    #[cfg(feature = "alloc")]
    #[inline]
    pub fn try_map<'s, S2, F2, E>(
        &'s self,
        map_scales: impl FnOnce(&'s S) -> Result<S2, E>,
        map_multipliers: impl FnOnce(&'s F) -> Result<F2, E>,
    ) -> Result<Kind<S2, F2>, E> {
        Ok(match *self {
            Self::I32 { accumulate } => Kind::I32 { accumulate },
            Self::F32 { ref scales, min, max, accumulate } => {
                Kind::F32 { scales: map_scales(scales)?, min, max, accumulate }
            }
            Self::HalfEven { ref scales, to } => Kind::HalfEven { scales: map_scales(scales)?, to },
            Self::Fixed { ref multipliers, rounding, to } => {
                Kind::Fixed { multipliers: map_multipliers(multipliers)?, rounding, to }
            }
        })
    }
}

#[cfg(feature = "alloc")]
impl<I, F> Bias<I, F> {
    /// The same, kept in another way.
    #[cfg(feature = "alloc")]
    #[inline]
    pub fn try_map<'s, I2, F2, E>(
        &'s self,
        map_i32: impl FnOnce(&'s I) -> Result<I2, E>,
        map_f32: impl FnOnce(&'s F) -> Result<F2, E>,
    ) -> Result<Bias<I2, F2>, E> {
        Ok(match self {
            Self::None => Bias::None,
            Self::I32(bias) => Bias::I32(map_i32(bias)?),
            Self::F32(bias) => Bias::F32(map_f32(bias)?),
        })
    }
}
