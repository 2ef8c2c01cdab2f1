//! Functions on contiguous values: quantize, requantize, dequantize, and the range of reals. Written once over [`Lanes`],
//! looked up by instruction set.
//!
//! A real becomes a byte in four moves that every instruction set has: scale it to steps, put 0 in place of NaN, clamp to
//! the integers that `min - zero_point` and `max - zero_point` are, round, add the zero point. Clamping to integers before
//! rounding gives what clamping after it would, and keeps the conversion to i32 in range whatever the input. All modes of
//! rounding come from the one that converts (half to even) by comparing its result with what was rounded. Four vectors are
//! packed into bytes at a time; memory is the limit: 5 bytes for each value, which one vector of 8 takes some ten cycles
//! to move and no more than six to compute.

use core::mem::MaybeUninit;

use super::{FixedPoint, Isa, Param, isa::compiled, lanes::Lanes};

/// How a number of steps becomes an integer.
///
/// ```
/// use i8gemm::quant::{QParams, Quantizer, Rounding};
/// let steps = QParams { scale: 1.0, zero_point: 0 };
/// let round = |rounding, x: f32| {
///     let mut q = [0i8];
///     Quantizer::<i8>::per_tensor(steps).rounding(rounding).quantize(&[x], &mut q).map(|()| q[0])
/// };
/// assert_eq!((round(Rounding::HalfEven, 2.5)?, round(Rounding::HalfEven, -2.5)?), (2, -2));
/// assert_eq!((round(Rounding::HalfAway, 2.5)?, round(Rounding::HalfAway, -2.5)?), (3, -3));
/// assert_eq!((round(Rounding::HalfUp, 2.5)?, round(Rounding::HalfUp, -2.5)?), (3, -2));
/// assert_eq!((round(Rounding::Floor, 2.5)?, round(Rounding::Floor, -2.5)?), (2, -3));
/// assert_eq!((round(Rounding::Ceil, 2.5)?, round(Rounding::Ceil, -2.5)?), (3, -2));
/// assert_eq!((round(Rounding::Trunc, 2.5)?, round(Rounding::Trunc, -2.5)?), (2, -2));
/// assert!([2, 3].contains(&round(Rounding::Stochastic { seed: 1 }, 2.5)?));
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Rounding {
    /// To nearest, ties to even: ONNX, PyTorch.
    #[default]
    HalfEven,
    /// To nearest, ties away from zero: C's `round`.
    HalfAway,
    /// To nearest, ties towards plus infinity: `floor(x + 0.5)`.
    HalfUp,
    /// Towards minus infinity.
    Floor,
    /// Towards plus infinity.
    Ceil,
    /// Towards zero.
    Trunc,
    /// Up with the probability of the fraction, down otherwise: right on average. Value `i` of a slice is decided by a hash
    /// of the seed and `i` (modulo 2^32), so that the same seed gives the same bits on every CPU. The probability is a
    /// multiple of 2^-24.
    Stochastic {
        /// Another seed, another draw.
        seed: u64,
    },
}

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
/// Safety contract of [`quantize`]: the source is readable and `dst` writable for `len` values, every parameter
/// is valid for `len` values, `min - zero_point` and `max - zero_point` lie in -511..=511.
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
    /// How far ahead of the common case's reads memory is asked for, in values.
    pub ahead: usize,
}

/// How far ahead of a stream of reads memory is asked for, in values: the processor's own prefetching stops at pages, and
/// a loop that computes fills its window before it has enough lines in flight.
pub(crate) const AHEAD: usize = 512;

/// Bytes to dequantize: `(value - zero_points) * scales`, values as in [`Source::Bytes`].
///
/// Safety contract of [`dequantize`]: `src` is readable, `dst` writable and every parameter valid for `len` values.
#[derive(Clone, Copy)]
pub(crate) struct DequantizeJob {
    pub src: *const u8,
    pub flip: u8,
    pub scales: Param<f32>,
    pub zero_points: Param<i32>,
    pub dst: *mut f32,
    pub len: usize,
}

/// Smallest and largest of some reals, and the largest bit pattern of a magnitude, which is above [`Extent::FINITE`] if one
/// of them is infinite or NaN; the other two mean nothing then. Of no reals: `max < min`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Extent {
    pub min: f32,
    pub max: f32,
    pub magnitude: i32,
}

impl Extent {
    pub const FINITE: i32 = f32::MAX.to_bits() as i32;
    pub const EMPTY: Self = Self { min: f32::INFINITY, max: f32::NEG_INFINITY, magnitude: 0 };

    /// Of both. Plain comparisons: where one is NaN the magnitude says so.
    pub fn join(self, other: Self) -> Self {
        Self {
            min: if other.min < self.min { other.min } else { self.min },
            max: if other.max > self.max { other.max } else { self.max },
            magnitude: self.magnitude.max(other.magnitude),
        }
    }
}

/// Quantizes or requantizes, and returns the sum of the quantized values, modulo 2^32. Safety: as [`QuantizeJob`]; the CPU has the
/// instruction set, here and in all look-ups.
pub(crate) fn quantize(isa: Isa) -> unsafe fn(&QuantizeJob) -> i32 {
    compiled!(isa; fn(job: &QuantizeJob) -> i32 = quantize_over::<Lanes>)
}

/// Safety: as [`DequantizeJob`].
pub(crate) fn dequantize(isa: Isa) -> unsafe fn(&DequantizeJob) {
    compiled!(isa; fn(job: &DequantizeJob) = dequantize_over::<Lanes>)
}

/// The [`Extent`] of so many reals. Safety: they are readable.
pub(crate) fn extent(isa: Isa) -> unsafe fn(*const f32, usize) -> Extent {
    compiled!(isa; fn(src: *const f32, len: usize) -> Extent = extent_over::<Lanes>)
}

/// Lanes of the widest vector.
const MAX_LANES: usize = 16;

/// # Safety
/// As [`QuantizeJob`]; the CPU has the features of `V`.
#[inline(always)]
unsafe fn quantize_over<V: Lanes>(job: &QuantizeJob) -> i32 {
    let shared = job.zero_points.step == 0;
    // SAFETY: the caller's.
    unsafe {
        match (job.source, job.scaling, job.rounding) {
            (Source::F32(src), Scaling::Divide(scales), Rounding::HalfEven) if shared && scales.step == 0 => {
                let divisor = V::splat_f(scales.get(0));
                convert::<V>(
                    job,
                    &Common::<V, false> { src, ahead: job.ahead, scale: divisor, end: ByteEnd::at(job, 0) },
                )
            }
            (Source::F32(src), Scaling::Reciprocal(scales), Rounding::HalfEven)
                if shared && scales.step == 0 =>
            {
                let factor = V::splat_f(1.0 / scales.get(0));
                convert::<V>(
                    job,
                    &Common::<V, true> { src, ahead: job.ahead, scale: factor, end: ByteEnd::at(job, 0) },
                )
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

/// The common case, in which nothing is left to decide: reals with one scale, rounded half to even.
struct Common<V: Lanes, const MULTIPLY: bool> {
    src: *const f32,
    ahead: usize,
    scale: V::F,
    end: ByteEnd<V>,
}

impl<V: Lanes, const MULTIPLY: bool> Vectors<V> for Common<V, MULTIPLY> {
    #[inline(always)]
    unsafe fn at(&self, at: usize) -> V::I {
        // SAFETY: the caller's.
        unsafe {
            V::prefetch(self.src.wrapping_add(at + self.ahead));
            let real = V::load_f(self.src.add(at));
            let steps = if MULTIPLY { V::mul_f(real, self.scale) } else { V::div_f(real, self.scale) };
            let end = &self.end;
            V::add_i(V::to_i(end.clamp(steps)), end.zero)
        }
    }
}

/// Every other case.
impl<V: Lanes> Vectors<V> for QuantizeJob {
    #[inline(always)]
    unsafe fn at(&self, at: usize) -> V::I {
        // SAFETY: the caller's.
        unsafe { any::<V>(self, at) }
    }
}

/// Runs over the job. The last few values go through a copy of the job on padded buffers.
///
/// # Safety
/// As [`quantize`].
#[inline(always)]
unsafe fn convert<V: Lanes>(job: &QuantizeJob, values: &impl Vectors<V>) -> i32 {
    let mut at = 0;
    // SAFETY: whole vectors inside the job; the tail reads and writes buffers.
    unsafe {
        let mut sums = V::splat_i(0);
        while at + 4 * V::LANES <= job.len {
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
        while at + V::LANES <= job.len {
            let v = values.at(at);
            V::store_low_bytes(v, job.dst.add(at));
            sums = V::add_i(sums, v);
            at += V::LANES;
        }
        let mut lanes = Buffer::<i32>::NEW;
        V::store_i(sums, lanes.as_mut_ptr());
        let mut sum = if at < job.len { tail::<V>(job, at) } else { 0 };
        for i in 0..V::LANES {
            sum = sum.wrapping_add(*lanes.as_mut_ptr().add(i));
        }
        sum
    }
}

/// The values from `at`, fewer than a vector holds; returns their sum.
///
/// # Safety
/// As [`quantize`]; `at < job.len < at + LANES`.
#[inline(always)]
unsafe fn tail<V: Lanes>(job: &QuantizeJob, at: usize) -> i32 {
    let count = job.len - at;
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
    // SAFETY: the caller's.
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
unsafe fn integers<V: Lanes>(source: Source, at: usize) -> V::I {
    // SAFETY: the caller's.
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
unsafe fn floats<V: Lanes>(param: Param<f32>, at: usize) -> V::F {
    // SAFETY: the caller's.
    unsafe { if param.step == 0 { V::splat_f(*param.ptr) } else { V::load_f(param.ptr.add(at)) } }
}

/// # Safety
/// As [`floats`].
#[inline(always)]
unsafe fn ints<V: Lanes>(param: Param<i32>, at: usize) -> V::I {
    // SAFETY: the caller's.
    unsafe { if param.step == 0 { V::splat_i(*param.ptr) } else { V::load_i(param.ptr.add(at)) } }
}

/// Multipliers and shifts.
///
/// # Safety
/// As [`floats`].
#[inline(always)]
unsafe fn fixed_points<V: Lanes>(param: Param<FixedPoint>, at: usize) -> [V::I; 2] {
    let (mut multipliers, mut shifts) = (Buffer::<i32>::NEW, Buffer::<i32>::NEW);
    // SAFETY: the caller's; a buffer holds a vector.
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
        // SAFETY: the caller's.
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
        // SAFETY: the caller's.
        unsafe { V::min_f(V::max_f(V::zero_nan(steps), self.low_steps), self.high_steps) }
    }

    /// # Safety
    /// As [`ByteEnd::clamp`].
    #[inline(always)]
    unsafe fn integer(&self, steps: V::I) -> V::I {
        // SAFETY: the caller's.
        unsafe { V::add_i(V::min_i(V::max_i(steps, self.low), self.high), self.zero) }
    }

    /// # Safety
    /// As [`ByteEnd::clamp`].
    #[inline(always)]
    unsafe fn rounded(&self, steps: V::F, rounding: Rounding, index: u32) -> V::I {
        // SAFETY: the caller's.
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

/// # Safety
/// The CPU has the features of `V`; values lie in the range of i16.
#[inline(always)]
unsafe fn floor<V: Lanes>(x: V::F) -> V::I {
    // SAFETY: the caller's.
    unsafe {
        let nearest = V::to_i(x);
        V::add_i(nearest, V::xor_i(V::ge_f(x, V::to_f(nearest)), V::splat_i(-1)))
    }
}

/// The floor, plus one where the fraction is a half or more; the subtraction is exact where that is decided.
///
/// # Safety
/// As [`floor`].
#[inline(always)]
unsafe fn half_up<V: Lanes>(x: V::F) -> V::I {
    // SAFETY: the caller's.
    unsafe {
        let low = floor::<V>(x);
        V::sub_i(low, V::ge_f(V::sub_f(x, V::to_f(low)), V::splat_f(0.5)))
    }
}

/// # Safety
/// The CPU has the features of `V`.
#[inline(always)]
unsafe fn magnitude<V: Lanes>(x: V::F) -> V::F {
    // SAFETY: the caller's.
    unsafe { V::from_bits(V::and_i(V::bits(x), V::splat_i(i32::MAX))) }
}

/// The integers with the sign of `x`.
///
/// # Safety
/// The CPU has the features of `V`.
#[inline(always)]
unsafe fn with_sign<V: Lanes>(v: V::I, x: V::F) -> V::I {
    // SAFETY: the caller's.
    unsafe {
        // -1 where x < 0: negation is (v ^ -1) - -1.
        let sign = V::xor_i(V::ge_f(x, V::splat_f(0.0)), V::splat_i(-1));
        V::sub_i(V::xor_i(v, sign), sign)
    }
}

/// The two words of the key of stochastic rounding: SplitMix64 of the seed.
pub(crate) fn random_key(seed: u64) -> [u32; 2] {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    [z as u32, (z >> 32) as u32]
}

/// A number in 0..1, a multiple of 2^-24, for each place from `index`: two rounds of C. Wellons' 32-bit integer hash
/// "lowbias32", a word of the key before each.
///
/// # Safety
/// The CPU has the features of `V`.
#[inline(always)]
unsafe fn uniform<V: Lanes>(seed: u64, index: u32) -> V::F {
    const PLACES: [i32; MAX_LANES] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    // SAFETY: the caller's; no vector has more lanes than PLACES.
    unsafe {
        let mut x = V::add_i(V::load_i(PLACES.as_ptr()), V::splat_i(index as i32));
        for word in random_key(seed) {
            x = V::xor_i(x, V::splat_i(word as i32));
            x = V::xor_i(x, V::shift_right::<16>(x));
            x = V::mul_i(x, V::splat_i(0x7feb_352d));
            x = V::xor_i(x, V::shift_right::<15>(x));
            x = V::mul_i(x, V::splat_i(0x846c_a68b_u32 as i32));
            x = V::xor_i(x, V::shift_right::<16>(x));
        }
        V::mul_f(V::to_f(V::shift_right::<8>(x)), V::splat_f(1.0 / (1 << 24) as f32))
    }
}

/// # Safety
/// As [`DequantizeJob`]; the CPU has the features of `V`.
#[inline(always)]
unsafe fn dequantize_over<V: Lanes>(job: &DequantizeJob) {
    // SAFETY: whole vectors inside the job; the tail reads and writes buffers.
    unsafe {
        let mut at = 0;
        while at + V::LANES <= job.len {
            V::store_f(real::<V>(job, at), job.dst.add(at));
            at += V::LANES;
        }
        if at < job.len {
            let count = job.len - at;
            let (mut bytes, mut reals) = (Buffer::<u8>::NEW, Buffer::<f32>::NEW);
            let (mut scales, mut zeros) = (Buffer::<f32>::NEW, Buffer::<i32>::NEW);
            let padded = DequantizeJob {
                src: bytes.fill(job.src.add(at), count, 0),
                scales: scales.param(job.scales, at, count, 1.0),
                zero_points: zeros.param(job.zero_points, at, count, 0),
                ..*job
            };
            V::store_f(real::<V>(&padded, 0), reals.as_mut_ptr());
            core::ptr::copy_nonoverlapping(reals.as_mut_ptr(), job.dst.add(at), count);
        }
    }
}

/// # Safety
/// As [`dequantize`]; a vector from `at` lies inside the job.
#[inline(always)]
unsafe fn real<V: Lanes>(job: &DequantizeJob, at: usize) -> V::F {
    let source = Source::Bytes { ptr: job.src, flip: job.flip, zero_points: job.zero_points };
    // SAFETY: the caller's.
    unsafe { V::mul_f(V::to_f(integers::<V>(source, at)), floats::<V>(job.scales, at)) }
}

/// # Safety
/// `len` values at `src` are readable; the CPU has the features of `V`.
#[inline(always)]
unsafe fn extent_over<V: Lanes>(src: *const f32, len: usize) -> Extent {
    let mut at = 0;
    let mut result = Extent::EMPTY;
    // SAFETY: the caller's.
    unsafe {
        if len >= V::LANES {
            // Four chains: the latency of a minimum is several vectors long.
            let mut chains = [Running::<V>::new(V::load_f(src)); 4];
            while at + 4 * V::LANES <= len {
                V::prefetch(src.wrapping_add(at + AHEAD));
                V::prefetch(src.wrapping_add(at + AHEAD + 2 * V::LANES));
                chains[0].take(V::load_f(src.add(at)));
                chains[1].take(V::load_f(src.add(at + V::LANES)));
                chains[2].take(V::load_f(src.add(at + 2 * V::LANES)));
                chains[3].take(V::load_f(src.add(at + 3 * V::LANES)));
                at += 4 * V::LANES;
            }
            while at + V::LANES <= len {
                chains[0].take(V::load_f(src.add(at)));
                at += V::LANES;
            }
            let [a, b, c, d] = chains;
            result = a.join(b).join(c.join(d)).extent();
        }
        while at < len {
            let x = *src.add(at);
            result = result.join(Extent { min: x, max: x, magnitude: x.to_bits() as i32 & i32::MAX });
            at += 1;
        }
    }
    // No instruction set promises which zero a minimum of two is: both become +0.
    Extent { min: result.min + 0.0, max: result.max + 0.0, ..result }
}

/// The [`Extent`] of each lane.
#[derive(Clone, Copy)]
struct Running<V: Lanes> {
    min: V::F,
    max: V::F,
    magnitude: V::I,
}

impl<V: Lanes> Running<V> {
    /// # Safety
    /// The CPU has the features of `V`, here and below.
    #[inline(always)]
    unsafe fn new(x: V::F) -> Self {
        // SAFETY: the caller's.
        Self { min: x, max: x, magnitude: unsafe { V::splat_i(0) } }
    }

    /// # Safety
    /// As [`Running::new`].
    #[inline(always)]
    unsafe fn take(&mut self, x: V::F) {
        // SAFETY: the caller's.
        unsafe {
            self.min = V::min_f(self.min, x);
            self.max = V::max_f(self.max, x);
            self.magnitude = V::max_i(self.magnitude, V::and_i(V::bits(x), V::splat_i(i32::MAX)));
        }
    }

    /// # Safety
    /// As [`Running::new`].
    #[inline(always)]
    unsafe fn join(self, other: Self) -> Self {
        // SAFETY: the caller's.
        unsafe {
            Self {
                min: V::min_f(self.min, other.min),
                max: V::max_f(self.max, other.max),
                magnitude: V::max_i(self.magnitude, other.magnitude),
            }
        }
    }

    /// # Safety
    /// As [`Running::new`].
    #[inline(always)]
    unsafe fn extent(self) -> Extent {
        let (mut min, mut max) = (Buffer::<f32>::NEW, Buffer::<f32>::NEW);
        let mut magnitude = Buffer::<i32>::NEW;
        let mut result = Extent::EMPTY;
        // SAFETY: a buffer holds a vector, of which each lane is read.
        unsafe {
            V::store_f(self.min, min.as_mut_ptr());
            V::store_f(self.max, max.as_mut_ptr());
            V::store_i(self.magnitude, magnitude.as_mut_ptr());
            for i in 0..V::LANES {
                result = result.join(Extent {
                    min: *min.as_mut_ptr().add(i),
                    max: *max.as_mut_ptr().add(i),
                    magnitude: *magnitude.as_mut_ptr().add(i),
                });
            }
        }
        result
    }
}

/// Room for a vector of any kernel.
#[repr(C, align(64))]
pub(super) struct Buffer<T>([MaybeUninit<T>; MAX_LANES]);

impl<T: Copy> Buffer<T> {
    pub const NEW: Self = Self([const { MaybeUninit::uninit() }; MAX_LANES]);

    #[inline(always)]
    pub fn as_mut_ptr(&mut self) -> *mut T {
        self.0.as_mut_ptr().cast()
    }

    /// Copies `count` values, and `pad` behind them.
    ///
    /// # Safety
    /// `count <= MAX_LANES` values at `from` are readable.
    #[inline(always)]
    pub unsafe fn fill(&mut self, from: *const T, count: usize, pad: T) -> *const T {
        self.0 = [MaybeUninit::new(pad); MAX_LANES];
        // SAFETY: the caller's.
        unsafe { core::ptr::copy_nonoverlapping(from, self.as_mut_ptr(), count) };
        self.as_mut_ptr()
    }

    /// The parameter of `count` values from `at`, padded; one value for all stays what it is.
    ///
    /// # Safety
    /// The parameter is valid for them; `count <= MAX_LANES`.
    #[inline(always)]
    unsafe fn param(&mut self, param: Param<T>, at: usize, count: usize, pad: T) -> Param<T> {
        if param.step == 0 {
            return param;
        }
        // SAFETY: the caller's.
        Param { ptr: unsafe { self.fill(param.ptr.add(at), count, pad) }, step: 1 }
    }
}
