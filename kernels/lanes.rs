//! The vector operations that epilogues and the functions on slices need, so that each is written once for every
//! instruction set.

/// A vector of `LANES` i32 and one of as many f32.
///
/// Implementors are `#[inline(always)]` wrappers of intrinsics; every method may only be called on a CPU that has
/// their feature, inside a function compiled for it. Loads and stores need no alignment.
///
/// # Safety
/// Methods read or write exactly `LANES` elements at the pointers given.
pub(crate) unsafe trait Lanes: Copy {
    const LANES: usize;
    /// Vector registers.
    const REGISTERS: usize;
    type I: Copy;
    type F: Copy;

    unsafe fn load_i(p: *const i32) -> Self::I;
    unsafe fn store_i(v: Self::I, p: *mut i32);
    unsafe fn splat_i(x: i32) -> Self::I;
    unsafe fn add_i(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn sub_i(a: Self::I, b: Self::I) -> Self::I;
    /// Low 32 bits of the product.
    unsafe fn mul_i(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn min_i(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn max_i(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn and_i(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn xor_i(a: Self::I, b: Self::I) -> Self::I;
    /// Shifts right by `N` in 1..=31, zeros from the left.
    unsafe fn shift_right<const N: i32>(v: Self::I) -> Self::I;
    /// Loads `LANES` bytes, each an u8 value.
    unsafe fn load_bytes(p: *const u8) -> Self::I;
    /// Stores the low byte of each lane: `LANES` bytes.
    unsafe fn store_low_bytes(v: Self::I, p: *mut u8);
    /// Stores the low byte of each lane of four vectors: `4 * LANES` bytes.
    #[inline(always)]
    unsafe fn store_low_bytes_of_4(v: [Self::I; 4], p: *mut u8) {
        // SAFETY: the caller's.
        unsafe {
            Self::store_low_bytes(v[0], p);
            Self::store_low_bytes(v[1], p.add(Self::LANES));
            Self::store_low_bytes(v[2], p.add(2 * Self::LANES));
            Self::store_low_bytes(v[3], p.add(3 * Self::LANES));
        }
    }

    /// Where row `row` of a tile begins, `stride` elements after the row at `before`; row 0 at `first`. Instruction sets choose
    /// which of these they reckon from.
    #[inline(always)]
    fn row<T>(first: *mut T, _before: *mut T, row: usize, stride: usize) -> *mut T {
        first.wrapping_add(row * stride)
    }
    /// Asks for a cache line that will be read soon; any address will do.
    unsafe fn prefetch(p: *const f32);
    /// What 8-bit outputs need of a zero point and their range, made once for a tile.
    type ByteRange: Copy;
    /// The range `min..=max`, of i8 or of u8 values, and the zero point in steps of it.
    unsafe fn byte_range(zero_point: i32, min: i32, max: i32) -> Self::ByteRange;
    /// The bytes of four vectors before they are stored.
    type Bytes: Copy;
    /// All bytes of a tile are narrowed, then limited, then stored, so that a range that is all of its type costs a branch.
    const LIMITS_TOGETHER: bool = false;
    /// Rounds steps half to even and adds the zero point: bytes for [`Lanes::limit`]. `in_range` says that the steps are known to
    /// lie in the range of i32.
    unsafe fn narrow(steps: [Self::F; 4], to: &Self::ByteRange, in_range: bool) -> Self::Bytes;
    /// Whether [`Lanes::limit`] does anything.
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
    unsafe fn load_f(p: *const f32) -> Self::F;
    unsafe fn store_f(v: Self::F, p: *mut f32);
    unsafe fn splat_f(x: f32) -> Self::F;
    unsafe fn add_f(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub_f(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul_f(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div_f(a: Self::F, b: Self::F) -> Self::F;
    /// `b` where `a` is NaN.
    unsafe fn min_f(a: Self::F, b: Self::F) -> Self::F;
    /// `b` where `a` is NaN.
    unsafe fn max_f(a: Self::F, b: Self::F) -> Self::F;
    /// Whether every lane is below that of `bound`; instruction sets that have no use for the answer say no.
    #[inline(always)]
    unsafe fn all_below(_v: Self::F, _bound: Self::F) -> bool {
        false
    }
    /// -1 where a >= b, 0 elsewhere and where either is NaN.
    unsafe fn ge_f(a: Self::F, b: Self::F) -> Self::I;
    /// 0 in place of NaN.
    unsafe fn zero_nan(v: Self::F) -> Self::F;
    /// The bit patterns.
    unsafe fn bits(v: Self::F) -> Self::I;
    /// The floats of these bit patterns.
    unsafe fn from_bits(v: Self::I) -> Self::F;
    /// Rounds to nearest, ties to even.
    unsafe fn to_f(v: Self::I) -> Self::F;
    /// Rounds to nearest, ties to even; the argument lies in the range of i16.
    unsafe fn to_i(v: Self::F) -> Self::I;

    /// `(x * m + 2^(30 - e)) >> (31 - e)`, saturated to i32; `e` in -31..=30.
    unsafe fn scale_single_rounding(x: Self::I, m: Self::I, e: Self::I) -> Self::I;
    /// gemmlowp: saturating shift left by max(e, 0), saturating rounding doubling high multiply by `m`, rounding
    /// divide by 2^max(-e, 0) with ties away from zero; `e` in -31..=30.
    unsafe fn scale_double_rounding(x: Self::I, m: Self::I, e: Self::I) -> Self::I;
}

/// [`Lanes::ByteRange`] of instruction sets that narrow a vector at a time.
#[derive(Clone, Copy)]
#[allow(dead_code, reason = "not every target has such an instruction set")]
pub(crate) struct PlainRange<V: Lanes> {
    low: V::F,
    high: V::F,
    zero_point: V::I,
}

#[allow(dead_code, reason = "as above")]
impl<V: Lanes> PlainRange<V> {
    /// # Safety
    /// The CPU has the features of `V`.
    #[inline(always)]
    pub unsafe fn new(zero_point: i32, min: i32, max: i32) -> Self {
        // Clamping to integers before rounding gives what clamping after it would, and keeps the conversion to i32 in range.
        // SAFETY: the caller's.
        unsafe {
            Self {
                low: V::splat_f((min - zero_point) as f32),
                high: V::splat_f((max - zero_point) as f32),
                zero_point: V::splat_i(zero_point),
            }
        }
    }

    /// Clamps steps.
    ///
    /// # Safety
    /// The CPU has the features of `V`.
    #[inline(always)]
    pub unsafe fn limit(&self, steps: [V::F; 4]) -> [V::F; 4] {
        // SAFETY: the caller's.
        unsafe {
            let [a, b, c, d] = steps;
            let [a, b] = [V::max_f(a, self.low), V::max_f(b, self.low)];
            let [c, d] = [V::max_f(c, self.low), V::max_f(d, self.low)];
            [V::min_f(a, self.high), V::min_f(b, self.high), V::min_f(c, self.high), V::min_f(d, self.high)]
        }
    }

    /// Rounds clamped steps and stores them.
    ///
    /// # Safety
    /// As [`Lanes::store_bytes`].
    #[inline(always)]
    pub unsafe fn store(&self, steps: [V::F; 4], p: [*mut u8; 4], count: usize) {
        for i in 0..count {
            // SAFETY: the caller's.
            unsafe { V::store_low_bytes(V::add_i(V::to_i(steps[i]), self.zero_point), p[i]) };
        }
    }
}
