//! x86-64 kernels.

pub(crate) mod avx2;
pub(crate) mod avx512_vnni;
pub(crate) mod avx_vnni;
mod lanes256;
mod lanes512;

/// Tiles of a 16-register machine with panels of two ymm vectors: about 12 sums in flight whatever the rows, so that
/// a few rows are not bound by the latency of their multiplies.
mod ymm_tiles {
    use super::super::drive::balanced;

    /// Rows of the largest tile.
    pub const MR: usize = 6;
    /// Columns of a panel.
    pub const NR: usize = 16;

    /// See [`super::super::drive::MicroKernel::next_panels`].
    pub fn next_panels(remaining: usize, rows: usize) -> usize {
        match rows {
            1 => balanced(remaining, 4),
            2 => balanced(remaining, 3),
            3 => balanced(remaining, 2),
            _ => 1,
        }
    }

    /// Calls `$tile::<E, R, Q ..>` for the rows and panels that `next_panels` can ask for; Q counts vectors.
    macro_rules! dispatch {
        ($tile:ident, $rows:expr, $panels:expr, $args:tt $(, $extra:tt)*) => {
            match ($rows, $panels) {
                (1, 1) => $tile::<E, 1, 2 $(, $extra)*> $args,
                (1, 2) => $tile::<E, 1, 4 $(, $extra)*> $args,
                (1, 3) => $tile::<E, 1, 6 $(, $extra)*> $args,
                (1, _) => $tile::<E, 1, 8 $(, $extra)*> $args,
                (2, 1) => $tile::<E, 2, 2 $(, $extra)*> $args,
                (2, 2) => $tile::<E, 2, 4 $(, $extra)*> $args,
                (2, _) => $tile::<E, 2, 6 $(, $extra)*> $args,
                (3, 1) => $tile::<E, 3, 2 $(, $extra)*> $args,
                (3, _) => $tile::<E, 3, 4 $(, $extra)*> $args,
                (4, _) => $tile::<E, 4, 2 $(, $extra)*> $args,
                (5, _) => $tile::<E, 5, 2 $(, $extra)*> $args,
                (_, _) => $tile::<E, 6, 2 $(, $extra)*> $args,
            }
        };
    }
    pub(in super::super) use dispatch;
}

/// The last 1 to 3 bytes of a row as a word whose other bytes are 0.
///
/// # Safety
/// `count` bytes at `p` are readable; `count` is 1 to 3.
#[inline(always)]
unsafe fn tail_word(p: *const u8, count: usize) -> i32 {
    // SAFETY: the caller's: no byte at or beyond `count` is read.
    unsafe {
        let first = u32::from(*p);
        let last = u32::from(*p.add(count - 1)) << (8 * (count - 1));
        let middle = u32::from(*p.add(count / 2)) << (8 * (count / 2));
        (first | middle | last) as i32
    }
}
