//! The arithmetic of vectors that epilogues and the functions on slices need, so that each is written once for every
//! instruction set.

/// A vector of `LANES` i32 and one of as many f32.
///
/// Implementors are tables of intrinsics ([`methods`]); every method may only be called on a CPU that has their features, inside a
/// function compiled for them. Loads and stores need no alignment.
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
        // SAFETY: the caller gives room for four vectors of bytes, one behind the other.
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
    unsafe fn load_f(p: *const f32) -> Self::F;
    unsafe fn store_f(v: Self::F, p: *mut f32);
    unsafe fn splat_f(x: f32) -> Self::F;
    unsafe fn add_f(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub_f(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul_f(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div_f(a: Self::F, b: Self::F) -> Self::F;
    /// `a / b` as division rounds it, where `a` is finite and at most 1024 `b`, `b` within 1e-30..1e30, and `inverse` is `1 / b`, rounded; where
    /// the quotient is below 1/4 in magnitude, another that is below 1/2.
    ///
    /// Instruction sets that fuse multiplications and additions need no division for it. A product by the inverse is within two units of
    /// the quotient's last place. What it lacks, a remainder divided, makes it one of the two numbers that the quotient lies between; the
    /// remainder is exact then, and by Markstein's theorem (1990) what it lacks now makes it the quotient rounded.
    #[inline(always)]
    unsafe fn quotient(a: Self::F, b: Self::F, _inverse: Self::F) -> Self::F {
        // SAFETY: the caller's.
        unsafe { Self::div_f(a, b) }
    }
    /// The sum of all lanes, modulo 2^32.
    unsafe fn total(v: Self::I) -> i32;
    /// `b` where `a` is a quiet NaN; anything where `b` is NaN, and either zero where they are zeros of both signs.
    unsafe fn min_f(a: Self::F, b: Self::F) -> Self::F;
    /// As [`Lanes::min_f`].
    unsafe fn max_f(a: Self::F, b: Self::F) -> Self::F;
    /// Whether every lane is below that of `bound`, which NaN is not; instruction sets that have no use for the answer say no.
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

    /// `(x * m + 2^(30 - e)) >> (31 - e)`, saturated to i32; `m >= 0`, `e` in -31..=30.
    unsafe fn scale_single_rounding(x: Self::I, m: Self::I, e: Self::I) -> Self::I;
    /// gemmlowp: saturating shift left by max(e, 0), saturating rounding doubling high multiply by `m`, rounding
    /// divide by 2^max(-e, 0) with ties away from zero; `m >= 0`, `e` in -31..=30.
    unsafe fn scale_double_rounding(x: Self::I, m: Self::I, e: Self::I) -> Self::I;
}

/// A table of an instruction set's methods that are one expression each. All are inlined always: a function that is not would be
/// compiled without the features, every intrinsic in it a call. So would a closure: there is none in a table.
macro_rules! methods {
    ($($name:ident $(<const $n:ident: $number:ty>)? ($($argument:ident: $type:ty),*) $(-> $result:ty)? = $body:expr;)*) => {
        $(
            #[inline(always)]
            #[allow(unused_unsafe, reason = "some are arithmetic that is safe on every CPU")]
            unsafe fn $name $(<const $n: $number>)? ($($argument: $type),*) $(-> $result)? {
                // SAFETY: the caller promises that the CPU has the features, and memory for a vector at each pointer.
                unsafe { $body }
            }
        )*
    };
}
pub(crate) use methods;

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::{
        super::super::{KERNELS, isa::compiled},
        *,
    };
    use quickcheck::quickcheck;

    const MAX_LANES: usize = 16;

    /// # Safety
    /// The CPU has the features of `V`.
    #[inline(always)]
    unsafe fn quotients<V: Lanes>(a: &[f32; MAX_LANES], b: f32) -> [f32; MAX_LANES] {
        let mut quotients = [0.0; MAX_LANES];
        // SAFETY: the caller's; the array is whole vectors.
        unsafe {
            for at in (0..MAX_LANES).step_by(V::LANES) {
                let quotient = V::quotient(V::load_f(a[at..].as_ptr()), V::splat_f(b), V::splat_f(1.0 / b));
                V::store_f(quotient, quotients[at..].as_mut_ptr());
            }
        }
        quotients
    }

    fn check(a: &[f32; MAX_LANES], b: f32) {
        for isa in KERNELS.iter().filter(|kernel| (kernel.is_available)()).map(|kernel| kernel.isa) {
            // SAFETY: the CPU has the instruction set.
            let quotients = unsafe {
                compiled!(
                    isa; fn(a: &[f32; MAX_LANES], b: f32) -> [f32; MAX_LANES] = quotients::<Lanes>
                )(a, b)
            };
            for (&a, quotient) in a.iter().zip(quotients) {
                let near_zero = (a / b).abs() < 0.25 && quotient.abs() < 0.5;
                assert!(
                    near_zero || quotient.to_bits() == (a / b).to_bits(),
                    "{isa:?}: {a:e} / {b:e} = {quotient:e}"
                );
            }
        }
    }

    quickcheck! {
        /// Quotients anywhere, and those that lie as near as can be to where rounding turns: halfway between two numbers, of which one
        /// is halfway between two integers.
        fn quotients_are_those_of_division(divisors: Vec<(u32, i32)>, steps: Vec<(u16, u32)>) -> bool {
            for (mantissa, exponent) in divisors {
                let b = f32::from_bits(0x3f80_0000 | mantissa & 0x7f_ffff) * 2f32.powi(exponent.rem_euclid(199) - 99);
                for &(step, anywhere) in &steps {
                    let half = f32::from(step % 1024) + 0.5;
                    let ulp = f64::from(half.next_up() - half);
                    let between = [-0.5, 0.0, 0.5].map(|part| (f64::from(b) * (f64::from(half) + part * ulp)) as f32);
                    let mut a = [0.0; MAX_LANES];
                    for (i, x) in between.into_iter().enumerate() {
                        a[4 * i..][..4].copy_from_slice(&[x, -x, x.next_up(), x.next_down()]);
                    }
                    let fraction = (f64::from(anywhere) / f64::from(u32::MAX)) as f32;
                    a[12..].copy_from_slice(&[1024.0, 1.0, 1e-3, 1e-20].map(|range| b * range * fraction));
                    check(&a, b);
                }
            }
            true
        }
    }
}
