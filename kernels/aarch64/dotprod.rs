//! Dot-product kernel: 64-bit ARM CPUs with FEAT_DotProd (Cortex-A55, A76, Neoverse N1 and later).
//!
//! - Instruction: `sdot` by lane: 16 products of i8, added in fours to 4 i32.
//! - Tile: 12 rows x 8 columns. Registers: 24 sums, 3 of `lhs` (4 rows each), 2 of `rhs`: 29 of 32. Fewer rows: 8, 4, 2, 1 on
//!   the same layout of `rhs`; 2 and 1 take 2 and 4 steps with one load of `lhs`. One row passes 4 panels at a time: those of one alone
//!   have two chains of sums, which would wait for each other.
//! - `lhs`: panels of `h` = 12 (8, 4, 2, 1) rows of i8, kr = 4: `value(i, k)` at `(k / 4) * 4 * h + i * 4 + k % 4`. `rhs`:
//!   panels of 8 columns, kr = 4: `value(k, n)` at `(n / 8) * K4 * 8 + (k / 4) * 32 + (n % 8) * 4 + k % 4`.
//! - Ceiling: 16 MAC an instruction: 16 MAC/cycle on A55, 32 on N1 and A76, 64 on V1, V2 and X1. 5 loads to 24 multiplies.
//! - Two schedules of 12 and 8 rows (in order also of 4), as two kernels with one layout, differ in what keeps a core from
//!   multiplying:
//!   - `neon_dotprod`, out of order: instructions. Those that do not multiply take places in the front end, so a turn is two
//!     steps, registers that lie side by side are loaded in pairs, and each pointer moves once. What is left of the loads stands
//!     apart, before its first use: a burst would fill the load units while the multipliers run dry (V2). The core itself
//!     overlaps the steps.
//!   - `neon_dotprod_a55`, in order: a 128-bit load takes two cycles and nothing runs beside it, but half a register
//!     (`ldr d`), the other half on its way through a general register (`ldr x`) and its insertion (`ins`) each run beside a
//!     multiply. So every multiply has one neighbour, and 15 of 24 neighbours in a step are loads: they are free. No result
//!     is used for at least 4 cycles. The columns of the next step go to a second pair of registers; the rows to their own,
//!     when they have been used.
//! - Exact: `sdot` adds four 16-bit products to an i32, modulo 2^32.

use core::arch::aarch64::*;

use super::{
    super::{
        Id, Isa, Job, Kernel, LhsFormat, LhsRows, SumOffset,
        product::{
            self, Buffers, End, MicroKernel, TileEnd, TileInput, finish_from_base, group_cols,
            layout::{self, padded},
        },
    },
    GROUP_COLS,
    dotprod_steps::{
        Cursor, KR, NR, rest, sdot_lane, steps_of_4_in_order, steps_of_8, steps_of_8_in_order, steps_of_12,
        steps_of_12_in_order,
    },
    end_of_panel,
    lanes128::Lanes128,
    next_rows_of_12,
    pack::{pack_panels, pack_rhs},
};

const MR: usize = 12;

pulp::simd_type! {
    /// Proof that this CPU has dot products.
    struct Dotprod {
        neon: "neon",
        dotprod: "dotprod",
    }
}

/// The table entry.
pub(crate) static KERNEL: Kernel = entry(Id::NeonDotprod);

/// The table entry of the in-order schedule.
pub(crate) static KERNEL_A55: Kernel = entry(Id::NeonDotprodA55);

const fn entry(id: Id) -> Kernel {
    Kernel {
        id,
        isa: Isa::Neon,
        is_available: Dotprod::is_available,
        mr: MR,
        nr: NR,
        kr: KR,
        group_cols: group_cols::<DotprodTiles<false>>(),
        macs_per_cycle: 32,
        lhs: LhsFormat::PackedSigned,
        flips_lhs: || false,
        offset: SumOffset::None,
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
    // SAFETY: the rows are readable and `dst` has room for them in this format; the CPU has the features.
    unsafe {
        if src.unsigned {
            pack_panels::<KR, MR, true>(src, vdupq_n_u8(0x80), next_rows_of_12, dst);
        } else {
            pack_panels::<KR, MR, false>(src, vdupq_n_u8(0), next_rows_of_12, dst);
        }
    }
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
#[target_feature(enable = "neon,dotprod")]
pub(in crate::kernels) unsafe fn multiply<E: End>(job: &Job) {
    // SAFETY: the job is valid, and the CPU has the features that this is compiled for.
    unsafe { product::multiply::<DotprodTiles<false>, E>(job) }
}

/// # Safety
/// As [`super::super::Multiply`].
#[target_feature(enable = "neon,dotprod")]
pub(in crate::kernels) unsafe fn multiply_a55<E: End>(job: &Job) {
    // SAFETY: the job is valid, and the CPU has the features that this is compiled for.
    unsafe { product::multiply::<DotprodTiles<true>, E>(job) }
}

/// Tiles in the schedule for out-of-order or in-order cores.
struct DotprodTiles<const IN_ORDER: bool>;

// SAFETY: `tile` and `tile_a55` read whole steps of packed rows and panels.
unsafe impl<const IN_ORDER: bool> MicroKernel for DotprodTiles<IN_ORDER> {
    type V = Lanes128;
    const NR: usize = NR;
    const LHS_PANELS: bool = true;
    type Buffers = Buffers<MR, GROUP_COLS>;

    #[inline(always)]
    fn next_rows(remaining: usize, _job: &Job) -> usize {
        next_rows_of_12(remaining)
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
                1 => one_row::<E>(panels, input, end),
                2 => tile::<E, 2>(panels, input, end),
                4 if IN_ORDER => tile_a55::<E, 4>(panels, input, end),
                4 => tile::<E, 4>(panels, input, end),
                8 if IN_ORDER => tile_a55::<E, 8>(panels, input, end),
                8 => tile::<E, 8>(panels, input, end),
                _ if IN_ORDER => tile_a55::<E, 12>(panels, input, end),
                _ => tile::<E, 12>(panels, input, end),
            }
        }
    }
}

/// `R` rows by the panels of a group.
///
/// # Safety
/// As [`MicroKernel::tile`].
#[target_feature(enable = "neon,dotprod")]
#[inline(never)]
unsafe fn tile<E: End, const R: usize>(panels: usize, input: &TileInput, end: &TileEnd) {
    // SAFETY: the end is that of the epilogue's store, and the CPU has NEON.
    let ready = unsafe { E::ready(end.epilogue) };
    for panel in 0..panels {
        // SAFETY: packed rows and panels are readable for whole steps, of which each row has 4 bytes.
        unsafe {
            let end = end_of_panel(end, panel * NR);
            let mut sums = [[end.base::<Lanes128>(0), end.base::<Lanes128>(1)]; R];
            let mut at = Cursor::new(&input.panel(panel));
            if R == 12 {
                // `R` rows are these rows.
                steps_of_12(&mut *(&raw mut sums).cast(), &mut at);
            } else if R == 8 {
                steps_of_8(&mut *(&raw mut sums).cast(), &mut at);
            }
            let Cursor { mut lhs, mut rhs, mut steps } = at;
            if R == 2 {
                // One load takes 2 steps.
                for _ in 0..steps / 2 {
                    let a = vld1q_s8(lhs);
                    for step in 0..2 {
                        let panel = rhs.add(step * NR * KR);
                        let b = [vld1q_s8(panel), vld1q_s8(panel.add(16))];
                        for r in 0..R {
                            sums[r][0] = sdot_lane(sums[r][0], b[0], a, step * R + r);
                            sums[r][1] = sdot_lane(sums[r][1], b[1], a, step * R + r);
                        }
                    }
                    lhs = lhs.add(16);
                    rhs = rhs.add(2 * NR * KR);
                }
                steps %= 2;
            }
            rest(&mut sums, Cursor { lhs, rhs, steps });
            finish_from_base::<Lanes128, E, R, 2>(sums, &end, &ready);
        }
    }
}

/// One row by the panels of a group, four at a time while there are as many.
///
/// # Safety
/// As [`MicroKernel::tile`].
#[target_feature(enable = "neon,dotprod")]
#[inline(never)]
unsafe fn one_row<E: End>(panels: usize, input: &TileInput, end: &TileEnd) {
    // SAFETY: the end is that of the epilogue's store, and the CPU has NEON.
    let ready = unsafe { E::ready(end.epilogue) };
    let mut panel = 0;
    // SAFETY: the group has the panels that are asked for.
    unsafe {
        while panels - panel >= 4 {
            row_by_panels::<E, 4, 1>(panel, input, end, &ready);
            panel += 4;
        }
        if panels - panel >= 2 {
            row_by_panels::<E, 2, 2>(panel, input, end, &ready);
            panel += 2;
        }
        if panel < panels {
            row_by_panels::<E, 1, 4>(panel, input, end, &ready);
        }
    }
}

/// One row by `P` panels. An `sdot` waits for the one before that adds to the same sums, so there are eight chains of them, of fewer
/// panels `C` for each vector of columns, which take turns.
///
/// # Safety
/// As [`MicroKernel::tile`], for panels from `first` on.
#[target_feature(enable = "neon,dotprod")]
#[inline]
unsafe fn row_by_panels<E: End, const P: usize, const C: usize>(
    first: usize,
    input: &TileInput,
    end: &TileEnd,
    ready: &E::Ready<Lanes128>,
) {
    // SAFETY: the packed row and the panels are readable for whole steps, of which the row has 4 bytes.
    unsafe {
        let end = end_of_panel(end, first * NR);
        let mut chains = [[[vdupq_n_s32(0); 2]; P]; C];
        for p in 0..P {
            chains[0][p] = [end.base::<Lanes128>(2 * p), end.base::<Lanes128>(2 * p + 1)];
        }
        let Cursor { mut lhs, rhs, steps } = Cursor::new(&input.panel(first));
        let mut panels = [rhs; P];
        for p in 1..P {
            panels[p] = panels[p - 1].add(input.panel_stride);
        }
        // One load of the row takes 4 steps.
        for _ in 0..steps / 4 {
            let a = vld1q_s8(lhs);
            lhs = lhs.add(16);
            // Written out: the lane is a part of the instruction.
            macro_rules! steps {
                ($($step:literal)*) => {$(
                    for p in 0..P {
                        let panel = panels[p].add($step * NR * KR);
                        let [first, second] = &mut chains[$step % C][p];
                        *first = sdot_lane(*first, vld1q_s8(panel), a, $step);
                        *second = sdot_lane(*second, vld1q_s8(panel.add(16)), a, $step);
                    }
                )*};
            }
            steps!(0 1 2 3);
            for panel in &mut panels {
                *panel = panel.add(4 * NR * KR);
            }
        }
        let mut sums = [[vdupq_n_s32(0); 2]; P];
        for p in 0..P {
            let mut sum = [chains[0][p]];
            for chain in &chains[1..] {
                sum[0] = [vaddq_s32(sum[0][0], chain[p][0]), vaddq_s32(sum[0][1], chain[p][1])];
            }
            rest(&mut sum, Cursor { lhs, rhs: panels[p], steps: steps % 4 });
            sums[p] = sum[0];
        }
        // A panel's two vectors of columns stand before those of the next.
        match P {
            4 => finish_from_base::<Lanes128, E, 1, 8>([*(&raw const sums).cast()], &end, ready),
            2 => finish_from_base::<Lanes128, E, 1, 4>([*(&raw const sums).cast()], &end, ready),
            _ => finish_from_base::<Lanes128, E, 1, 2>([*(&raw const sums).cast()], &end, ready),
        }
    }
}

/// [`tile`] of 12, 8 or 4 rows in the schedule for in-order cores.
///
/// # Safety
/// As [`MicroKernel::tile`].
#[target_feature(enable = "neon,dotprod")]
#[inline(never)]
unsafe fn tile_a55<E: End, const R: usize>(panels: usize, input: &TileInput, end: &TileEnd) {
    // SAFETY: the end is that of the epilogue's store, and the CPU has NEON.
    let ready = unsafe { E::ready(end.epilogue) };
    for panel in 0..panels {
        // SAFETY: as `tile`.
        unsafe {
            let end = end_of_panel(end, panel * NR);
            let mut sums = [[end.base::<Lanes128>(0), end.base::<Lanes128>(1)]; R];
            let mut at = Cursor::new(&input.panel(panel));
            if R == 12 {
                steps_of_12_in_order(&mut *(&raw mut sums).cast(), &mut at);
            } else if R == 8 {
                steps_of_8_in_order(&mut *(&raw mut sums).cast(), &mut at);
            } else {
                const { assert!(matches!(R, 12 | 8 | 4)) };
                steps_of_4_in_order(&mut *(&raw mut sums).cast(), &mut at);
            }
            rest(&mut sums, at);
            finish_from_base::<Lanes128, E, R, 2>(sums, &end, &ready);
        }
    }
}
