//! What is done with the sums of a column, whatever the type of the output.

use super::{FixedRounding, check_broadcast, check_len, check_scales};
use crate::{
    Broadcast, Error, FixedPoint, Operand,
    kernels::{Param, Store},
};

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
    F32 { scales: S, min: f32, max: f32 },
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
            Kind::F32 { scales, min, max } => {
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

    /// There are scales and biases for `n` columns: what kernels read.
    pub fn fits(&self, n: usize) -> bool {
        let scales = match &self.kind {
            Kind::I32 { .. } => true,
            Kind::F32 { scales, .. } | Kind::HalfEven { scales, .. } => {
                check_broadcast("output scale", scales, n).is_ok()
            }
            Kind::Fixed { multipliers, .. } => check_broadcast("output multipliers", multipliers, n).is_ok(),
        };
        let bias = match self.bias {
            Bias::None => true,
            Bias::I32(bias) => bias.len() == n,
            Bias::F32(bias) => bias.len() == n,
        };
        scales && bias
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
            Kind::F32 { scales, min, max } => {
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
