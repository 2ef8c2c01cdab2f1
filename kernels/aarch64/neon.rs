//! NEON kernel: any 64-bit ARM CPU.
//!
//! - Instructions: `smull p, a_lo, b_lo; smlsl2 p, ~a_hi, b_hi; sadalp sum, p`: 16 products, added in fours to 4 i32.
//! - Tile: 4 rows x 4 columns. Registers: 16 sums, 4 of `lhs`, 4 of `rhs`, up to 8 products in flight: 32.
//! - `lhs`: panels of 4 (3, 2, 1) rows of i8, kr = 16, the second 8 of each 16 bit-inverted (`~a = -a - 1`): of `h` rows,
//!   `value(i, k)` at `(k / 16) * 16 * h + i * 16 + k % 16`. `rhs`: panels of 4 columns, kr = 16: `value(k, n)` at
//!   `(n / 4) * K16 * 4 + (k / 16) * 64 + (n % 4) * 16 + k % 16`.
//! - Ceiling: three instructions for 16 MAC: 8 MAC/cycle on Cortex-A72, 5.3 on A53.
//! - Exact: `p = a0*b0 - (~a1)*b1 = a0*b0 + a1*b1 + b1` lies in -32640..=32640, where `a0*b0 + a1*b1` itself would reach 32768
//!   and wrap. The sum is too large by the weights of all second halves, a constant of each column that the epilogue takes
//!   off again ([`SumOffset::SecondHalves`]). As fast as the usual `smlal` form, which is not exact.

use core::arch::aarch64::*;

use super::{
    super::{
        Job, Kernel, LhsFormat, LhsRows, SumOffset,
        drive::{self, MicroKernel, TileInput, next_part},
        epilogue::{End, TileEnd, finish},
        layout::{self, padded},
        slices::slice_functions,
    },
    lanes128::Lanes128,
    pack_panels,
};

const MR: usize = 4;
const NR: usize = 4;
const KR: usize = 16;

pulp::simd_type! {
    /// Proof that this CPU has NEON.
    struct Neon {
        neon: "neon",
    }
}

/// The table entry.
pub(crate) static KERNEL: Kernel = Kernel {
    name: "neon",
    instruction: "smull + smlsl2 + sadalp",
    is_available: Neon::is_available,
    mr: MR,
    nr: NR,
    kr: KR,
    lhs: LhsFormat::PackedSigned,
    offset: SumOffset::SecondHalves,
    scratch: |_| 0,
    lhs_stride: |k| padded(k, KR),
    pack_lhs,
    row_sums,
    multiply,
    slices: slice_functions!(Lanes128, "neon"),
};

/// # Safety
/// As [`Kernel::pack_lhs`].
#[target_feature(enable = "neon")]
unsafe fn pack_lhs(src: &LhsRows, dst: *mut u8) {
    let flip = if src.unsigned { 0x80 } else { 0 };
    let flip = vcombine_u8(vdup_n_u8(flip), vdup_n_u8(!flip));
    // SAFETY: the caller's.
    unsafe { pack_panels::<KR, MR>(src, flip, |remaining| next_part(remaining, MR), dst) }
}

/// # Safety
/// As [`Kernel::row_sums`].
#[target_feature(enable = "neon")]
unsafe fn row_sums(src: &LhsRows, dst: *mut i32) {
    // SAFETY: the caller's.
    unsafe { layout::row_sums(src, false, dst) }
}

/// # Safety
/// As [`Kernel::multiply`].
#[target_feature(enable = "neon")]
unsafe fn multiply(job: &Job) {
    // SAFETY: the caller's.
    unsafe { drive::multiply::<NeonTiles>(job) }
}

struct NeonTiles;

// SAFETY: `tile` reads whole steps of packed rows and panels.
unsafe impl MicroKernel for NeonTiles {
    type V = Lanes128;
    const NR: usize = NR;
    const KR: usize = KR;

    #[inline(always)]
    fn next_rows(remaining: usize, _rows: usize) -> usize {
        next_part(remaining, MR)
    }

    #[inline(always)]
    fn next_panels(_remaining: usize, _rows: usize) -> usize {
        1
    }

    #[inline(always)]
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

/// `R` rows by one panel.
///
/// # Safety
/// As [`MicroKernel::tile`].
#[target_feature(enable = "neon")]
#[inline(never)]
unsafe fn tile<E: End, const R: usize>(input: &TileInput, end: &TileEnd) {
    // SAFETY: packed rows and the panel are readable for whole steps.
    unsafe {
        let mut sums = [[vdupq_n_s32(0); NR]; R];
        let (mut lhs, mut rhs): (*const i8, *const i8) = (input.lhs.cast(), input.rhs.cast());
        for _ in 0..input.k.div_ceil(KR) {
            let mut b = [vdupq_n_s8(0); NR];
            for (j, b) in b.iter_mut().enumerate() {
                *b = vld1q_s8(rhs.add(j * KR));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let a = vld1q_s8(lhs.add(r * KR));
                for (sum, &b) in sums.iter_mut().zip(&b) {
                    let products = vmull_s8(vget_low_s8(a), vget_low_s8(b));
                    let products = vmlsl_high_s8(products, a, b);
                    *sum = vpadalq_s16(*sum, products);
                }
            }
            lhs = lhs.add(R * KR);
            rhs = rhs.add(NR * KR);
        }
        let mut rows = [[vdupq_n_s32(0)]; R];
        for (row, [s0, s1, s2, s3]) in rows.iter_mut().zip(sums) {
            row[0] = vpaddq_s32(vpaddq_s32(s0, s1), vpaddq_s32(s2, s3));
        }
        finish::<Lanes128, E, R, 1>(rows, end);
    }
}
