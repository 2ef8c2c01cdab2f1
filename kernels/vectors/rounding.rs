//! Ways of rounding, all made from the one of the conversion to integers: half to even.

use super::{buffer::MAX_LANES, lanes::Lanes};

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
#[non_exhaustive]
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

/// # Safety
/// The CPU has the features of `V`; values lie in the range of i16.
#[inline(always)]
pub(super) unsafe fn floor<V: Lanes>(x: V::F) -> V::I {
    // SAFETY: values lie in the range of i16, as [`Lanes::to_i`] asks.
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
pub(super) unsafe fn half_up<V: Lanes>(x: V::F) -> V::I {
    // SAFETY: as [`floor`].
    unsafe {
        let low = floor::<V>(x);
        V::sub_i(low, V::ge_f(V::sub_f(x, V::to_f(low)), V::splat_f(0.5)))
    }
}

/// # Safety
/// The CPU has the features of `V`.
#[inline(always)]
pub(super) unsafe fn magnitude<V: Lanes>(x: V::F) -> V::F {
    // SAFETY: the CPU has the features of `V`.
    unsafe { V::from_bits(V::and_i(V::bits(x), V::splat_i(i32::MAX))) }
}

/// The integers with the sign of `x`.
///
/// # Safety
/// The CPU has the features of `V`.
#[inline(always)]
pub(super) unsafe fn with_sign<V: Lanes>(v: V::I, x: V::F) -> V::I {
    // SAFETY: the CPU has the features of `V`.
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
pub(super) unsafe fn uniform<V: Lanes>(seed: u64, index: u32) -> V::F {
    const PLACES: [i32; MAX_LANES] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    // SAFETY: no vector has more lanes than PLACES, and the CPU has the features of `V`.
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
