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

use super::{
    super::{
        Id, Isa, Job, Kernel, LhsFormat, Store, SumOffset,
        portable::lanes::Scalar4,
        product::{
            self, Buffers, End, Makes, Sums, SumsKernel, TileEnd, TileInput, ToMemory, finish_sums,
            group_cols, layout::padded, next_part,
        },
        weights::i8::pack_bytes,
    },
    ends::{HALF_EVEN, HalfEven, SUMS, add_products},
    pack::{pack_lhs, row_sums},
    tiles::{KR, MR, TILES},
};

const NR: usize = 4;
/// Panels of the widest tile.
const PANELS: usize = 4;

/// The table entry.
pub(crate) static KERNEL: Kernel = Kernel {
    id: Id::ArmV7Neon,
    isa: Isa::Portable,
    is_available,
    mr: MR,
    nr: NR,
    kr: KR,
    group_cols: group_cols::<ToMemory<NeonTiles>>(),
    macs_per_cycle: 8,
    lhs: LhsFormat::PackedSigned,
    flips_lhs: || false,
    offset: SumOffset::SecondHalves,
    scratch: |_| 0,
    lhs_stride: |k| padded(k, KR),
    pack_rhs: pack_bytes::<NR, KR>,
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
    // SAFETY: the job is valid, and the CPU has NEON.
    unsafe { product::multiply::<ToMemory<NeonTiles>, E>(job) }
}

struct NeonTiles;

// SAFETY: `sums` reads whole steps of packed rows and panels.
unsafe impl SumsKernel for NeonTiles {
    type V = Scalar4;
    const NR: usize = NR;
    const LHS_PANELS: bool = true;
    type Buffers = Buffers<MR, { PANELS * NR }>;
    type Sums = [i32; MR * PANELS * NR];

    #[inline(always)]
    fn next_rows(remaining: usize) -> usize {
        next_part(remaining, MR)
    }

    /// 16 columns: rows of outputs are whole vectors of bytes. The loops pass from one panel to the next as if nothing lay between
    /// them: panels that are part of longer ones go alone.
    #[inline(always)]
    fn next_panels(remaining: usize, job: &Job) -> usize {
        if job.rhs_stride == padded(job.k, KR) * NR { remaining.min(PANELS) } else { 1 }
    }

    #[inline(always)]
    unsafe fn sums(input: &TileInput, panels: usize, sums: &Sums) {
        let steps = input.k.div_ceil(KR);
        // SAFETY: packed rows and panels are readable for whole steps; there is room for the sums; the CPU has NEON.
        unsafe {
            if steps > 0 {
                TILES[sums.rows - 1](input.lhs, input.rhs, steps, sums.start, panels);
            } else {
                sums.start.write_bytes(0, sums.rows * sums.cols);
            }
        }
    }

    #[inline(always)]
    unsafe fn end<E: End>(sums: &Sums, end: &TileEnd) {
        let (rows, panels) = (sums.rows, sums.cols / NR);
        let (out, stride) = (end.out, end.out_stride);
        let base = end.columns.base.at(0);
        // SAFETY: rows and columns of the parameters and of the output are the caller's promise; the CPU has NEON.
        unsafe {
            if end.corrects {
                correct(sums.start, rows, panels, end);
            }
            match (E::MAKES, end.epilogue.store) {
                (Makes::Bytes, Store::HalfEven { bias, zero_point, min, max, .. }) => {
                    let to = HalfEven {
                        base,
                        scale: end.columns.scale.at(0),
                        bias: end.columns.bias.at(0),
                        low: (min - zero_point) as f32,
                        high: (max - zero_point) as f32,
                        zero_point,
                    };
                    let half_even = HALF_EVEN[panels - 1][usize::from(!bias.is_null())];
                    half_even(sums.start, rows, out.cast(), stride, &to);
                }
                (Makes::Reals, _) => finish_sums::<Scalar4, E>(sums, &TileEnd { corrects: false, ..*end }),
                _ => {
                    SUMS[panels - 1][usize::from(end.accumulate)](sums.start, rows, out.cast(), stride, base)
                }
            }
        }
    }
}

/// Zero points that differ between rows, and those of columns.
///
/// # Safety
/// As [`SumsKernel::end`].
#[inline(always)]
unsafe fn correct(sums: *mut i32, rows: usize, panels: usize, end: &TileEnd) {
    let epilogue = end.epilogue;
    let mut factors = [0; MR];
    // SAFETY: the epilogue is valid for the tile's rows, and for the columns of its panels.
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
