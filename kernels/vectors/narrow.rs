//! Steps to bytes: what the ends of 8-bit outputs need beside [`Lanes`], because instruction sets pack and saturate in ways of their
//! own.

use super::lanes::Lanes;

/// An instruction set that makes bytes of four vectors of steps at a time. Every method may only be called as those of [`Lanes`].
///
/// # Safety
/// `store_bytes` writes `LANES` bytes at each of the `count` pointers that it is given, and nothing else.
pub(crate) unsafe trait Narrow: Lanes {
    /// What bytes need of a zero point and their range, made once for a tile.
    type ByteRange: Copy;
    /// The bytes of four vectors before they are stored.
    type Bytes: Copy;
    /// All bytes of a tile are narrowed, then limited, then stored, so that a range that is all of its type costs a branch.
    const LIMITS_TOGETHER: bool = false;

    /// The range `min..=max`, of i8 or of u8 values, and the zero point, which lies in the range of that type.
    unsafe fn byte_range(zero_point: i32, min: i32, max: i32) -> Self::ByteRange;
    /// Rounds steps half to even and adds the zero point: bytes for [`Narrow::limit`]. No step is NaN. `in_range` says that the steps
    /// are known to lie in the range of i32.
    unsafe fn narrow(steps: [Self::F; 4], to: &Self::ByteRange, in_range: bool) -> Self::Bytes;
    /// Whether [`Narrow::limit`] does anything.
    #[inline(always)]
    unsafe fn limits(_to: &Self::ByteRange) -> bool {
        true
    }
    /// Brings bytes to the range.
    unsafe fn limit(bytes: Self::Bytes, to: &Self::ByteRange) -> Self::Bytes;
    /// Stores the bytes of the first `count` vectors, each at its pointer; of every `TOGETHER` vectors they are adjacent.
    /// `count` is a multiple of `TOGETHER`, from 1 to 4.
    unsafe fn store_bytes<const TOGETHER: usize>(
        bytes: Self::Bytes,
        to: &Self::ByteRange,
        p: [*mut u8; 4],
        count: usize,
    );
}

/// An instruction set that has nothing better than to clamp steps, round them and store the low bytes, a vector at a time.
pub(crate) trait PlainNarrow: Lanes {}

/// [`Narrow::ByteRange`] of [`PlainNarrow`].
#[derive(Clone, Copy)]
pub(crate) struct PlainRange<V: Lanes> {
    low: V::F,
    high: V::F,
    zero_point: V::I,
}

// SAFETY: `store_low_bytes` writes `LANES` bytes.
unsafe impl<V: PlainNarrow> Narrow for V {
    type ByteRange = PlainRange<V>;
    /// Steps still: they are rounded as they are stored.
    type Bytes = [V::F; 4];

    #[inline(always)]
    unsafe fn byte_range(zero_point: i32, min: i32, max: i32) -> PlainRange<V> {
        // Clamping to integers before rounding gives what clamping after it would, and keeps the conversion to i32 in range.
        // SAFETY: the CPU has the features, here and below.
        unsafe {
            PlainRange {
                low: V::splat_f((min - zero_point) as f32),
                high: V::splat_f((max - zero_point) as f32),
                zero_point: V::splat_i(zero_point),
            }
        }
    }

    #[inline(always)]
    unsafe fn narrow(steps: [V::F; 4], _to: &PlainRange<V>, _in_range: bool) -> [V::F; 4] {
        steps
    }

    #[inline(always)]
    unsafe fn limit([a, b, c, d]: [V::F; 4], to: &PlainRange<V>) -> [V::F; 4] {
        // SAFETY: as above.
        unsafe {
            let [a, b] = [V::max_f(a, to.low), V::max_f(b, to.low)];
            let [c, d] = [V::max_f(c, to.low), V::max_f(d, to.low)];
            [V::min_f(a, to.high), V::min_f(b, to.high), V::min_f(c, to.high), V::min_f(d, to.high)]
        }
    }

    #[inline(always)]
    unsafe fn store_bytes<const TOGETHER: usize>(
        steps: [V::F; 4],
        to: &PlainRange<V>,
        p: [*mut u8; 4],
        count: usize,
    ) {
        for i in 0..count {
            // SAFETY: the caller gives room for `LANES` bytes at each of `count` pointers.
            unsafe { V::store_low_bytes(V::add_i(V::to_i(steps[i]), to.zero_point), p[i]) };
        }
    }
}
