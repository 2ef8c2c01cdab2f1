//! Integers of one scale to 8-bit integers of another.

use core::{marker::PhantomData, ops::Range};

use super::{
    Grouping, Levels, QParams, Rounding,
    engine::{Engine, How, Steps, Values, flip},
};
use crate::{
    Broadcast, Error, FixedPoint, FixedRounding, Kernel, Operand,
    check::{check_broadcast, check_len, check_scales, check_zero_points},
    kernels::vectors::AHEAD,
};

/// An integer type that can be requantized: i32 sums, or i8 and u8 values of another scale.
pub trait Integer: Copy + sealed::Sealed {
    /// Smallest zero point.
    #[doc(hidden)]
    const MIN: i32;
    /// Largest zero point.
    #[doc(hidden)]
    const MAX: i32;
    #[doc(hidden)]
    fn values<'a>(values: &'a [Self], zero_point: &'a i32) -> sealed::Hidden<'a>;
    /// The value as an i32.
    fn to_i32(self) -> i32;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for i32 {}
    impl Sealed for i8 {}
    impl Sealed for u8 {}
    /// Keeps the crate's own type out of the trait's signature.
    pub struct Hidden<'a>(pub(in super::super) super::Values<'a>);
}

impl Integer for i32 {
    const MIN: i32 = 0;
    const MAX: i32 = 0;

    fn values<'a>(values: &'a [Self], _zero_point: &'a i32) -> sealed::Hidden<'a> {
        sealed::Hidden(Values::I32(values))
    }

    fn to_i32(self) -> i32 {
        self
    }
}

macro_rules! byte_integer {
    ($($t:ty),*) => { $(
        impl Integer for $t {
            const MIN: i32 = <$t as Operand>::MIN;
            const MAX: i32 = <$t as Operand>::MAX;

            fn values<'a>(values: &'a [Self], zero_point: &'a i32) -> sealed::Hidden<'a> {
                sealed::Hidden(Values::Bytes {
                    values: bytemuck::cast_slice(values),
                    flip: flip::<$t>(),
                    zero_points: core::slice::from_ref(zero_point),
                })
            }

            fn to_i32(self) -> i32 {
                self.into()
            }
        }
    )* };
}
byte_integer!(i8, u8);

/// Requantizes slices: i32 sums, or 8-bit values of other parameters, to 8-bit values, in vector code of the kernel that
/// this CPU gets. The epilogue of [`Gemm`](crate::Gemm) does the same to sums while they are still in registers.
///
/// `q = clamp(round(f32(x - from_zero_point) * scale) + zero_point)` with `scale` = scale of the input / scale of the output,
/// or the same in integers alone.
///
/// ```
/// use i8gemm::quant::{Grouping, QParams, Requantizer};
/// let sums = [-1000, 0, 3, 1000];
/// let mut q = [0u8; 4];
/// Requantizer::new(Grouping::per_tensor(), 0.5, 10).requantize(&sums, &mut q)?;
/// assert_eq!(q, [0, 10, 12, 255]); // 1.5 rounds to 2
///
/// // From one pair of scale and zero point to another.
/// let (from, to) = (QParams { scale: 0.1, zero_point: 0 }, QParams { scale: 0.2, zero_point: 128 });
/// Requantizer::between(from, to).requantize(&[-100i8, 0, 7, 100], &mut q)?;
/// assert_eq!(q, [78, 128, 132, 178]);
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Requantizer<'a, T> {
    grouping: Grouping,
    factors: Factors<'a>,
    from_zero_point: i32,
    zero_point: i32,
    levels: Levels,
    rounding: Rounding,
    kernel: Option<Kernel>,
    element: PhantomData<T>,
}

#[derive(Debug, Clone, Copy)]
enum Factors<'a> {
    F32(Broadcast<'a, f32>),
    Fixed(Broadcast<'a, FixedPoint>, FixedRounding),
}

impl<T: Operand> Requantizer<'static, T> {
    /// From values of one scale and zero point to values of another.
    #[must_use]
    pub fn between(from: QParams, to: QParams) -> Self {
        Self {
            from_zero_point: from.zero_point,
            ..Self::new(Grouping::per_tensor(), from.scale / to.scale, to.zero_point)
        }
    }
}

impl<'a, T: Operand> Requantizer<'a, T> {
    /// Scales, one for all values or one for each channel or group, and the zero point of the result. Rounds half to even.
    #[must_use]
    pub fn new(grouping: Grouping, scales: impl Into<Broadcast<'a, f32>>, zero_point: i32) -> Self {
        Self::with_factors(grouping, Factors::F32(scales.into()), zero_point)
    }

    /// In integers alone: `x * multiplier * 2^(shift - 31)`, rounded as [`FixedRounding`] says.
    #[must_use]
    pub fn fixed(
        grouping: Grouping,
        multipliers: impl Into<Broadcast<'a, FixedPoint>>,
        rounding: FixedRounding,
        zero_point: i32,
    ) -> Self {
        Self::with_factors(grouping, Factors::Fixed(multipliers.into(), rounding), zero_point)
    }

    fn with_factors(grouping: Grouping, factors: Factors<'a>, zero_point: i32) -> Self {
        Self {
            grouping,
            factors,
            from_zero_point: 0,
            zero_point,
            levels: Levels::of::<T>(),
            rounding: Rounding::HalfEven,
            kernel: None,
            element: PhantomData,
        }
    }

    /// Zero point of 8-bit input. Sums have none.
    #[must_use]
    pub fn from_zero_point(self, from_zero_point: i32) -> Self {
        Self { from_zero_point, ..self }
    }

    /// Clamps to these levels instead of all values of `T`.
    #[must_use]
    pub fn levels(self, levels: Levels) -> Self {
        Self { levels, ..self }
    }

    /// Rounds in this mode. Integer requantization has modes of its own and ignores this one.
    #[must_use]
    pub fn rounding(self, rounding: Rounding) -> Self {
        Self { rounding, ..self }
    }

    /// Runs on this kernel instead of [`Kernel::best`].
    #[must_use]
    pub fn kernel(self, kernel: Kernel) -> Self {
        Self { kernel: Some(kernel), ..self }
    }

    /// Requantizes `values` into `out`, as many.
    ///
    /// # Errors
    /// [`Error::Length`] when lengths, grouping and parameters disagree; [`Error::Scale`]; [`Error::ZeroPoint`], also for a
    /// zero point of i32 input; [`Error::Levels`] when `T` cannot hold them; [`Error::KernelUnavailable`].
    pub fn requantize<S: Integer>(&self, values: &[S], out: &mut [T]) -> Result<(), Error> {
        check_len("requantized values", out.len(), values.len())?;
        self.grouping.check_len("values", values.len())?;
        self.levels.check::<T>()?;
        check_zero_points::<T>("zero point", &Broadcast::All(self.zero_point), 1)?;
        let from = self.from_zero_point;
        if from < S::MIN || from > S::MAX {
            let what = "zero point of the input";
            return Err(Error::ZeroPoint { what, index: 0, value: from, min: S::MIN, max: S::MAX });
        }
        match &self.factors {
            Factors::F32(scales) => check_scales("scale", scales, self.grouping.count())?,
            Factors::Fixed(multipliers, _) => {
                check_broadcast("multipliers", multipliers, self.grouping.count())?;
            }
        }
        let engine = Engine::new(self.kernel)?;
        self.grouping.runs(values.len(), |elements, params| {
            let sealed::Hidden(source) = S::values(&values[elements.clone()], &from);
            engine.quantize(source, self.how(&params, elements.start), &mut out[elements]);
            Ok(())
        })
    }

    fn how(&self, params: &Range<usize>, index: usize) -> How<'_> {
        let steps = match &self.factors {
            Factors::F32(scales) => Steps::Multiply(scales.range(params)),
            Factors::Fixed(multipliers, rounding) => Steps::Fixed {
                multipliers: multipliers.range(params),
                double_rounding: *rounding == FixedRounding::Double,
            },
        };
        How {
            steps,
            zero_points: core::slice::from_ref(&self.zero_point),
            levels: self.levels,
            rounding: self.rounding,
            index,
            near: false,
            ahead: AHEAD,
        }
    }
}
