//! Matrix-multiply kernel: 64-bit ARM CPUs with FEAT_I8MM (Neoverse V1, N2, Apple M2 and later).
//!
//! - Instruction: `smmla`: 2 rows x 8 by 8 x 2 columns of i8, added to a 2 x 2 block of i32: 32 MAC.
//! - Tile: 12 rows x 8 columns as 6 x 4 blocks. Registers: 24 sums, 4 of `rhs`, 4 of `lhs`: 32. Fewer rows: 8, 4, 2, 1 on
//!   the same layout of `rhs`; 1 row takes two steps as if they were two rows.
//! - `lhs`: panels of `h` = 12 (8, 4, 2, 1) rows of i8, kr = 8: `value(i, k)` at `(k / 8) * 8 * h + i * 8 + k % 8`. `rhs`:
//!   panels of 8 columns, kr = 8: `value(k, n)` at `(n / 8) * K8 * 8 + (k / 8) * 64 + (n % 8) * 8 + k % 8`.
//! - Ceiling: 64 MAC/cycle on N2, 128 on V1 and V2. 10 loads to 24 multiplies. V2 starts 6 instructions a cycle, 4 of them
//!   multiplies: so a turn of the loop is several steps, its loads have immediate offsets (`ldp q` and post-indexed loads
//!   count as 2 or 3 instructions there), and a turn ends in 4: two pointers, a count, a branch. Steps that do not fill a turn
//!   follow one by one.
//! - Order: columns and up to 4 pairs of rows are loaded before the first multiply, further pairs as soon as a register is
//!   free: cores that run in order wait for a load once a step.
//! - Exact: `smmla` adds eight 16-bit products to each i32, modulo 2^32.

use core::arch::{aarch64::*, asm};

use super::{
    super::{
        Id, Isa, Job, Kernel, LhsFormat, LhsRows, SumOffset,
        product::{
            self, Buffers, End, MicroKernel, TileEnd, TileInput, finish, group_cols,
            layout::{self, padded},
        },
    },
    GROUP_COLS, blocks, end_of_panel,
    lanes128::Lanes128,
    next_rows_of_12,
    pack::{pack_panels, pack_rhs},
};

const MR: usize = 12;
const NR: usize = 8;
const KR: usize = 8;

pulp::simd_type! {
    /// Proof that this CPU has int8 matrix multiplies.
    struct I8mm {
        neon: "neon",
        i8mm: "i8mm",
    }
}

/// The table entry.
pub(crate) static KERNEL: Kernel = Kernel {
    id: Id::NeonI8mm,
    isa: Isa::Neon,
    is_available: I8mm::is_available,
    mr: MR,
    nr: NR,
    kr: KR,
    group_cols: group_cols::<I8mmTiles>(),
    macs_per_cycle: 128,
    lhs: LhsFormat::PackedSigned,
    flips_lhs: || false,
    offset: SumOffset::None,
    scratch: |_| 0,
    lhs_stride: |k| padded(k, KR),
    pack_rhs: pack_rhs::<NR, KR>,
    pack_lhs,
    row_sums,
};

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
#[target_feature(enable = "neon,i8mm")]
pub(in crate::kernels) unsafe fn multiply<E: End>(job: &Job) {
    // SAFETY: the job is valid, and the CPU has the features that this is compiled for.
    unsafe { product::multiply::<I8mmTiles, E>(job) }
}

struct I8mmTiles;

// SAFETY: `tile` reads whole steps of packed rows and panels.
unsafe impl MicroKernel for I8mmTiles {
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
                2 => tile::<E, 2, 1>(panels, input, end),
                4 => tile::<E, 4, 2>(panels, input, end),
                8 => tile::<E, 8, 4>(panels, input, end),
                _ => tile::<E, 12, 6>(panels, input, end),
            }
        }
    }
}

/// Assembly that loads a pair of rows in a step: 16 bytes at `$at`.
macro_rules! load {
    ($a:literal, $at:literal) => {
        concat!("ldr q", $a, ", [{lhs}, #(", $at, ")]\n")
    };
}

/// Assembly that multiplies a pair of rows by the step's columns, in v24 to v27, into four sums.
#[rustfmt::skip]
macro_rules! multiply {
    ($a:literal, $s0:literal $s1:literal $s2:literal $s3:literal) => {
        concat!(
            "smmla v", $s0, ".4s, v", $a, ".16b, v24.16b\n",
            "smmla v", $s1, ".4s, v", $a, ".16b, v25.16b\n",
            "smmla v", $s2, ".4s, v", $a, ".16b, v26.16b\n",
            "smmla v", $s3, ".4s, v", $a, ".16b, v27.16b\n",
        )
    };
}

/// Assembly that loads the 8 columns of a step.
macro_rules! columns {
    () => {
        concat!(
            r"ldr q24, [{rhs}, #(\step * 64)]",
            "\n",
            r"ldr q25, [{rhs}, #(\step * 64 + 16)]",
            "\n",
            r"ldr q26, [{rhs}, #(\step * 64 + 32)]",
            "\n",
            r"ldr q27, [{rhs}, #(\step * 64 + 48)]",
            "\n",
        )
    };
}

/// The loop over K: sums of `R` rows by one panel, as blocks of 2 x 2, from those of `base` on.
macro_rules! loop_over_k {
    (
        $(#[$doc:meta])* $name:ident, rows $rows:literal, in a turn $turn:literal: $list:literal,
        step $step:expr, sums $pairs:literal { $($register:tt $p:literal $j:literal,)* }
    ) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// The packed rows and the panel are readable for whole steps; the CPU has int8 matrix multiplies.
        #[target_feature(enable = "neon,i8mm")]
        #[inline]
        unsafe fn $name(input: &TileInput, base: [int32x4_t; 4]) -> [[int32x4_t; 4]; $pairs] {
            let steps = input.k.div_ceil(KR);
            let mut sums = [base; $pairs];
            // SAFETY: reads `steps` steps, `$turn` a turn and then those that are left, each of 8 * `$rows` bytes at `lhs` and
            // 64 at `rhs`; changes the registers named and flags, nothing else.
            unsafe {
                asm!(
                    "cbz {turns}, 3f",
                    "2:",
                    concat!(".irp step, ", $list),
                    $step,
                    ".endr",
                    "add {lhs}, {lhs}, #({turn} * {rows} * 8)",
                    "add {rhs}, {rhs}, #({turn} * 64)",
                    "subs {turns}, {turns}, #1",
                    "b.ne 2b",
                    "3:",
                    "cbz {rest}, 5f",
                    "4:",
                    ".irp step, 0",
                    $step,
                    ".endr",
                    "add {lhs}, {lhs}, #({rows} * 8)",
                    "add {rhs}, {rhs}, #64",
                    "subs {rest}, {rest}, #1",
                    "b.ne 4b",
                    "5:",
                    lhs = inout(reg) input.lhs => _,
                    rhs = inout(reg) input.rhs => _,
                    turns = inout(reg) steps / $turn => _,
                    rest = inout(reg) steps % $turn => _,
                    turn = const $turn,
                    rows = const $rows,
                    $(inout($register) sums[$p][$j],)*
                    out("v24") _, out("v25") _, out("v26") _, out("v27") _,
                    out("v28") _, out("v29") _, out("v30") _, out("v31") _,
                    options(nostack, readonly, pure)
                );
            }
            sums
        }
    };
}

loop_over_k! {
    /// 12 rows: 34 instructions a step.
    sums_of_12, rows 12, in a turn 4: "0, 1, 2, 3",
    step concat!(
        columns!(),
        load!(28, r"\step * 96"),
        load!(29, r"\step * 96 + 16"),
        load!(30, r"\step * 96 + 32"),
        load!(31, r"\step * 96 + 48"),
        multiply!(28, 0 1 2 3),
        load!(28, r"\step * 96 + 64"),
        multiply!(29, 4 5 6 7),
        load!(29, r"\step * 96 + 80"),
        multiply!(30, 8 9 10 11),
        multiply!(31, 12 13 14 15),
        multiply!(28, 16 17 18 19),
        multiply!(29, 20 21 22 23),
    ),
    sums 6 {
        "v0" 0 0, "v1" 0 1, "v2" 0 2, "v3" 0 3, "v4" 1 0, "v5" 1 1, "v6" 1 2, "v7" 1 3,
        "v8" 2 0, "v9" 2 1, "v10" 2 2, "v11" 2 3, "v12" 3 0, "v13" 3 1, "v14" 3 2, "v15" 3 3,
        "v16" 4 0, "v17" 4 1, "v18" 4 2, "v19" 4 3, "v20" 5 0, "v21" 5 1, "v22" 5 2, "v23" 5 3,
    }
}

loop_over_k! {
    /// 8 rows: 24 instructions a step, which is all that a core of 6 a cycle takes while it multiplies: counting shows
    /// unless turns are long.
    sums_of_8, rows 8, in a turn 12: "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11",
    step concat!(
        columns!(),
        load!(28, r"\step * 64"),
        load!(29, r"\step * 64 + 16"),
        load!(30, r"\step * 64 + 32"),
        load!(31, r"\step * 64 + 48"),
        multiply!(28, 0 1 2 3),
        multiply!(29, 4 5 6 7),
        multiply!(30, 8 9 10 11),
        multiply!(31, 12 13 14 15),
    ),
    sums 4 {
        "v0" 0 0, "v1" 0 1, "v2" 0 2, "v3" 0 3, "v4" 1 0, "v5" 1 1, "v6" 1 2, "v7" 1 3,
        "v8" 2 0, "v9" 2 1, "v10" 2 2, "v11" 2 3, "v12" 3 0, "v13" 3 1, "v14" 3 2, "v15" 3 3,
    }
}

loop_over_k! {
    /// 4 rows: 14 instructions a step.
    sums_of_4, rows 4, in a turn 4: "0, 1, 2, 3",
    step concat!(
        columns!(),
        load!(28, r"\step * 32"),
        load!(29, r"\step * 32 + 16"),
        multiply!(28, 0 1 2 3),
        multiply!(29, 4 5 6 7),
    ),
    sums 2 {
        "v0" 0 0, "v1" 0 1, "v2" 0 2, "v3" 0 3, "v4" 1 0, "v5" 1 1, "v6" 1 2, "v7" 1 3,
    }
}

loop_over_k! {
    /// 2 rows: 9 instructions a step.
    sums_of_2, rows 2, in a turn 4: "0, 1, 2, 3",
    step concat!(
        columns!(),
        load!(28, r"\step * 16"),
        multiply!(28, 0 1 2 3),
    ),
    sums 1 { "v0" 0 0, "v1" 0 1, "v2" 0 2, "v3" 0 3, }
}

/// `R` rows, in `PAIRS` pairs, by the panels of a group.
///
/// # Safety
/// As [`MicroKernel::tile`].
#[target_feature(enable = "neon,i8mm")]
#[inline(never)]
unsafe fn tile<E: End, const R: usize, const PAIRS: usize>(panels: usize, input: &TileInput, end: &TileEnd) {
    // SAFETY: the end is that of the epilogue's store, and the CPU has NEON.
    let ready = unsafe { E::ready(end.epilogue) };
    for panel in 0..panels {
        // SAFETY: packed rows and panels are readable for whole steps, of which each row has 8 bytes.
        unsafe {
            let (input, end) = (input.panel(panel), end_of_panel(end, panel * NR));
            let base = blocks::twice([end.base::<Lanes128>(0), end.base::<Lanes128>(1)]);
            let mut sums = [base; PAIRS];
            match R {
                12 => sums.copy_from_slice(&sums_of_12(&input, base)),
                8 => sums.copy_from_slice(&sums_of_8(&input, base)),
                4 => sums.copy_from_slice(&sums_of_4(&input, base)),
                _ => sums.copy_from_slice(&sums_of_2(&input, base)),
            }
            blocks::finish::<E, R, PAIRS>(sums, &end, &ready);
        }
    }
}

/// Assembly of two steps of one row.
macro_rules! two_steps {
    () => {
        concat!(
            r"ldr q28, [{lhs}, #(\step * 16)]",
            "\n",
            r"ldr q24, [{rhs}, #(\step * 128)]",
            "\n",
            r"ldr q25, [{rhs}, #(\step * 128 + 16)]",
            "\n",
            r"ldr q26, [{rhs}, #(\step * 128 + 32)]",
            "\n",
            r"ldr q27, [{rhs}, #(\step * 128 + 48)]",
            "\n",
            r"ldr q20, [{rhs}, #(\step * 128 + 64)]",
            "\n",
            r"ldr q21, [{rhs}, #(\step * 128 + 80)]",
            "\n",
            r"ldr q22, [{rhs}, #(\step * 128 + 96)]",
            "\n",
            r"ldr q23, [{rhs}, #(\step * 128 + 112)]",
            "\n",
            "smmla v0.4s, v28.16b, v24.16b\n",
            "smmla v1.4s, v28.16b, v25.16b\n",
            "smmla v2.4s, v28.16b, v26.16b\n",
            "smmla v3.4s, v28.16b, v27.16b\n",
            "smmla v4.4s, v28.16b, v20.16b\n",
            "smmla v5.4s, v28.16b, v21.16b\n",
            "smmla v6.4s, v28.16b, v22.16b\n",
            "smmla v7.4s, v28.16b, v23.16b\n",
        )
    };
}

/// One row by one panel, two steps of the row in place of two rows: of the blocks of even steps the first half is wanted,
/// of those of odd steps the second. The other halves hold products of values that do not belong together.
///
/// # Safety
/// As [`MicroKernel::tile`].
#[target_feature(enable = "neon,i8mm")]
#[inline(never)]
unsafe fn one_row<E: End>(panels: usize, input: &TileInput, end: &TileEnd) {
    for panel in 0..panels {
        // SAFETY: the group has the panel, whose columns and row are readable for whole steps.
        unsafe {
            let end = end_of_panel(end, panel * NR);
            finish::<Lanes128, E, 1, 2>([row_by_panel(&input.panel(panel))], &end);
        }
    }
}

/// The sums of [`one_row`].
///
/// # Safety
/// As [`MicroKernel::tile`], for one panel.
#[target_feature(enable = "neon,i8mm")]
#[inline]
unsafe fn row_by_panel(input: &TileInput) -> [int32x4_t; 2] {
    // SAFETY: the packed row and the panel are readable for whole steps, of which the row has 8 bytes; the assembly reads
    // `steps` of them and changes the registers named and flags, nothing else.
    unsafe {
        let steps = input.k.div_ceil(KR);
        let (mut even, mut odd) = ([vdupq_n_s32(0); 4], [vdupq_n_s32(0); 4]);
        // Two steps are 16 bytes of the row and 128 of the panel; a turn has four times two.
        asm!(
            "cbz {turns}, 3f",
            "2:",
            ".irp step, 0, 1, 2, 3",
            two_steps!(),
            ".endr",
            "add {lhs}, {lhs}, #64",
            "add {rhs}, {rhs}, #512",
            "subs {turns}, {turns}, #1",
            "b.ne 2b",
            "3:",
            "cbz {twos}, 5f",
            "4:",
            ".irp step, 0",
            two_steps!(),
            ".endr",
            "add {lhs}, {lhs}, #16",
            "add {rhs}, {rhs}, #128",
            "subs {twos}, {twos}, #1",
            "b.ne 4b",
            "5:",
            // The last of an odd number of steps: 8 bytes of the row, and zeros.
            "tbz {steps}, #0, 6f",
            "ldr d28, [{lhs}]",
            "ldr q24, [{rhs}]",
            "ldr q25, [{rhs}, #16]",
            "ldr q26, [{rhs}, #32]",
            "ldr q27, [{rhs}, #48]",
            "smmla v0.4s, v28.16b, v24.16b",
            "smmla v1.4s, v28.16b, v25.16b",
            "smmla v2.4s, v28.16b, v26.16b",
            "smmla v3.4s, v28.16b, v27.16b",
            "6:",
            lhs = inout(reg) input.lhs => _,
            rhs = inout(reg) input.rhs => _,
            turns = inout(reg) steps / 8 => _,
            twos = inout(reg) steps % 8 / 2 => _,
            steps = in(reg) steps,
            inout("v0") even[0], inout("v1") even[1], inout("v2") even[2], inout("v3") even[3],
            inout("v4") odd[0], inout("v5") odd[1], inout("v6") odd[2], inout("v7") odd[3],
            out("v20") _, out("v21") _, out("v22") _, out("v23") _,
            out("v24") _, out("v25") _, out("v26") _, out("v27") _, out("v28") _,
            options(nostack, readonly, pure)
        );
        let half = |block: int32x4_t| vreinterpretq_s64_s32(block);
        let mut row = [vdupq_n_s32(0); 2];
        for (q, vector) in row.iter_mut().enumerate() {
            let even = vzip1q_s64(half(even[2 * q]), half(even[2 * q + 1]));
            let odd = vzip2q_s64(half(odd[2 * q]), half(odd[2 * q + 1]));
            *vector = vaddq_s32(vreinterpretq_s32_s64(even), vreinterpretq_s32_s64(odd));
        }
        row
    }
}
