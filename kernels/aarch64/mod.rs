//! 64-bit ARM kernels.

pub(crate) mod dotprod;
pub(crate) mod i8mm;
mod lanes128;
pub(crate) mod neon;

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
