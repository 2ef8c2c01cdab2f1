//! The kernels' functions on slices, made safe: the one place of `quant` that calls them.

use super::{Interval, Levels, Rounding};
#[cfg(feature = "alloc")]
use crate::kernels::vectors::{
    add::{self, AddJob},
    gates::{self, CellJob},
};
use crate::{
    Error, FixedPoint, Kernel, Operand,
    kernels::{
        Isa, Param,
        vectors::{
            dequantize::{DequantizeJob, dequantize},
            extent::{Extent, extent},
            quantize::{QuantizeJob, Scaling, Source, quantize},
        },
    },
};

/// The functions of a kernel that this CPU can run.
#[derive(Clone, Copy)]
pub(crate) struct Engine(Isa);

impl Engine {
    /// Of the given kernel, or of the one that this CPU gets.
    pub fn new(kernel: Option<Kernel>) -> Result<Self, Error> {
        Ok(Self(Kernel::chosen(kernel)?.0.isa))
    }

    /// See [`Extent`].
    pub fn extent(self, values: &[f32]) -> Extent {
        // SAFETY: the slice is readable; the CPU has the kernel's features.
        unsafe { extent(self.0)(values.as_ptr(), values.len()) }
    }

    /// The range of values that must be finite; `None` of no values.
    pub fn finite_extent(self, what: &'static str, values: &[f32]) -> Result<Option<Interval>, Error> {
        let Extent { min, max, magnitude } = self.extent(values);
        if magnitude > Extent::FINITE {
            let bad = values.iter().enumerate().find(|(_, x)| !x.is_finite());
            let (index, &value) = bad.unwrap_or((0, &f32::NAN));
            return Err(Error::NonFinite { what, index, value });
        }
        Ok((!values.is_empty()).then_some(Interval { min, max }))
    }

    /// Quantizes or requantizes; returns the sum of the quantized values, modulo 2^32.
    pub fn quantize<T: Operand>(self, values: Values, how: How, out: &mut [T]) -> i32 {
        let mut sum = [0];
        self.quantize_rows(values, how, out, &mut sum);
        sum[0]
    }

    /// As [`Engine::quantize`], of adjacent rows, as many as there are sums, which are left as they are where rows are empty.
    pub fn quantize_rows<T: Operand>(self, values: Values, how: How, out: &mut [T], row_sums: &mut [i32]) {
        let len = out.len();
        let row = len / row_sums.len().max(1);
        assert_eq!(row * row_sums.len(), len);
        let fits = |count: usize| count == 1 || count >= len;
        let source = match values {
            Values::F32(values) => {
                assert_eq!(values.len(), len);
                Source::F32(values.as_ptr())
            }
            Values::I32(values) => {
                assert_eq!(values.len(), len);
                Source::I32(values.as_ptr())
            }
            Values::Bytes { values, flip, zero_points } => {
                assert!(values.len() == len && fits(zero_points.len()));
                Source::Bytes { ptr: values.as_ptr(), flip, zero_points: Param::new(zero_points) }
            }
        };
        let scaling = match how.steps {
            Steps::Divide(scales) => {
                assert!(fits(scales.len()));
                Scaling::Divide(Param::new(scales))
            }
            Steps::Reciprocal(scales) => {
                assert!(fits(scales.len()));
                Scaling::Reciprocal(Param::new(scales))
            }
            Steps::Multiply(scales) => {
                assert!(fits(scales.len()));
                Scaling::Multiply(Param::new(scales))
            }
            Steps::Fixed { multipliers, double_rounding } => {
                assert!(fits(multipliers.len()) && !matches!(values, Values::F32(_)));
                Scaling::Fixed { multipliers: Param::new(multipliers), double_rounding }
            }
        };
        assert!(fits(how.zero_points.len()));
        let job = QuantizeJob {
            source,
            scaling,
            rounding: how.rounding,
            index: how.index as u32,
            zero_points: Param::new(how.zero_points),
            min: how.levels.min(),
            max: how.levels.max(),
            dst: out.as_mut_ptr().cast(),
            len,
            row,
            row_sums: row_sums.as_mut_ptr(),
            near: how.near,
            ahead: how.ahead,
        };
        // SAFETY: source, parameters and output have `len` elements, whole rows with a sum each; levels and zero points are those of 8-bit types, so
        // their differences lie in -511..=511; the CPU has the kernel's features.
        unsafe { quantize(self.0)(&job) };
    }

    /// One step of an LSTM for one row of a batch: gates i, f, g, o, `c.len()` values each.
    #[cfg(feature = "alloc")]
    pub fn lstm(self, input: &[f32], recurrent: &[f32], h: &mut [f32], c: &mut [f32]) {
        let len = h.len();
        assert!(c.len() == len && input.len() == 4 * len && recurrent.len() == 4 * len);
        let [input, recurrent] = [input.as_ptr(), recurrent.as_ptr()];
        let job = CellJob { input, recurrent, stride: len, h: h.as_mut_ptr(), c: c.as_mut_ptr(), len };
        // SAFETY: four gates of `len` values in both products, `len` values in both states; the CPU has the kernel's
        // features.
        unsafe { gates::lstm(self.0)(&job) }
    }

    /// One step of a GRU for one row of a batch: gates r, z, n, `h.len()` values each.
    #[cfg(feature = "alloc")]
    pub fn gru(self, input: &[f32], recurrent: &[f32], h: &mut [f32]) {
        let len = h.len();
        assert!(input.len() == 3 * len && recurrent.len() == 3 * len);
        let [input, recurrent] = [input.as_ptr(), recurrent.as_ptr()];
        let c = core::ptr::null_mut();
        let job = CellJob { input, recurrent, stride: len, h: h.as_mut_ptr(), c, len };
        // SAFETY: three gates of `len` values in both products, `len` values in the state; the CPU has the kernel's
        // features.
        unsafe { gates::gru(self.0)(&job) }
    }

    /// The sum of two slices of quantized values. The caller has checked zero points, scales and clamp.
    #[cfg(feature = "alloc")]
    pub fn add<A: Operand, T: Operand>(self, a: &[A], b: &[A], terms: &Terms, out: &mut [T]) {
        let len = out.len();
        assert!(a.len() == len && b.len() == len);
        let job = AddJob {
            src: [a.as_ptr().cast(), b.as_ptr().cast()],
            flip: flip::<A>(),
            zero_points: terms.zero_points,
            scales: terms.scales,
            zero_point: terms.zero_point,
            min: terms.min,
            max: terms.max,
            dst: out.as_mut_ptr().cast(),
            len,
        };
        // SAFETY: three slices of `len` values; zero point and clamp are those of 8-bit types, so their differences lie in
        // -511..=511; the CPU has the kernel's features.
        unsafe { add::add(self.0)(&job) }
    }

    /// Dequantizes.
    pub fn dequantize<T: Operand>(self, values: &[T], scales: &[f32], zero_points: &[i32], out: &mut [f32]) {
        let len = out.len();
        let fits = |count: usize| count == 1 || count >= len;
        assert!(values.len() == len && fits(scales.len()) && fits(zero_points.len()));
        // SAFETY: source, parameters and output have `len` elements; the CPU has the kernel's features.
        unsafe {
            dequantize(self.0)(&DequantizeJob {
                src: values.as_ptr().cast(),
                flip: flip::<T>(),
                scales: Param::new(scales),
                zero_points: Param::new(zero_points),
                dst: out.as_mut_ptr(),
                len,
            });
        }
    }
}

impl Interval {
    /// The range of some reals.
    ///
    /// # Errors
    /// [`Error::NonFinite`] when one is NaN or infinite, [`Error::NothingObserved`] when there are none; the errors of
    /// [`Kernel::best`].
    pub fn of(values: &[f32]) -> Result<Self, Error> {
        Engine::new(None)?.finite_extent("value", values)?.ok_or(Error::NothingObserved)
    }
}

/// How kernels read the bytes of `T`: 0 for u8, the sign bit for i8.
pub(crate) fn flip<T: Operand>() -> u8 {
    if T::MIN == 0 { 0 } else { 0x80 }
}

/// What is quantized; as many values as there are outputs.
#[derive(Clone, Copy)]
pub(crate) enum Values<'a> {
    F32(&'a [f32]),
    I32(&'a [i32]),
    Bytes { values: &'a [u8], flip: u8, zero_points: &'a [i32] },
}

/// How values are quantized. Of every parameter there is one for all values, or one for each.
#[derive(Clone, Copy)]
pub(crate) struct How<'a> {
    pub steps: Steps<'a>,
    pub zero_points: &'a [i32],
    pub levels: Levels,
    pub rounding: Rounding,
    /// Place of the first value in its slice, for stochastic rounding.
    pub index: usize,
    /// Reals are known to be finite and at most 1024 scales in magnitude, and the scale, one for all, lies within 1e-30..1e30.
    pub near: bool,
    /// How far ahead memory is asked for, in values.
    pub ahead: usize,
}

/// What brings values to steps.
#[derive(Clone, Copy)]
pub(crate) enum Steps<'a> {
    Divide(&'a [f32]),
    Reciprocal(&'a [f32]),
    Multiply(&'a [f32]),
    Fixed { multipliers: &'a [FixedPoint], double_rounding: bool },
}

/// How two slices are added.
#[cfg(feature = "alloc")]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    pub zero_points: [i32; 2],
    /// Scales of the terms, in steps of the output.
    pub scales: [f32; 2],
    pub zero_point: i32,
    pub min: i32,
    pub max: i32,
}
