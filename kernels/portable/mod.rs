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
    product::{self, Buffers, End, MicroKernel, TileEnd, TileInput, finish, group_cols, layout, next_part},
    weights::i8::pack_bytes,
};
use lanes::Scalar4;

pub(super) mod depthwise;
pub(super) mod lanes;

const MR: usize = 4;
const NR: usize = 4;

/// The table entry.
pub(crate) static KERNEL: Kernel = Kernel {
    id: Id::Portable,
    isa: Isa::Portable,
    is_available: || true,
    mr: MR,
    nr: NR,
    kr: 1,
    group_cols: group_cols::<Portable>(),
    macs_per_cycle: 2,
    lhs: LhsFormat::Bytes { unsigned: false },
    flips_lhs: || false,
    offset: SumOffset::None,
    scratch: |_| 0,
    lhs_stride: layout::byte_row_stride,
    pack_rhs: pack_bytes::<NR, 1>,
    pack_lhs,
    row_sums,
};

/// # Safety
/// As [`Kernel::pack_lhs`].
unsafe fn pack_lhs(src: &LhsRows, dst: *mut u8) {
    let flip = if src.unsigned { 0x80 } else { 0 };
    // SAFETY: the rows are readable and `dst` has room for them in this format.
    unsafe { layout::copy_rows(src, flip, layout::byte_row_stride(src.k), dst) }
}

/// # Safety
/// As [`Kernel::row_sums`].
unsafe fn row_sums(src: &LhsRows, dst: *mut i32) {
    // SAFETY: the rows are readable and `dst` has room for a sum of each.
    unsafe { layout::row_sums(src, false, dst) }
}

/// # Safety
/// As [`super::Multiply`].
pub(in crate::kernels) unsafe fn multiply<E: End>(job: &Job) {
    // SAFETY: the job is valid.
    unsafe { product::multiply::<Portable, E>(job) }
}

struct Portable;

// SAFETY: `tile` reads K bytes of each of its rows and K steps of each of its panels.
unsafe impl MicroKernel for Portable {
    type V = Scalar4;
    const NR: usize = NR;
    type Buffers = Buffers<MR, NR>;

    fn next_rows(remaining: usize, _job: &Job) -> usize {
        next_part(remaining, MR)
    }

    fn next_panels(_remaining: usize, _job: &Job) -> usize {
        1
    }

    unsafe fn tile<E: End>(rows: usize, _panels: usize, input: &TileInput, end: &TileEnd) {
        // SAFETY: rows are at most 4; input and end are valid for them.
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
