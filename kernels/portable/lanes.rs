//! Four lanes of plain arithmetic.

use super::super::vectors::{
    lanes::{Lanes, methods},
    narrow::PlainNarrow,
    pieces::Pieces,
};

/// Four lanes of plain arithmetic.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Scalar4;

/// 1.5 * 2^23. Adding it leaves no fraction bits: the addition itself rounds half to even.
const NO_FRACTION: f32 = 12_582_912.0;

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

    methods! {
        load_i(p: *const i32) -> Self::I = p.cast::<[i32; 4]>().read_unaligned();
        store_i(v: Self::I, p: *mut i32) = p.cast::<[i32; 4]>().write_unaligned(v);
        splat_i(x: i32) -> Self::I = [x; 4];
        add_i(a: Self::I, b: Self::I) -> Self::I = zip(a, b, i32::wrapping_add);
        sub_i(a: Self::I, b: Self::I) -> Self::I = zip(a, b, i32::wrapping_sub);
        total(v: Self::I) -> i32 = v.into_iter().fold(0, i32::wrapping_add);
        mul_i(a: Self::I, b: Self::I) -> Self::I = zip(a, b, i32::wrapping_mul);
        min_i(a: Self::I, b: Self::I) -> Self::I = zip(a, b, Ord::min);
        max_i(a: Self::I, b: Self::I) -> Self::I = zip(a, b, Ord::max);
        and_i(a: Self::I, b: Self::I) -> Self::I = zip(a, b, |a, b| a & b);
        xor_i(a: Self::I, b: Self::I) -> Self::I = zip(a, b, |a, b| a ^ b);
        shift_right<const N: i32>(v: Self::I) -> Self::I = v.map(|x| (x as u32 >> N) as i32);
        load_bytes(p: *const u8) -> Self::I = p.cast::<[u8; 4]>().read_unaligned().map(i32::from);
        store_low_bytes(v: Self::I, p: *mut u8) = p.cast::<[u8; 4]>().write_unaligned(v.map(|x| x as u8));
        prefetch(_p: *const f32) = {};
        load_f(p: *const f32) -> Self::F = p.cast::<[f32; 4]>().read_unaligned();
        store_f(v: Self::F, p: *mut f32) = p.cast::<[f32; 4]>().write_unaligned(v);
        splat_f(x: f32) -> Self::F = [x; 4];
        add_f(a: Self::F, b: Self::F) -> Self::F = zip(a, b, |a, b| a + b);
        sub_f(a: Self::F, b: Self::F) -> Self::F = zip(a, b, |a, b| a - b);
        mul_f(a: Self::F, b: Self::F) -> Self::F = zip(a, b, |a, b| a * b);
        div_f(a: Self::F, b: Self::F) -> Self::F = zip(a, b, |a, b| a / b);
        min_f(a: Self::F, b: Self::F) -> Self::F = zip(a, b, |a, b| if a < b { a } else { b });
        max_f(a: Self::F, b: Self::F) -> Self::F = zip(a, b, |a, b| if a > b { a } else { b });
        ge_f(a: Self::F, b: Self::F) -> Self::I = core::array::from_fn(|i| -i32::from(a[i] >= b[i]));
        zero_nan(v: Self::F) -> Self::F = v.map(|x| if x.is_nan() { 0.0 } else { x });
        bits(v: Self::F) -> Self::I = v.map(|x| x.to_bits() as i32);
        from_bits(v: Self::I) -> Self::F = v.map(|x| f32::from_bits(x as u32));
        to_f(v: Self::I) -> Self::F = v.map(|x| x as f32);
        to_i(v: Self::F) -> Self::I = v.map(|x| ((x + NO_FRACTION) - NO_FRACTION) as i32);
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

impl PlainNarrow for Scalar4 {}

// SAFETY: the one piece is read or written whole.
unsafe impl Pieces for Scalar4 {
    #[inline(always)]
    unsafe fn load_pieces(p: *const u8, _stride: usize) -> Self::I {
        // SAFETY: the caller's.
        unsafe { Self::load_i(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store_pieces(v: Self::I, p: *mut u8, _stride: usize, count: usize) {
        if count > 0 {
            // SAFETY: the caller's.
            unsafe { Self::store_i(v, p.cast()) }
        }
    }
    #[inline(always)]
    unsafe fn zip<const BYTES: usize>(a: Self::I, b: Self::I) -> [Self::I; 2] {
        let [a, b] = [a, b].map(bytemuck::cast::<_, [u8; 16]>);
        [0, 8].map(|half| {
            bytemuck::cast(core::array::from_fn::<u8, 16, _>(|at| {
                let from = if (at / BYTES).is_multiple_of(2) { &a } else { &b };
                from[half + at / (2 * BYTES) * BYTES + at % BYTES]
            }))
        })
    }
    #[inline(always)]
    unsafe fn add_fours(sums: Self::I, bytes: Self::I) -> Self::I {
        let add = |sum: i32, four: [i8; 4]| four.iter().fold(sum, |sum, &x| sum.wrapping_add(i32::from(x)));
        zip(sums, bytes, |sum, four| add(sum, bytemuck::cast(four)))
    }
}
