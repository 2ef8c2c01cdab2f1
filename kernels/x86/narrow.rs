//! What the narrowing of AVX2 and AVX-512 share: both pack i32 to i16, to which the zero point is added, and those to i8. Every step
//! saturates, and what has saturated stays outside of 8 bits.

/// Zero point as i16, and the range as i8.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct ByteRange<I> {
    pub(super) zero_point: I,
    pub(super) min: I,
    pub(super) max: I,
    /// What turns i8 into the bytes of the range: 0, or the sign bit.
    pub(super) flip: I,
}

/// [`Narrow`](super::super::vectors::narrow::Narrow) but for its stores, by the intrinsics of a vector's width. `asks_range` says
/// whether steps that are known to lie in the range of i32 are spared being brought there.
macro_rules! narrow {
    (
        asks_range: $asks_range:literal,
        splat_i16: $splat_i16:ident,
        splat_i8: $splat_i8:ident,
        pack_i32: $pack_i32:ident,
        add_i16: $add_i16:ident,
        pack_i16: $pack_i16:ident,
        max_i8: $max_i8:ident,
        min_i8: $min_i8:ident,
    ) => {
        type ByteRange = ByteRange<Self::I>;
        type Bytes = Self::I;

        #[inline(always)]
        unsafe fn byte_range(zero_point: i32, min: i32, max: i32) -> Self::ByteRange {
            // A range of u8 is taken as one of i8, 128 lower.
            let lower = if min >= 0 { 128 } else { 0 };
            // SAFETY: the caller promises that the CPU has the features, here and below.
            unsafe {
                ByteRange {
                    zero_point: $splat_i16((zero_point - lower) as i16),
                    min: $splat_i8((min - lower) as i8),
                    max: $splat_i8((max - lower) as i8),
                    flip: $splat_i8(lower as i8),
                }
            }
        }

        #[inline(always)]
        unsafe fn narrow(steps: [Self::F; 4], to: &Self::ByteRange, in_range: bool) -> Self::I {
            // SAFETY: as above.
            unsafe {
                let [mut a, mut b, mut c, mut d] = steps;
                if !($asks_range && in_range) {
                    // What is too large for i32 would convert to its smallest value, as what is too small does.
                    let largest = Self::splat_f(32767.0);
                    [a, b] = [Self::min_f(a, largest), Self::min_f(b, largest)];
                    [c, d] = [Self::min_f(c, largest), Self::min_f(d, largest)];
                }
                let [a, b, c, d] = [Self::to_i(a), Self::to_i(b), Self::to_i(c), Self::to_i(d)];
                let low = $add_i16($pack_i32(a, b), to.zero_point);
                let high = $add_i16($pack_i32(c, d), to.zero_point);
                $pack_i16(low, high)
            }
        }

        #[inline(always)]
        unsafe fn limit(bytes: Self::I, to: &Self::ByteRange) -> Self::I {
            // SAFETY: as above.
            unsafe { Self::xor_i($min_i8($max_i8(bytes, to.min), to.max), to.flip) }
        }
    };
}
pub(super) use narrow;
