//! 64-bit ARM kernels.

use core::arch::asm;

use super::product::TileEnd;

mod blocks;
#[cfg_attr(not(feature = "alloc"), allow(dead_code, reason = "for layers, which need it"))]
pub(super) mod depthwise;
pub(crate) mod dotprod;
mod dotprod_steps;
pub(crate) mod i8mm;
pub(super) mod lanes128;
pub(crate) mod neon;
mod pack;

/// Row panels of the kernels with tiles of 12 rows: fewer rows are packed as panels of 8, 4, 2 and 1.
#[inline(always)]
fn next_rows_of_12(remaining: usize) -> usize {
    match remaining {
        12.. => 12,
        8.. => 8,
        4.. => 4,
        2.. => 2,
        _ => 1,
    }
}

/// Columns that pass the rows of a tile while those are in the first cache level: the group's panels are read once a tile.
const GROUP_COLS: usize = 64;

/// The same address, of which the compiler knows nothing: an address of one row is made from that of the one before, and what
/// ends of tiles need is read where they need it. Else the addresses of every row would be made ready before the first panel of
/// a group, for all that an epilogue may have, and kept in memory for want of registers.
#[inline(always)]
#[allow(clippy::pointers_in_nomem_asm_block, reason = "nothing is read or written")]
fn opaque<T>(mut pointer: *const T) -> *const T {
    // SAFETY: no instruction at all.
    unsafe { asm!("/* {0} */", inout(reg) pointer, options(nomem, nostack, preserves_flags)) };
    pointer
}

/// The end of one panel of a group.
#[inline(always)]
fn end_of_panel<'a>(end: &TileEnd<'a>, col: usize) -> TileEnd<'a> {
    // SAFETY: the pointer is the reference.
    TileEnd { col, ..unsafe { *opaque(end) } }
}
