//! NEON kernel: any 64-bit ARM CPU.
//!
//! - Instructions: `smull p, a_lo, b_lo; smlsl2 p, ~a_hi, b_hi; sadalp sum, p`: 16 products, added in fours to 4 i32.
//! - Tile: 4 rows x 4 columns. Registers: 16 sums, 4 of `lhs`, 4 of `rhs`, up to 8 products in flight: 32.
//! - `lhs`: panels of 4 (3, 2, 1) rows of i8, kr = 16, the second 8 of each 16 bit-inverted (`~a = -a - 1`): of `h` rows,
//!   `value(i, k)` at `(k / 16) * 16 * h + i * 16 + k % 16`. `rhs`: panels of 4 columns, kr = 16: `value(k, n)` at
//!   `(n / 4) * K16 * 4 + (k / 16) * 64 + (n % 4) * 16 + k % 16`.
//! - Ceiling: three instructions for 16 MAC: 8 MAC/cycle on Cortex-A72, 5.33 on A53 if loads were free.
//! - Exact: `p = a0*b0 - (~a1)*b1 = a0*b0 + a1*b1 + b1` lies in -32640..=32640, where `a0*b0 + a1*b1` itself would reach 32768
//!   and wrap. The sum is too large by the weights of all second halves, a constant of each column that the epilogue takes
//!   off again ([`SumOffset::SecondHalves`]). As fast as the usual `smlal` form, which is not exact.
//!
//! # Two schedules
//!
//! An out-of-order core (`neon`) finds the order by itself: it wants few instructions, so whole 128-bit loads and nothing
//! written by hand ([`tile`]). An in-order core (`neon_a53`) issues two neighbours a cycle if they suit each other, and waits
//! for a result that is not there yet. The order of [`tile_a53`] follows from its rules:
//!
//! - A 128-bit load takes two cycles for itself. Three instructions do the same: `ldr x` (the high half) issues beside
//!   arithmetic, and `ldr d` (the low half) beside an `ins` (the high half of another register). That is one cycle for
//!   every 128 bits on A53: 48 + 8 cycles for 256 MAC, 4.57 a cycle. On A55 `ldr d` and `ins` issue beside arithmetic as
//!   well, so each `ldr d, ins` stands between two instructions that have no other neighbour to issue with: 48 cycles, 5.33.
//! - Counting issues beside arithmetic too.
//! - Two rows are multiplied at a time, 8 products: the `smlsl2` comes 8 cycles after its `smull`, the `sadalp` 8 after that.
//! - The registers of `lhs` and `rhs` are loaded for the next step as soon as this one has read them for the last time. All
//!   8 products of rows 2 and 3 are complete before any is added: that is when the `rhs` arrives.

use core::arch::{aarch64::*, asm};

use super::{
    super::{
        Id, Isa, Job, Kernel, LhsFormat, LhsRows, SumOffset,
        product::{
            self, Buffers, End, MicroKernel, TileEnd, TileInput, finish_from_base, group_cols,
            layout::{self, padded},
            next_part,
        },
    },
    GROUP_COLS, end_of_panel,
    lanes128::Lanes128,
    pack::{pack_panels, pack_rhs},
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

/// The table entry: the schedule for out-of-order cores.
pub(crate) static KERNEL: Kernel = kernel(Id::Neon);

/// The table entry of the schedule for in-order cores, Cortex-A53 and A55.
pub(crate) static KERNEL_A53: Kernel = kernel(Id::NeonA53);

const fn kernel(id: Id) -> Kernel {
    Kernel {
        id,
        isa: Isa::Neon,
        is_available: Neon::is_available,
        mr: MR,
        nr: NR,
        kr: KR,
        group_cols: group_cols::<NeonTiles>(),
        macs_per_cycle: 8,
        lhs: LhsFormat::PackedSigned,
        flips_lhs: || false,
        offset: SumOffset::SecondHalves,
        scratch: |_| 0,
        lhs_stride: |k| padded(k, KR),
        pack_rhs: pack_rhs::<NR, KR>,
        pack_lhs,
        row_sums,
    }
}

/// # Safety
/// As [`Kernel::pack_lhs`].
#[target_feature(enable = "neon")]
unsafe fn pack_lhs(src: &LhsRows, dst: *mut u8) {
    let flip = if src.unsigned { 0x80 } else { 0 };
    let flip = vcombine_u8(vdup_n_u8(flip), vdup_n_u8(!flip));
    // SAFETY: the rows are readable and `dst` has room for them in this format; the CPU has the features.
    unsafe { pack_panels::<KR, MR, true>(src, flip, |remaining| next_part(remaining, MR), dst) }
}

/// # Safety
/// As [`Kernel::row_sums`].
#[target_feature(enable = "neon")]
unsafe fn row_sums(src: &LhsRows, dst: *mut i32) {
    // SAFETY: the rows are readable and `dst` has room for a sum of each; the CPU has the features.
    unsafe { layout::row_sums(src, false, dst) }
}

/// # Safety
/// As [`super::super::Multiply`].
#[target_feature(enable = "neon")]
pub(in crate::kernels) unsafe fn multiply<E: End>(job: &Job) {
    // SAFETY: the job is valid, and the CPU has the features that this is compiled for.
    unsafe { product::multiply::<NeonTiles, E>(job) }
}

/// # Safety
/// As [`super::super::Multiply`].
#[target_feature(enable = "neon")]
pub(in crate::kernels) unsafe fn multiply_a53<E: End>(job: &Job) {
    // SAFETY: the job is valid, and the CPU has the features that this is compiled for.
    unsafe { product::multiply::<InOrderTiles, E>(job) }
}

struct NeonTiles;

// SAFETY: `tile` reads whole steps of packed rows and panels.
unsafe impl MicroKernel for NeonTiles {
    type V = Lanes128;
    const NR: usize = NR;
    const LHS_PANELS: bool = true;
    type Buffers = Buffers<MR, GROUP_COLS>;

    #[inline(always)]
    fn next_rows(remaining: usize, _job: &Job) -> usize {
        next_part(remaining, MR)
    }

    #[inline(always)]
    fn next_panels(remaining: usize, _job: &Job) -> usize {
        remaining.min(GROUP_COLS / NR)
    }

    const RAGGED_ALONE: bool = true;

    #[inline(always)]
    unsafe fn tile<E: End>(rows: usize, panels: usize, input: &TileInput, end: &TileEnd) {
        // SAFETY: rows and panels are counts that this kernel names; input and end are valid for them.
        unsafe {
            match rows {
                1 => tile::<E, 1>(panels, input, end),
                2 => tile::<E, 2>(panels, input, end),
                3 => tile::<E, 3>(panels, input, end),
                _ => tile::<E, 4>(panels, input, end),
            }
        }
    }
}

/// [`NeonTiles`], but for whole tiles.
struct InOrderTiles;

// SAFETY: as `NeonTiles`.
unsafe impl MicroKernel for InOrderTiles {
    type V = Lanes128;
    const NR: usize = NR;
    const LHS_PANELS: bool = true;
    type Buffers = Buffers<MR, GROUP_COLS>;

    #[inline(always)]
    fn next_rows(remaining: usize, job: &Job) -> usize {
        NeonTiles::next_rows(remaining, job)
    }

    #[inline(always)]
    fn next_panels(remaining: usize, job: &Job) -> usize {
        NeonTiles::next_panels(remaining, job)
    }

    const RAGGED_ALONE: bool = true;

    #[inline(always)]
    unsafe fn tile<E: End>(rows: usize, panels: usize, input: &TileInput, end: &TileEnd) {
        // SAFETY: rows and panels are counts that this kernel names; input and end are valid for them.
        unsafe {
            match rows {
                MR => tile_a53::<E>(panels, input, end),
                _ => NeonTiles::tile::<E>(rows, panels, input, end),
            }
        }
    }
}

/// `R` rows by the panels of a group.
///
/// # Safety
/// As [`MicroKernel::tile`].
#[target_feature(enable = "neon")]
#[inline(never)]
unsafe fn tile<E: End, const R: usize>(panels: usize, input: &TileInput, end: &TileEnd) {
    // SAFETY: the end is that of the epilogue's store, and the CPU has NEON.
    let ready = unsafe { E::ready(end.epilogue) };
    for panel in 0..panels {
        // SAFETY: the group has the panel, whose rows and columns are readable for whole steps.
        unsafe {
            let sums = sums_of_panel::<R>(&input.panel(panel));
            finish_sums::<E, R>(sums, &end_of_panel(end, panel * NR), &ready);
        }
    }
}

/// `R` rows by one panel.
///
/// # Safety
/// As [`MicroKernel::tile`].
#[target_feature(enable = "neon")]
#[inline]
unsafe fn sums_of_panel<const R: usize>(input: &TileInput) -> [[int32x4_t; NR]; R] {
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
        sums
    }
}

/// Four rows by the panels of a group, in the order of an in-order core: see the head of this file.
///
/// # Safety
/// As [`MicroKernel::tile`].
#[target_feature(enable = "neon")]
#[inline(never)]
unsafe fn tile_a53<E: End>(panels: usize, input: &TileInput, end: &TileEnd) {
    // SAFETY: the end is that of the epilogue's store, and the CPU has NEON.
    let ready = unsafe { E::ready(end.epilogue) };
    for panel in 0..panels {
        // SAFETY: as in [`tile`].
        unsafe {
            let sums = sums_in_order(&input.panel(panel));
            finish_sums::<E, MR>(sums, &end_of_panel(end, panel * NR), &ready);
        }
    }
}

/// Four rows by one panel.
///
/// # Safety
/// As [`MicroKernel::tile`].
#[target_feature(enable = "neon")]
#[inline]
unsafe fn sums_in_order(input: &TileInput) -> [[int32x4_t; NR]; MR] {
    let steps = input.k.div_ceil(KR);
    // SAFETY: packed rows and the panel are readable for `steps` whole steps of 64 bytes, of which there is at least one where
    // any is read. Each turn first moves the addresses on by a step, but for the last turn, which loads its own step once more.
    unsafe {
        let mut sums = [[vdupq_n_s32(0); NR]; MR];
        if steps > 0 {
            asm!(
                "ldr {a0:q}, [{lhs}]",
                "ldr {a1:q}, [{lhs}, 16]",
                "ldr {b0:q}, [{rhs}]",
                "ldr {b1:q}, [{rhs}, 16]",
                "ldr {b2:q}, [{rhs}, 32]",
                "ldr {b3:q}, [{rhs}, 48]",
                "ldr {a2:d}, [{lhs}, 32]",
                "ldr {xa2}, [{lhs}, 40]",
                "ldr {a3:d}, [{lhs}, 48]",
                "ldr {xa3}, [{lhs}, 56]",
                "2:",
                // Rows 0 and 1.
                "smull {p0:v}.8h, {a0:v}.8b, {b0:v}.8b",
                "subs {steps}, {steps}, 1",
                "smull {p1:v}.8h, {a1:v}.8b, {b0:v}.8b",
                "cset {more}, ne",
                "smull {p2:v}.8h, {a0:v}.8b, {b1:v}.8b",
                "add {lhs}, {lhs}, {more}, lsl 6",
                "smull {p3:v}.8h, {a1:v}.8b, {b1:v}.8b",
                "add {rhs}, {rhs}, {more}, lsl 6",
                "smull {p4:v}.8h, {a0:v}.8b, {b2:v}.8b",
                "smull {p5:v}.8h, {a1:v}.8b, {b2:v}.8b",
                "smull {p6:v}.8h, {a0:v}.8b, {b3:v}.8b",
                "ldr {xb0}, [{rhs}, 8]",
                "smull {p7:v}.8h, {a1:v}.8b, {b3:v}.8b",
                "smlsl2 {p0:v}.8h, {a0:v}.16b, {b0:v}.16b",
                "ldr {xb1}, [{rhs}, 24]",
                "smlsl2 {p1:v}.8h, {a1:v}.16b, {b0:v}.16b",
                "smlsl2 {p2:v}.8h, {a0:v}.16b, {b1:v}.16b",
                "ldr {xb2}, [{rhs}, 40]",
                "smlsl2 {p3:v}.8h, {a1:v}.16b, {b1:v}.16b",
                "smlsl2 {p4:v}.8h, {a0:v}.16b, {b2:v}.16b",
                "ldr {xb3}, [{rhs}, 56]",
                "smlsl2 {p5:v}.8h, {a1:v}.16b, {b2:v}.16b",
                "smlsl2 {p6:v}.8h, {a0:v}.16b, {b3:v}.16b",
                "smlsl2 {p7:v}.8h, {a1:v}.16b, {b3:v}.16b",
                "sadalp {s00:v}.4s, {p0:v}.8h",
                "ldr {a0:d}, [{lhs}]",
                "ins {a2:v}.d[1], {xa2}",
                "sadalp {s10:v}.4s, {p1:v}.8h",
                "sadalp {s01:v}.4s, {p2:v}.8h",
                "ldr {a1:d}, [{lhs}, 16]",
                "ins {a3:v}.d[1], {xa3}",
                "sadalp {s11:v}.4s, {p3:v}.8h",
                "sadalp {s02:v}.4s, {p4:v}.8h",
                "ldr {xa0}, [{lhs}, 8]",
                "sadalp {s12:v}.4s, {p5:v}.8h",
                "sadalp {s03:v}.4s, {p6:v}.8h",
                "ldr {xa1}, [{lhs}, 24]",
                "sadalp {s13:v}.4s, {p7:v}.8h",
                // Rows 2 and 3.
                "smull {p0:v}.8h, {a2:v}.8b, {b0:v}.8b",
                "ldr {xa2}, [{lhs}, 40]",
                "smull {p1:v}.8h, {a3:v}.8b, {b0:v}.8b",
                "smull {p2:v}.8h, {a2:v}.8b, {b1:v}.8b",
                "ldr {xa3}, [{lhs}, 56]",
                "smull {p3:v}.8h, {a3:v}.8b, {b1:v}.8b",
                "smull {p4:v}.8h, {a2:v}.8b, {b2:v}.8b",
                "smull {p5:v}.8h, {a3:v}.8b, {b2:v}.8b",
                "smull {p6:v}.8h, {a2:v}.8b, {b3:v}.8b",
                "smull {p7:v}.8h, {a3:v}.8b, {b3:v}.8b",
                "smlsl2 {p0:v}.8h, {a2:v}.16b, {b0:v}.16b",
                "smlsl2 {p1:v}.8h, {a3:v}.16b, {b0:v}.16b",
                "smlsl2 {p2:v}.8h, {a2:v}.16b, {b1:v}.16b",
                "ldr {b0:d}, [{rhs}]",
                "ins {a0:v}.d[1], {xa0}",
                "smlsl2 {p3:v}.8h, {a3:v}.16b, {b1:v}.16b",
                "smlsl2 {p4:v}.8h, {a2:v}.16b, {b2:v}.16b",
                "ldr {b1:d}, [{rhs}, 16]",
                "ins {a1:v}.d[1], {xa1}",
                "smlsl2 {p5:v}.8h, {a3:v}.16b, {b2:v}.16b",
                "smlsl2 {p6:v}.8h, {a2:v}.16b, {b3:v}.16b",
                "ldr {b2:d}, [{rhs}, 32]",
                "ins {b0:v}.d[1], {xb0}",
                "smlsl2 {p7:v}.8h, {a3:v}.16b, {b3:v}.16b",
                "sadalp {s20:v}.4s, {p0:v}.8h",
                "ldr {b3:d}, [{rhs}, 48]",
                "ins {b1:v}.d[1], {xb1}",
                "sadalp {s30:v}.4s, {p1:v}.8h",
                "sadalp {s21:v}.4s, {p2:v}.8h",
                "ldr {a2:d}, [{lhs}, 32]",
                "ins {b2:v}.d[1], {xb2}",
                "sadalp {s31:v}.4s, {p3:v}.8h",
                "sadalp {s22:v}.4s, {p4:v}.8h",
                "ldr {a3:d}, [{lhs}, 48]",
                "ins {b3:v}.d[1], {xb3}",
                "sadalp {s32:v}.4s, {p5:v}.8h",
                "sadalp {s23:v}.4s, {p6:v}.8h",
                "sadalp {s33:v}.4s, {p7:v}.8h",
                "b.ne 2b",

                s00 = inout(vreg) sums[0][0], s01 = inout(vreg) sums[0][1],
                s02 = inout(vreg) sums[0][2], s03 = inout(vreg) sums[0][3],
                s10 = inout(vreg) sums[1][0], s11 = inout(vreg) sums[1][1],
                s12 = inout(vreg) sums[1][2], s13 = inout(vreg) sums[1][3],
                s20 = inout(vreg) sums[2][0], s21 = inout(vreg) sums[2][1],
                s22 = inout(vreg) sums[2][2], s23 = inout(vreg) sums[2][3],
                s30 = inout(vreg) sums[3][0], s31 = inout(vreg) sums[3][1],
                s32 = inout(vreg) sums[3][2], s33 = inout(vreg) sums[3][3],
                a0 = out(vreg) _, a1 = out(vreg) _, a2 = out(vreg) _, a3 = out(vreg) _,
                b0 = out(vreg) _, b1 = out(vreg) _, b2 = out(vreg) _, b3 = out(vreg) _,
                p0 = out(vreg) _, p1 = out(vreg) _, p2 = out(vreg) _, p3 = out(vreg) _,
                p4 = out(vreg) _, p5 = out(vreg) _, p6 = out(vreg) _, p7 = out(vreg) _,
                xa0 = out(reg) _, xa1 = out(reg) _, xa2 = out(reg) _, xa3 = out(reg) _,
                xb0 = out(reg) _, xb1 = out(reg) _, xb2 = out(reg) _, xb3 = out(reg) _,
                lhs = inout(reg) input.lhs => _,
                rhs = inout(reg) input.rhs => _,
                steps = inout(reg) steps => _,
                more = out(reg) _,
                options(nostack, readonly),
            );
        }
        sums
    }
}

/// Adds up the four parts of each sum, and finishes the tile.
///
/// # Safety
/// As [`finish_from_base`].
#[inline(always)]
unsafe fn finish_sums<E: End, const R: usize>(
    sums: [[int32x4_t; NR]; R],
    end: &TileEnd,
    ready: &E::Ready<Lanes128>,
) {
    // SAFETY: the end is that of one panel, and `ready` is of its epilogue.
    unsafe {
        let base = end.base::<Lanes128>(0);
        let mut rows = [[base]; R];
        for (row, [s0, s1, s2, s3]) in rows.iter_mut().zip(sums) {
            row[0] = vaddq_s32(vpaddq_s32(vpaddq_s32(s0, s1), vpaddq_s32(s2, s3)), base);
        }
        finish_from_base::<Lanes128, E, R, 1>(rows, end, ready);
    }
}
