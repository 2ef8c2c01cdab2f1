//! The second contract, sums to memory: for instruction sets whose sums are no vectors that a function in Rust can hold.
//!
//! A kernel of this contract leaves the sums of a tile in a buffer of its own tile's size, and an end finishes them from there, a row
//! at a time. What it pays is a store and a load for each sum, once for the whole of K.

use core::{marker::PhantomData, mem::MaybeUninit};

use super::{
    super::{Job, vectors::narrow::Narrow},
    columns::TileBuffers,
    drive::{MicroKernel, TileInput},
    ends::{End, finish},
    tile::TileEnd,
};

/// The sums of a tile, its rows one behind the other.
pub(crate) struct Sums {
    pub start: *mut i32,
    pub rows: usize,
    /// Of whole panels.
    pub cols: usize,
}

/// The part that an instruction set writes for itself. See [`MicroKernel`] for what is the same there.
///
/// # Safety
/// `sums` computes exactly the dot products it is asked for, reads nothing outside the rows and panels it is given and writes nothing
/// but these; `end` writes outputs as [`finish`] does.
#[allow(dead_code, reason = "no kernel of some targets leaves sums in memory")]
pub(crate) unsafe trait SumsKernel {
    /// What outputs are made with that the instruction set has no code of its own for; a panel's columns are whole vectors.
    type V: Narrow;
    /// Columns of a panel.
    const NR: usize;
    /// [`MicroKernel::LHS_PANELS`].
    const LHS_PANELS: bool;
    /// [`MicroKernel::Buffers`].
    type Buffers: TileBuffers;
    /// Room for the sums of its largest tile: an array of i32.
    type Sums: Copy;

    /// As [`MicroKernel::next_rows`].
    fn next_rows(remaining: usize) -> usize;

    /// As [`MicroKernel::next_panels`].
    fn next_panels(remaining: usize, job: &Job) -> usize;

    /// Writes the sums of a tile.
    ///
    /// # Safety
    /// As [`MicroKernel::tile`]; there is room for the sums.
    unsafe fn sums(input: &TileInput, panels: usize, sums: &Sums);

    /// Makes outputs of the sums, of which it may make what it likes.
    ///
    /// # Safety
    /// As [`finish`], for the rows and columns of the sums, which are those of the tile.
    #[inline(always)]
    unsafe fn end<E: End>(sums: &Sums, end: &TileEnd) {
        // SAFETY: the caller's, of `finish_sums`: columns are whole panels, and so whole vectors.
        unsafe { finish_sums::<Self::V, E>(sums, end) }
    }
}

/// Makes outputs of sums in memory, a row at a time.
///
/// # Safety
/// As [`SumsKernel::end`]; columns are whole vectors; the CPU has the features of `V`.
#[inline(always)]
#[allow(dead_code, reason = "as above")]
pub(crate) unsafe fn finish_sums<V: Narrow, E: End>(sums: &Sums, end: &TileEnd) {
    for r in 0..sums.rows {
        let row = end.at_row(r, E::BYTES);
        let mut col = 0;
        // SAFETY: vectors of the row that lie below `cols`, whose outputs have their place; an array of vectors is laid out as they are.
        unsafe {
            while col < sums.cols {
                let at: *const i32 = sums.start.add(r * sums.cols + col);
                let end = TileEnd { col: row.col + col, ..row };
                let load = |vector: usize| V::load_i(at.add(vector * V::LANES));
                if sums.cols - col >= 4 * V::LANES {
                    finish::<V, E, 1, 4>([[load(0), load(1), load(2), load(3)]], &end);
                    col += 4 * V::LANES;
                } else {
                    finish::<V, E, 1, 1>([[load(0)]], &end);
                    col += V::LANES;
                }
            }
        }
    }
}

/// A kernel of this contract as one of the first.
#[allow(dead_code, reason = "as above")]
pub(crate) struct ToMemory<K>(PhantomData<K>);

// SAFETY: what `sums` and `end` of the kernel promise.
unsafe impl<K: SumsKernel> MicroKernel for ToMemory<K> {
    type V = K::V;
    const NR: usize = K::NR;
    const LHS_PANELS: bool = K::LHS_PANELS;
    type Buffers = K::Buffers;

    #[inline(always)]
    fn next_rows(remaining: usize, _job: &Job) -> usize {
        K::next_rows(remaining)
    }

    #[inline(always)]
    fn next_panels(remaining: usize, job: &Job) -> usize {
        K::next_panels(remaining, job)
    }

    #[inline(never)]
    unsafe fn tile<E: End>(rows: usize, panels: usize, input: &TileInput, end: &TileEnd) {
        let mut room = MaybeUninit::<K::Sums>::uninit();
        let sums = Sums { start: room.as_mut_ptr().cast(), rows, cols: panels * K::NR };
        debug_assert!(4 * rows * sums.cols <= size_of::<K::Sums>(), "there is room for the largest tile");
        // SAFETY: the caller's; the sums of a tile have been written before they are read.
        unsafe {
            K::sums(input, panels, &sums);
            K::end::<E>(&sums, end);
        }
    }
}
