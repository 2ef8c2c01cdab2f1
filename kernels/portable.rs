//! Portable kernel: any CPU that Rust compiles for, no intrinsics.
//!
//! - Instruction: whatever the compiler makes of an i32 multiply-add; four columns are one step of the inner loop,
//!   so a target with vectors of four i32 gets one.
//! - Tile: 4 rows x 4 columns, 16 sums; targets with few registers spill some and stay correct.
//! - `lhs`: rows of i8, read in place. `rhs`: panels of 4 columns, kr = 1: `value(k, n)` at
//!   `(n / 4) * K * 4 + k * 4 + n % 4`.
//! - Ceiling: one multiply-add for each product.
//! - Exact: products of i8 fit i16, the sum is i32 arithmetic modulo 2^32, as in the reference.

use super::{
    Id, Isa, Job, Kernel, LhsFormat, LhsRows, SumOffset,
    depthwise::{self, Tap, Taps},
    drive::{self, MicroKernel, TileInput, next_part},
    epilogue::{Buffers, End, TileEnd, finish},
    lanes::{Lanes, PlainRange},
    layout,
};

const MR: usize = 4;
const NR: usize = 4;

/// The table entry.
pub(crate) static KERNEL: Kernel = Kernel {
    name: "portable",
    id: Id::Portable,
    isa: Isa::Portable,
    instruction: "scalar i32 multiply-add",
    is_available: || true,
    mr: MR,
    nr: NR,
    kr: 1,
    lhs: LhsFormat::Bytes { unsigned: false },
    flips_lhs: || false,
    offset: SumOffset::None,
    scratch: |_| 0,
    lhs_stride: layout::byte_row_stride,
    pack_rhs: layout::pack_rhs_panel::<NR, 1>,
    pack_lhs,
    row_sums,
};

/// # Safety
/// As [`Kernel::pack_lhs`].
unsafe fn pack_lhs(src: &LhsRows, dst: *mut u8) {
    let flip = if src.unsigned { 0x80 } else { 0 };
    // SAFETY: the caller's.
    unsafe { layout::copy_rows(src, flip, layout::byte_row_stride(src.k), dst) }
}

/// # Safety
/// As [`Kernel::row_sums`].
unsafe fn row_sums(src: &LhsRows, dst: *mut i32) {
    // SAFETY: the caller's.
    unsafe { layout::row_sums(src, false, dst) }
}

/// # Safety
/// As [`super::Multiply`].
pub(in crate::kernels) unsafe fn multiply<E: End>(job: &Job) {
    // SAFETY: the caller's.
    unsafe { drive::multiply::<Portable, E>(job) }
}

struct Portable;

// SAFETY: `tile` reads K bytes of each of its rows and K steps of each of its panels.
unsafe impl MicroKernel for Portable {
    type V = Scalar4;
    const NR: usize = NR;
    const KR: usize = 1;
    type Buffers = Buffers<MR, NR>;

    fn next_rows(remaining: usize, _job: &Job) -> usize {
        next_part(remaining, MR)
    }

    fn next_panels(_remaining: usize, _job: &Job) -> usize {
        1
    }

    unsafe fn tile<E: End>(rows: usize, _panels: usize, input: &TileInput, end: &TileEnd) {
        // SAFETY: the caller's.
        unsafe {
            match rows {
                1 => tile::<E, 1>(input, end),
                2 => tile::<E, 2>(input, end),
                3 => tile::<E, 3>(input, end),
                _ => tile::<E, 4>(input, end),
            }
        }
    }
}

/// # Safety
/// As [`MicroKernel::tile`] with `R` rows and one panel.
#[inline(never)]
unsafe fn tile<E: End, const R: usize>(input: &TileInput, end: &TileEnd) {
    let mut sums = [[[0i32; NR]; 1]; R];
    // SAFETY: row r and the panel are readable for K steps.
    unsafe {
        for k in 0..input.k {
            let b = input.rhs.add(k * NR).cast::<[i8; NR]>().read();
            for (r, sums) in sums.iter_mut().enumerate() {
                let a = i32::from(*input.lhs.add(r * input.lhs_stride + k).cast::<i8>());
                for (sum, b) in sums[0].iter_mut().zip(b) {
                    *sum = sum.wrapping_add(a * i32::from(b));
                }
            }
        }
        finish::<Scalar4, E, R, 1>(sums, end);
    }
}

/// Depthwise convolution, of 8 channels at a time.
pub(super) struct ScalarTaps;

// SAFETY: 8 bytes of each tap and 16 weights are read.
unsafe impl Taps for ScalarTaps {
    type V = Scalar4;
    type Buffers = Buffers<{ depthwise::MR }, 8>;

    #[inline(always)]
    unsafe fn add<const UNSIGNED: bool, const R: usize>(
        a: Tap,
        b: Tap,
        weights: *const i16,
        sums: &mut [[[i32; 4]; 2]; R],
    ) {
        let widen = |byte: u8| if UNSIGNED { i32::from(byte) } else { i32::from(byte as i8) };
        // SAFETY: the caller's.
        unsafe {
            let weights = weights.cast::<[i16; 16]>().read_unaligned().map(i32::from);
            for (r, sums) in sums.iter_mut().enumerate() {
                let [a, b] = [a, b].map(|tap| tap.ptr.add(r * tap.step).cast::<[u8; 8]>().read_unaligned());
                for q in 0..2 {
                    for i in 0..4 {
                        let c = 4 * q + i;
                        let pair = widen(a[c]) * weights[2 * c] + widen(b[c]) * weights[2 * c + 1];
                        sums[q][i] = sums[q][i].wrapping_add(pair);
                    }
                }
            }
        }
    }
}

/// Four lanes of plain arithmetic.
#[derive(Clone, Copy)]
pub(super) struct Scalar4;

#[inline(always)]
fn zip<T: Copy>(a: [T; 4], b: [T; 4], op: impl Fn(T, T) -> T) -> [T; 4] {
    [op(a[0], b[0]), op(a[1], b[1]), op(a[2], b[2]), op(a[3], b[3])]
}

// SAFETY: every method touches four elements.
unsafe impl Lanes for Scalar4 {
    const LANES: usize = 4;
    const REGISTERS: usize = 32;
    type I = [i32; 4];
    type F = [f32; 4];

    #[inline(always)]
    unsafe fn load_i(p: *const i32) -> Self::I {
        // SAFETY: the caller's.
        unsafe { p.cast::<[i32; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_i(v: Self::I, p: *mut i32) {
        // SAFETY: the caller's.
        unsafe { p.cast::<[i32; 4]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn splat_i(x: i32) -> Self::I {
        [x; 4]
    }
    #[inline(always)]
    unsafe fn add_i(a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, i32::wrapping_add)
    }
    #[inline(always)]
    unsafe fn sub_i(a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, i32::wrapping_sub)
    }
    #[inline(always)]
    unsafe fn mul_i(a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, i32::wrapping_mul)
    }
    #[inline(always)]
    unsafe fn min_i(a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, Ord::min)
    }
    #[inline(always)]
    unsafe fn max_i(a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, Ord::max)
    }
    #[inline(always)]
    unsafe fn and_i(a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, |a, b| a & b)
    }
    #[inline(always)]
    unsafe fn xor_i(a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, |a, b| a ^ b)
    }
    #[inline(always)]
    unsafe fn shift_right<const N: i32>(v: Self::I) -> Self::I {
        v.map(|x| (x as u32 >> N) as i32)
    }
    #[inline(always)]
    unsafe fn load_bytes(p: *const u8) -> Self::I {
        // SAFETY: the caller's.
        unsafe { p.cast::<[u8; 4]>().read_unaligned() }.map(i32::from)
    }
    #[inline(always)]
    unsafe fn store_low_bytes(v: Self::I, p: *mut u8) {
        // SAFETY: the caller's.
        unsafe { p.cast::<[u8; 4]>().write_unaligned(v.map(|x| x as u8)) }
    }
    type ByteRange = PlainRange<Self>;
    #[inline(always)]
    unsafe fn byte_range(zero_point: i32, min: i32, max: i32) -> Self::ByteRange {
        // SAFETY: the caller's.
        unsafe { PlainRange::new(zero_point, min, max) }
    }
    type Bytes = [Self::F; 4];
    #[inline(always)]
    unsafe fn narrow(steps: [Self::F; 4], _to: &Self::ByteRange, _in_range: bool) -> [Self::F; 4] {
        steps
    }
    #[inline(always)]
    unsafe fn limit(steps: [Self::F; 4], to: &Self::ByteRange) -> [Self::F; 4] {
        // SAFETY: the caller's.
        unsafe { to.limit(steps) }
    }
    #[inline(always)]
    unsafe fn store_bytes<const TOGETHER: usize>(
        steps: [Self::F; 4],
        to: &Self::ByteRange,
        p: [*mut u8; 4],
        count: usize,
    ) {
        // SAFETY: the caller's.
        unsafe { to.store(steps, p, count) }
    }
    #[inline(always)]
    unsafe fn prefetch(_p: *const f32) {}
    #[inline(always)]
    unsafe fn load_f(p: *const f32) -> Self::F {
        // SAFETY: the caller's.
        unsafe { p.cast::<[f32; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_f(v: Self::F, p: *mut f32) {
        // SAFETY: the caller's.
        unsafe { p.cast::<[f32; 4]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn splat_f(x: f32) -> Self::F {
        [x; 4]
    }
    #[inline(always)]
    unsafe fn add_f(a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn mul_f(a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn sub_f(a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn div_f(a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn ge_f(a: Self::F, b: Self::F) -> Self::I {
        core::array::from_fn(|i| -i32::from(a[i] >= b[i]))
    }
    #[inline(always)]
    unsafe fn zero_nan(v: Self::F) -> Self::F {
        v.map(|x| if x.is_nan() { 0.0 } else { x })
    }
    #[inline(always)]
    unsafe fn bits(v: Self::F) -> Self::I {
        v.map(|x| x.to_bits() as i32)
    }
    #[inline(always)]
    unsafe fn from_bits(v: Self::I) -> Self::F {
        v.map(|x| f32::from_bits(x as u32))
    }
    #[inline(always)]
    unsafe fn min_f(a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn max_f(a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn to_f(v: Self::I) -> Self::F {
        v.map(|x| x as f32)
    }
    #[inline(always)]
    unsafe fn to_i(v: Self::F) -> Self::I {
        // Adding 1.5 * 2^23 leaves no fraction bits: the addition itself rounds half to even.
        const SHIFT: f32 = 12_582_912.0;
        v.map(|x| ((x + SHIFT) - SHIFT) as i32)
    }
    #[inline(always)]
    unsafe fn scale_single_rounding(x: Self::I, m: Self::I, e: Self::I) -> Self::I {
        core::array::from_fn(|i| {
            let product = i64::from(x[i]) * i64::from(m[i]);
            let right = 31 - e[i];
            let scaled = (product + (1 << (right - 1))) >> right;
            scaled.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32
        })
    }
    #[inline(always)]
    unsafe fn scale_double_rounding(x: Self::I, m: Self::I, e: Self::I) -> Self::I {
        core::array::from_fn(|i| {
            let (left, right) = (e[i].max(0), (-e[i]).max(0));
            let shifted = (i64::from(x[i]) << left).clamp(i64::from(i32::MIN), i64::from(i32::MAX));
            let high = (shifted * i64::from(m[i]) + (1 << 30)) >> 31;
            let mask = (1i64 << right) - 1;
            let threshold = (mask >> 1) + i64::from(high < 0);
            ((high >> right) + i64::from(high & mask > threshold)) as i32
        })
    }
}
