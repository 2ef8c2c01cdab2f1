//! Reals and sums to bytes: quantize and requantize. Written once over [`Lanes`], looked up by instruction set.
//!
//! A real becomes a byte in four moves that every instruction set has: scale it to steps, put 0 in place of NaN, clamp to
//! the integers that `min - zero_point` and `max - zero_point` are, round, add the zero point. Clamping to integers before
//! rounding gives what clamping after it would, and keeps the conversion to i32 in range whatever the input. Reals whose range is
//! known hold no NaN, and need no division where multiplications and additions are fused ([`Lanes::quotient`]). All modes of
//! rounding come from the one that converts (half to even) by comparing its result with what was rounded. Four vectors are
//! packed into bytes at a time; memory is the limit: 5 bytes for each value, which one vector of 8 takes some ten cycles
//! to move and no more than six to compute.

use super::super::{FixedPoint, Isa, Param, isa::compiled};
use super::{
    buffer::Buffer,
    lanes::Lanes,
    rounding::{Rounding, floor, half_up, magnitude, uniform, with_sign},
};

/// What is quantized.
#[derive(Clone, Copy)]
pub(crate) enum Source {
    F32(*const f32),
    I32(*const i32),
    /// `value - zero_points` of bytes: u8 values with a flip of 0, i8 values with one of 0x80.
    Bytes {
        ptr: *const u8,
        flip: u8,
        zero_points: Param<i32>,
    },
}

/// What brings the source to steps of the result.
#[derive(Clone, Copy)]
pub(crate) enum Scaling {
    /// Divided by the scale: ONNX.
    Divide(Param<f32>),
    /// Multiplied by the scale's reciprocal, rounded to f32: PyTorch.
    Reciprocal(Param<f32>),
    Multiply(Param<f32>),
    /// In integers, not for [`Source::F32`]; replaces the rounding.
    Fixed {
        multipliers: Param<FixedPoint>,
        double_rounding: bool,
    },
}

/// Values to quantize or requantize.
///
/// Safety contract of [`quantize`]: the source is readable and `dst` writable for `len` values, `row_sums` for as many as there are rows, every
/// parameter is valid for `len` values, `min - zero_point` and `max - zero_point` lie in -511..=511.
#[derive(Clone, Copy)]
pub(crate) struct QuantizeJob {
    pub source: Source,
    pub scaling: Scaling,
    pub rounding: Rounding,
    /// Place of the first value in its slice modulo 2^32, for stochastic rounding.
    pub index: u32,
    pub zero_points: Param<i32>,
    pub min: i32,
    pub max: i32,
    pub dst: *mut u8,
    pub len: usize,
    /// Values of a row, of which there are whole ones; 0 if there are none.
    pub row: usize,
    /// Where the sums of the quantized values of each row go, modulo 2^32.
    pub row_sums: *mut i32,
    /// All are finite reals, and at most 1024 scales in magnitude; the scale is one, within 1e-30..1e30.
    pub near: bool,
    /// How far ahead of the common case's reads memory is asked for, in values.
    pub ahead: usize,
}

/// Quantizes or requantizes. Safety: as [`QuantizeJob`]; the CPU has the instruction set, here and in all look-ups.
pub(crate) fn quantize(isa: Isa) -> unsafe fn(&QuantizeJob) {
    compiled!(isa; fn(job: &QuantizeJob) = quantize_over::<Lanes>)
}

/// # Safety
/// As [`QuantizeJob`]; the CPU has the features of `V`.
#[inline(always)]
unsafe fn quantize_over<V: Lanes>(job: &QuantizeJob) {
    if job.len == 0 {
        return;
    }
    let shared = job.zero_points.step == 0;
    // SAFETY: the job is valid, and the first value of a parameter always readable.
    unsafe {
        match (job.source, job.scaling, job.rounding) {
            (Source::F32(src), Scaling::Divide(scales), Rounding::HalfEven) if shared && scales.step == 0 => {
                let (scale, end) = (scales.get(0), ByteEnd::at(job, 0));
                let (scale, inverse) = (V::splat_f(scale), V::splat_f(1.0 / scale));
                if job.near {
                    convert::<V>(job, &Common::<V, NEAR> { src, ahead: job.ahead, scale, inverse, end });
                } else {
                    convert::<V>(job, &Common::<V, DIVIDE> { src, ahead: job.ahead, scale, inverse, end });
                }
            }
            (Source::F32(src), Scaling::Reciprocal(scales), Rounding::HalfEven)
                if shared && scales.step == 0 =>
            {
                let (scale, end) = (scales.get(0), ByteEnd::at(job, 0));
                let (scale, inverse) = (V::splat_f(scale), V::splat_f(1.0 / scale));
                convert::<V>(job, &Common::<V, MULTIPLY> { src, ahead: job.ahead, scale, inverse, end });
            }
            _ => convert::<V>(job, job),
        }
    }
}

/// What gives one vector of quantized values at a time. A trait and not a closure, because closures are not compiled for
/// the CPU features of the function that they are inlined into.
trait Vectors<V: Lanes> {
    /// # Safety
    /// As [`quantize`]; the vector from `at` lies inside the job.
    unsafe fn at(&self, at: usize) -> V::I;
}

/// [`Common`] divides.
const DIVIDE: u8 = 0;
/// It multiplies by the scale's reciprocal.
const MULTIPLY: u8 = 1;
/// It divides reals that are [`QuantizeJob::near`].
const NEAR: u8 = 2;

/// The common case, in which nothing is left to decide: reals with one scale, rounded half to even.
struct Common<V: Lanes, const HOW: u8> {
    src: *const f32,
    ahead: usize,
    scale: V::F,
    inverse: V::F,
    end: ByteEnd<V>,
}

impl<V: Lanes, const HOW: u8> Vectors<V> for Common<V, HOW> {
    #[inline(always)]
    unsafe fn at(&self, at: usize) -> V::I {
        // SAFETY: the vector from `at` lies inside the source; what is asked for ahead may lie anywhere.
        unsafe {
            V::prefetch(self.src.wrapping_add(at + self.ahead));
            let real = V::load_f(self.src.add(at));
            let end = &self.end;
            let steps = match HOW {
                // None is NaN.
                NEAR => {
                    let steps = V::quotient(real, self.scale, self.inverse);
                    V::min_f(V::max_f(steps, end.low_steps), end.high_steps)
                }
                MULTIPLY => end.clamp(V::mul_f(real, self.inverse)),
                _ => end.clamp(V::div_f(real, self.scale)),
            };
            V::add_i(V::to_i(steps), end.zero)
        }
    }
}

/// Every other job: what is done is decided anew for each vector.
impl<V: Lanes> Vectors<V> for QuantizeJob {
    #[inline(always)]
    unsafe fn at(&self, at: usize) -> V::I {
        // SAFETY: the vector from `at` lies inside the job.
        unsafe { any::<V>(self, at) }
    }
}

/// Runs over the rows of the job. The last few values of each go through a copy of the job on padded buffers.
///
/// # Safety
/// As [`quantize`].
#[inline(always)]
unsafe fn convert<V: Lanes>(job: &QuantizeJob, values: &impl Vectors<V>) {
    let mut at = 0;
    // SAFETY: whole vectors inside the job; the tail reads and writes buffers. There is a sum for each row.
    unsafe {
        for row in 0..job.len / job.row {
            let end = (row + 1) * job.row;
            let mut sums = V::splat_i(0);
            while at + 4 * V::LANES <= end {
                let v = [
                    values.at(at),
                    values.at(at + V::LANES),
                    values.at(at + 2 * V::LANES),
                    values.at(at + 3 * V::LANES),
                ];
                V::store_low_bytes_of_4(v, job.dst.add(at));
                sums = V::add_i(sums, V::add_i(V::add_i(v[0], v[1]), V::add_i(v[2], v[3])));
                at += 4 * V::LANES;
            }
            while at + V::LANES <= end {
                let v = values.at(at);
                V::store_low_bytes(v, job.dst.add(at));
                sums = V::add_i(sums, v);
                at += V::LANES;
            }
            let mut sum = V::total(sums);
            if at < end {
                sum = sum.wrapping_add(tail::<V>(job, at, end));
                at = end;
            }
            *job.row_sums.add(row) = sum;
        }
    }
}

/// The values from `at` to `end`, fewer than a vector holds; returns their sum.
///
/// # Safety
/// As [`quantize`]; `at < end < at + LANES`, of one row.
#[inline(always)]
unsafe fn tail<V: Lanes>(job: &QuantizeJob, at: usize, end: usize) -> i32 {
    let count = end - at;
    let (mut words, mut bytes, mut from) = (Buffer::<i32>::NEW, Buffer::<u8>::NEW, Buffer::<i32>::NEW);
    let (mut floats, mut zeros, mut fixed) =
        (Buffer::<f32>::NEW, Buffer::<i32>::NEW, Buffer::<FixedPoint>::NEW);
    let mut reals = Buffer::<f32>::NEW;
    // SAFETY: `count` values from `at` lie inside the job; buffers hold whole vectors.
    unsafe {
        let source = match job.source {
            Source::F32(src) => Source::F32(reals.fill(src.add(at), count, 0.0)),
            Source::I32(src) => Source::I32(words.fill(src.add(at), count, 0)),
            Source::Bytes { ptr, flip, zero_points } => Source::Bytes {
                ptr: bytes.fill(ptr.add(at), count, 0),
                flip,
                zero_points: from.param(zero_points, at, count, 0),
            },
        };
        let scaling = match job.scaling {
            Scaling::Divide(p) => Scaling::Divide(floats.param(p, at, count, 1.0)),
            Scaling::Reciprocal(p) => Scaling::Reciprocal(floats.param(p, at, count, 1.0)),
            Scaling::Multiply(p) => Scaling::Multiply(floats.param(p, at, count, 1.0)),
            Scaling::Fixed { multipliers, double_rounding } => {
                let pad = FixedPoint { multiplier: 0, shift: 0 };
                Scaling::Fixed { multipliers: fixed.param(multipliers, at, count, pad), double_rounding }
            }
        };
        let zero_points = zeros.param(job.zero_points, at, count, job.min);
        let index = job.index.wrapping_add(at as u32);
        let mut values = Buffer::<i32>::NEW;
        let padded = QuantizeJob { source, scaling, zero_points, index, ..*job };
        V::store_i(any::<V>(&padded, 0), values.as_mut_ptr());
        let mut sum = 0i32;
        for i in 0..count {
            let value = *values.as_mut_ptr().add(i);
            *job.dst.add(at + i) = value as u8;
            sum = sum.wrapping_add(value);
        }
        sum
    }
}

/// One vector of quantized values from `at`, whatever the job.
///
/// # Safety
/// As [`quantize`]; the vector lies inside the job.
#[inline(always)]
unsafe fn any<V: Lanes>(job: &QuantizeJob, at: usize) -> V::I {
    // SAFETY: source and parameters are valid for the vector from `at`.
    unsafe {
        let end = ByteEnd::<V>::at(job, at);
        if let Scaling::Fixed { multipliers, double_rounding } = job.scaling {
            let [multiplier, shift] = fixed_points::<V>(multipliers, at);
            let x = integers::<V>(job.source, at);
            return end.integer(if double_rounding {
                V::scale_double_rounding(x, multiplier, shift)
            } else {
                V::scale_single_rounding(x, multiplier, shift)
            });
        }
        let real = match job.source {
            Source::F32(src) => V::load_f(src.add(at)),
            source => V::to_f(integers::<V>(source, at)),
        };
        let steps = match job.scaling {
            Scaling::Divide(scales) => V::div_f(real, floats::<V>(scales, at)),
            Scaling::Reciprocal(scales) => V::mul_f(real, V::div_f(V::splat_f(1.0), floats::<V>(scales, at))),
            Scaling::Multiply(scales) => V::mul_f(real, floats::<V>(scales, at)),
            Scaling::Fixed { .. } => real,
        };
        end.rounded(steps, job.rounding, job.index.wrapping_add(at as u32))
    }
}

/// The integers of a source.
///
/// # Safety
/// A vector from `at` lies inside the source, which is not of floats.
#[inline(always)]
pub(super) unsafe fn integers<V: Lanes>(source: Source, at: usize) -> V::I {
    // SAFETY: the source is readable for a vector from `at`.
    unsafe {
        match source {
            Source::F32(_) => V::splat_i(0),
            Source::I32(src) => V::load_i(src.add(at)),
            Source::Bytes { ptr, flip, zero_points } => {
                // Flipping the sign bit and taking off its weight extends the sign.
                let flip = V::splat_i(flip.into());
                let value = V::sub_i(V::xor_i(V::load_bytes(ptr.add(at)), flip), flip);
                V::sub_i(value, ints::<V>(zero_points, at))
            }
        }
    }
}

/// A vector of a parameter.
///
/// # Safety
/// The parameter is valid for a vector from `at`.
#[inline(always)]
pub(super) unsafe fn floats<V: Lanes>(param: Param<f32>, at: usize) -> V::F {
    // SAFETY: one value is readable, or a vector from `at` where each has its own.
    unsafe { if param.step == 0 { V::splat_f(*param.ptr) } else { V::load_f(param.ptr.add(at)) } }
}

/// # Safety
/// As [`floats`].
#[inline(always)]
unsafe fn ints<V: Lanes>(param: Param<i32>, at: usize) -> V::I {
    // SAFETY: as [`floats`].
    unsafe { if param.step == 0 { V::splat_i(*param.ptr) } else { V::load_i(param.ptr.add(at)) } }
}

/// Multipliers and shifts.
///
/// # Safety
/// As [`floats`].
#[inline(always)]
unsafe fn fixed_points<V: Lanes>(param: Param<FixedPoint>, at: usize) -> [V::I; 2] {
    let (mut multipliers, mut shifts) = (Buffer::<i32>::NEW, Buffer::<i32>::NEW);
    // SAFETY: as [`floats`]; a buffer holds a vector.
    unsafe {
        if param.step == 0 {
            return [V::splat_i((*param.ptr).multiplier), V::splat_i((*param.ptr).shift)];
        }
        for i in 0..V::LANES {
            let value = *param.ptr.add(at + i);
            *multipliers.as_mut_ptr().add(i) = value.multiplier;
            *shifts.as_mut_ptr().add(i) = value.shift;
        }
        [V::load_i(multipliers.as_mut_ptr()), V::load_i(shifts.as_mut_ptr())]
    }
}

/// What turns steps into quantized values.
struct ByteEnd<V: Lanes> {
    zero: V::I,
    low: V::I,
    high: V::I,
    low_steps: V::F,
    high_steps: V::F,
}

impl<V: Lanes> ByteEnd<V> {
    /// # Safety
    /// The job's parameters are valid for a vector from `at`.
    #[inline(always)]
    unsafe fn at(job: &QuantizeJob, at: usize) -> Self {
        // SAFETY: the zero points are valid for a vector from `at`.
        unsafe {
            let zero = ints::<V>(job.zero_points, at);
            let low = V::sub_i(V::splat_i(job.min), zero);
            let high = V::sub_i(V::splat_i(job.max), zero);
            Self { zero, low, high, low_steps: V::to_f(low), high_steps: V::to_f(high) }
        }
    }

    /// # Safety
    /// The CPU has the features of `V`, here and below.
    #[inline(always)]
    unsafe fn clamp(&self, steps: V::F) -> V::F {
        // SAFETY: the CPU has the features of `V`.
        unsafe { V::min_f(V::max_f(V::zero_nan(steps), self.low_steps), self.high_steps) }
    }

    /// # Safety
    /// As [`ByteEnd::clamp`].
    #[inline(always)]
    unsafe fn integer(&self, steps: V::I) -> V::I {
        // SAFETY: the CPU has the features of `V`.
        unsafe { V::add_i(V::min_i(V::max_i(steps, self.low), self.high), self.zero) }
    }

    /// # Safety
    /// As [`ByteEnd::clamp`].
    #[inline(always)]
    unsafe fn rounded(&self, steps: V::F, rounding: Rounding, index: u32) -> V::I {
        // SAFETY: steps are clamped to at most 511 in magnitude before they are rounded, which is in the range of i16.
        unsafe {
            let x = self.clamp(steps);
            let rounded = match rounding {
                Rounding::HalfEven => V::to_i(x),
                Rounding::HalfAway => with_sign::<V>(half_up::<V>(magnitude::<V>(x)), x),
                Rounding::HalfUp => half_up::<V>(x),
                Rounding::Floor => floor::<V>(x),
                Rounding::Ceil => {
                    let nearest = V::to_i(x);
                    let below = V::xor_i(V::ge_f(V::to_f(nearest), x), V::splat_i(-1));
                    V::sub_i(nearest, below)
                }
                Rounding::Trunc => with_sign::<V>(floor::<V>(magnitude::<V>(x)), x),
                Rounding::Stochastic { seed } => {
                    let low = floor::<V>(x);
                    let draw = uniform::<V>(seed, index);
                    let fraction = V::sub_f(x, V::to_f(low));
                    // draw < fraction, as not draw >= fraction.
                    let up = V::xor_i(V::ge_f(draw, fraction), V::splat_i(-1));
                    V::sub_i(low, up)
                }
            };
            V::add_i(rounded, self.zero)
        }
    }
}
