//! NEON kernel of 32-bit ARM: ARMv7-A CPUs that have NEON, and 64-bit ones that run 32-bit programs.
//!
//! - Instructions: `vmull.s8 p, a_lo, b_lo; vmlsl.s8 p, ~a_hi, b_hi; vpadal.s16 sum, p`: 16 products, added in fours to
//!   4 i32. Stable Rust has none of them for this target, so the loop is written in assembly, prologue to return.
//! - Tile: 4 rows x 4 columns in two passes of 4 x 2, which 16 registers have room for: q8-q15 sums, q0-q1 `rhs`, q2-q3
//!   two rows of `lhs` at a time, q4-q7 their products with both columns. Next operands are loaded between the multiplies
//!   that were the last to need the old ones and the additions, so that in-order cores do not wait for them.
//!   One row takes all 4 columns in one pass: its time is that of reading weights.
//! - `lhs`: panels of 4 (3, 2, 1) rows of i8, kr = 16, the second 8 of each 16 bit-inverted (`~a = -a - 1`): of `h` rows,
//!   `value(i, k)` at `(k / 16) * 16 * h + i * 16 + k % 16`. `rhs`: panels of 4 columns, kr = 16: `value(k, n)` at
//!   `(n / 4) * K16 * 4 + (k / 16) * 64 + (n % 4) * 16 + k % 16`. A pass takes 32 of each 64 bytes. The layouts are
//!   those of the 64-bit `neon`.
//! - Ceiling: three instructions for 16 MAC: 8 MAC/cycle on Cortex-A57, of which llvm-mca predicts all for each of the
//!   loops; less on cores whose NEON takes several cycles for 128 bits (A7, A8, A9).
//! - Exact: `p = a0*b0 - (~a1)*b1 = a0*b0 + a1*b1 + b1` lies in -32640..=32640, where `a0*b0 + a1*b1` itself would reach
//!   32768 and wrap. The sum is too large by the weights of all second halves, a constant of each column that the epilogue
//!   takes off again ([`SumOffset::SecondHalves`]).
//!
//! Four panels at a time: `tiles` leaves the sums of 4 x 16 in a buffer, `ends` stores them or makes bytes of them, `pack` packs
//! `lhs`. An f32 output is plain Rust: floating point in NEON of this target flushes denormals, and VFP does not.

use core::mem::MaybeUninit;

use super::{
    super::{
        Id, Isa, Job, Kernel, LhsFormat, Store, SumOffset,
        drive::{self, MicroKernel, TileInput, next_part},
        epilogue::{Buffers, End, TileEnd, finish},
        layout::{self, padded},
        portable::Scalar4,
    },
    ends::{HALF_EVEN, HalfEven, SUMS, add_products},
    pack::{pack_lhs, row_sums},
    tiles::TILES,
};

pub(super) const MR: usize = 4;
const NR: usize = 4;
pub(super) const KR: usize = 16;
/// Panels of the widest tile.
const PANELS: usize = 4;

/// The table entry.
pub(crate) static KERNEL: Kernel = Kernel {
    name: "armv7_neon",
    id: Id::ArmV7Neon,
    isa: Isa::Portable,
    instruction: "vmull + vmlsl + vpadal",
    is_available,
    mr: MR,
    nr: NR,
    kr: KR,
    lhs: LhsFormat::PackedSigned,
    flips_lhs: || false,
    offset: SumOffset::SecondHalves,
    scratch: |_| 0,
    lhs_stride: |k| padded(k, KR),
    pack_rhs: layout::pack_rhs_panel::<NR, KR>,
    pack_lhs,
    row_sums,
};

/// Whether the CPU has NEON. ARMv7-A does not promise it: Tegra 2 and some Marvell chips lack it.
fn is_available() -> bool {
    // The target promises it, or the system says so.
    cfg!(i8gemm_arm_neon) || system_has_neon()
}

/// What the Linux kernel told the process about its CPU: the features that all cores have.
#[cfg(all(feature = "std", not(target_env = "uclibc")))]
fn system_has_neon() -> bool {
    use core::ffi::c_ulong;

    const AT_HWCAP: c_ulong = 16;
    const HWCAP_NEON: c_ulong = 1 << 12;

    // SAFETY: glibc since 2.16, musl since 1.1 and Android since API level 18 define this function so, and what `std` itself
    // links is later than these. It may be called at any time with any argument.
    unsafe extern "C" {
        safe fn getauxval(kind: c_ulong) -> c_ulong;
    }
    getauxval(AT_HWCAP) & HWCAP_NEON != 0
}

/// Without `std` no C library need be there to ask.
#[cfg(not(all(feature = "std", not(target_env = "uclibc"))))]
fn system_has_neon() -> bool {
    false
}

/// # Safety
/// As [`super::super::Multiply`].
pub(in crate::kernels) unsafe fn multiply<E: End>(job: &Job) {
    // SAFETY: the caller's.
    unsafe { drive::multiply::<NeonTiles, E>(job) }
}

struct NeonTiles;

// SAFETY: `tile` reads whole steps of packed rows and panels.
unsafe impl MicroKernel for NeonTiles {
    type V = Scalar4;
    const NR: usize = NR;
    const KR: usize = KR;
    type Buffers = Buffers<MR, { PANELS * NR }>;

    #[inline(always)]
    fn next_rows(remaining: usize, _job: &Job) -> usize {
        next_part(remaining, MR)
    }

    /// 16 columns: rows of outputs are whole vectors of bytes.
    #[inline(always)]
    fn next_panels(remaining: usize, _job: &Job) -> usize {
        remaining.min(PANELS)
    }

    #[inline(always)]
    unsafe fn tile<E: End>(rows: usize, panels: usize, input: &TileInput, end: &TileEnd) {
        // SAFETY: the caller's.
        unsafe { tile::<E>(rows, panels, input, end) }
    }
}

/// # Safety
/// As [`MicroKernel::tile`].
#[inline(never)]
unsafe fn tile<E: End>(rows: usize, panels: usize, input: &TileInput, end: &TileEnd) {
    let mut buffer = [const { MaybeUninit::<i32>::uninit() }; MR * PANELS * NR];
    let sums: *mut i32 = buffer.as_mut_ptr().cast();
    let steps = input.k.div_ceil(KR);
    // SAFETY: packed rows and panels are readable for whole steps; there is room for the sums of the largest tile; the CPU has
    // NEON. Rows and columns of the parameters and of the output are the caller's promise.
    unsafe {
        if steps > 0 {
            TILES[rows - 1](input.lhs, input.rhs, steps, sums, panels);
        } else {
            sums.write_bytes(0, rows * panels * NR);
        }
        if end.corrects {
            correct(sums, rows, panels, end);
        }
        let (out, stride) = (end.out, end.out_stride);
        if let Store::I32 { .. } | Store::Fixed { .. } = end.epilogue.store {
            let adds = usize::from(end.accumulate);
            SUMS[panels - 1][adds](sums, rows, out.cast(), stride, end.columns.base.at(0));
            return;
        }
        if let Store::HalfEven { bias, zero_point, min, max, .. } = end.epilogue.store {
            let to = HalfEven {
                base: end.columns.base.at(0),
                scale: end.columns.scale.at(0),
                bias: end.columns.bias.at(0),
                low: (min - zero_point) as f32,
                high: (max - zero_point) as f32,
                zero_point,
            };
            HALF_EVEN[panels - 1][usize::from(!bias.is_null())](sums, rows, out.cast(), stride, &to);
            return;
        }
        for r in 0..rows {
            let out = out.cast::<u32>().add(r * stride).cast();
            // The sums are corrected.
            let end = TileEnd { row: end.row + r, out, corrects: false, ..*end };
            let sums = sums.add(r * panels * NR);
            match panels {
                1 => finish::<Scalar4, E, 1, 1>([sums.cast::<[[i32; NR]; 1]>().read()], &end),
                2 => finish::<Scalar4, E, 1, 2>([sums.cast::<[[i32; NR]; 2]>().read()], &end),
                3 => finish::<Scalar4, E, 1, 3>([sums.cast::<[[i32; NR]; 3]>().read()], &end),
                _ => finish::<Scalar4, E, 1, 4>([sums.cast::<[[i32; NR]; 4]>().read()], &end),
            }
        }
    }
}

/// Zero points that differ between rows, and those of columns.
///
/// # Safety
/// As [`tile`]; `sums` holds the tile.
#[inline(always)]
unsafe fn correct(sums: *mut i32, rows: usize, panels: usize, end: &TileEnd) {
    let epilogue = end.epilogue;
    let mut factors = [0; MR];
    // SAFETY: the caller's.
    unsafe {
        if epilogue.lhs_zero.step != 0 {
            for (r, factor) in factors[..rows].iter_mut().enumerate() {
                *factor = epilogue.lhs_zero.get(end.row + r).wrapping_add(epilogue.lhs_shift);
            }
            add_products(sums, rows, panels, end.columns.zero_factor.at(0), factors.as_ptr());
        }
        if !epilogue.rhs_zero.is_null() {
            for (r, factor) in factors[..rows].iter_mut().enumerate() {
                *factor = (*end.row_sums.add(r)).wrapping_neg();
            }
            add_products(sums, rows, panels, end.columns.rhs_zero.at(0), factors.as_ptr());
        }
    }
}
