//! Products of few columns: rows of `lhs` are vectors of K, rather than values that meet as many columns as a panel has.
//!
//! ```text
//! each column is gathered out of its panel, once
//! for each block of as many rows as a vector has lanes
//!     the sums of its rows with all columns    the kernel's part
//!     for each column                          a vector of sums, one of each row, through the epilogue
//! ```
//!
//! Ends know vectors whose lanes are columns. Here they are rows: an end is given the output turned, one row of as many columns as the
//! block has rows, so that every end is right here without another line.

use core::{ffi::c_void, mem::MaybeUninit};

use super::{
    super::{Epilogue, Job, Param, vectors::lanes::Lanes},
    columns::{Buffers, Columns, TileBuffer, TileBuffers},
    drive::MicroKernel,
    ends::{End, Store},
    place::Place,
    tile::TileEnd,
};

/// Bytes of gathered columns: they stay in a first cache level while rows pass them.
const ROOM: usize = 16 << 10;

/// Most columns of a panel, and most sums of a block of rows.
const MOST: usize = 128;

/// What a kernel adds to [`MicroKernel`] if its rows are read one behind the other and it multiplies few columns so. Its product asks
/// [`takes`], and then calls [`multiply`] in a function of its own.
///
/// # Safety
/// `dots` computes exactly the sums it is asked for, reads nothing outside the rows and columns it is given and writes nothing else.
pub(crate) unsafe trait DotKernel: MicroKernel {
    /// A value of a gathered column: of as many bytes as one of a prepared row.
    type Value: Copy + From<i8>;
    /// Depth of a step of a panel.
    const KR: usize;
    /// Most columns, of one panel.
    const COLS: usize;
    /// Values in a vector of K, a multiple of `KR`.
    const DEPTH: usize;

    /// Whether a job of at most `COLS` columns, as many rows as a vector has lanes and a depth of `DEPTH` is multiplied sooner so.
    fn pays(job: &Job) -> bool;

    /// Writes the sums of a block: that of row `r` with column `c` to `sums[c * LANES + r]`.
    ///
    /// # Safety
    /// The input is valid; there is room for the sums; the CPU has the features.
    unsafe fn dots(input: &DotInput<Self::Value>, sums: *mut i32);
}

/// A block of rows, as many as a vector has lanes, and columns.
pub(crate) struct DotInput<T> {
    /// The first row.
    pub rows: *const u8,
    /// Bytes.
    pub row_stride: usize,
    /// [`Job::flip_lhs`].
    pub flip_lhs: bool,
    /// The first column, aligned to 64: its whole vectors of K; then, if K is not whole, one for the *last* `DEPTH` values of a row, in
    /// which those are zeros that the vectors before have. So every vector of a row lies inside it.
    pub columns: *const T,
    /// Values from one column to the next: those of a column.
    pub column_stride: usize,
    pub cols: usize,
    /// At least `DEPTH`.
    pub k: usize,
}

/// Gathered columns and the sums of a block.
#[repr(C, align(64))]
struct Room<T> {
    columns: [MaybeUninit<u64>; ROOM / 8],
    sums: [MaybeUninit<i32>; MOST],
    values: [T; 0],
}

/// The job is one for [`multiply`].
#[inline(always)]
pub(crate) fn takes<K: DotKernel>(job: &Job) -> bool {
    job.cols <= K::COLS
        && job.rows >= K::V::LANES
        && job.k >= K::DEPTH
        && job.k <= ROOM
        && job.cols * job.k.next_multiple_of(K::DEPTH) * size_of::<K::Value>() <= ROOM
        && job.epilogue.groups.is_null()
        && K::pays(job)
}

/// Computes a job that this [`takes`]. To be called inside a function compiled for the kernel's features.
///
/// # Safety
/// As [`super::super::Multiply`].
#[inline(always)]
pub(crate) unsafe fn multiply<K: DotKernel, E: End>(job: &Job) {
    const {
        assert!(K::COLS <= K::NR && K::NR <= MOST, "columns of one panel");
        assert!(K::COLS * K::V::LANES <= MOST && 2 * K::V::LANES <= MOST, "there is room for the sums");
        assert!(size_of::<K::Value>() == K::LHS_BYTES && !K::LHS_PANELS, "rows one behind the other");
    }
    debug_assert!(takes::<K>(job));
    let mut buffers = [Buffers::<1, MOST>::NEW, Buffers::<1, MOST>::NEW];
    let [of_columns, of_rows] = &mut buffers;
    let (mut columns, _) = of_columns.parts();
    let (mut turned, buffer) = of_rows.parts();
    let mut room = Room::<K::Value> {
        columns: [const { MaybeUninit::uninit() }; ROOM / 8],
        sums: [const { MaybeUninit::uninit() }; MOST],
        values: [],
    };
    let gathered: *mut K::Value = room.columns.as_mut_ptr().cast();
    let sums: *mut i32 = room.sums.as_mut_ptr().cast();
    let store = match job.epilogue.store {
        Store::F32 { col_scales, bias, min, max, .. } => {
            Store::F32 { row_scales: Param { ptr: &1.0, step: 0 }, col_scales, bias, min, max }
        }
        other => other,
    };
    let epilogue = Epilogue { store, ..*job.epilogue };
    let lanes = K::V::LANES;
    // SAFETY: the columns have their place in the room; every block is of rows of the job; ends are given whole vectors of a buffer or
    // of contiguous outputs of the job.
    unsafe {
        columns.fill::<K::V>(job.epilogue, job.first_col, job.cols, K::NR);
        for c in 0..job.cols {
            gather::<K>(job, c, gathered);
        }
        let ready = <E::Tile as End>::ready::<K::V>(&epilogue);
        let mut row = 0;
        while row < job.rows {
            // The last block begins before the rows that are left if they are too few; what it has twice is not stored twice.
            let start = row.min(job.rows - lanes);
            let known = row - start;
            let input = DotInput {
                rows: job.lhs.add(start * job.lhs_stride + K::LHS_BYTES * job.first_k),
                row_stride: job.lhs_stride,
                flip_lhs: job.flip_lhs,
                columns: gathered.cast_const(),
                column_stride: stride::<K>(job.k),
                cols: job.cols,
                k: job.k,
            };
            K::dots(&input, sums);
            let direct = !E::BUFFERED && job.out_row_stride == 1 && known == 0;
            for c in 0..job.cols {
                let out = |row: usize| {
                    let elements = row * job.out_row_stride + c * job.out_col_stride;
                    job.out.cast::<u8>().wrapping_add(elements * E::BYTES).cast::<c_void>()
                };
                turned.turn::<K::V>(&columns, c, &job.epilogue.store, job.first_row + start);
                let end = TileEnd {
                    columns: &turned,
                    col: 0,
                    epilogue: &epilogue,
                    row: 0,
                    row_sums: core::ptr::null(),
                    corrects: false,
                    out: if direct { out(start) } else { buffer.start.cast() },
                    out_stride: 0,
                    accumulate: direct && store.accumulates(),
                };
                let sum = corrected::<K::V>(K::V::load_i(sums.add(c * lanes)), job, &columns, c, start);
                <E::Tile as End>::store::<K::V, 1, 1>(&[[sum]], &end, &ready);
                if !direct {
                    let skipped = known * <E::Tile as End>::BYTES;
                    let rest =
                        TileBuffer { start: buffer.start.wrapping_byte_add(skipped), stride: buffer.stride };
                    let place = Place {
                        rows: 1,
                        cols: lanes - known,
                        col: 0,
                        out: out(row),
                        row_stride: 0,
                        col_stride: job.out_row_stride,
                    };
                    E::flush::<K::V>(&rest, &TileEnd { col: known, ..end }, &place);
                }
            }
            row = start + lanes;
        }
    }
}

/// Values of a gathered column.
#[inline(always)]
fn stride<K: DotKernel>(k: usize) -> usize {
    k.next_multiple_of(K::DEPTH)
}

/// The sums of a block with a column, as the epilogue asks for them.
///
/// # Safety
/// The job has the block of rows and the column; the CPU has the features of `V`.
#[inline(always)]
unsafe fn corrected<V: Lanes>(
    mut sum: V::I,
    job: &Job,
    columns: &Columns,
    column: usize,
    row: usize,
) -> V::I {
    let epilogue = job.epilogue;
    // SAFETY: the epilogue is valid for the rows and the column.
    unsafe {
        sum = V::add_i(sum, V::splat_i(*columns.base.at(column)));
        if epilogue.lhs_zero.step != 0 {
            let zeros = V::load_i(epilogue.lhs_zero.ptr.add(job.first_row + row));
            let zeros = V::add_i(zeros, V::splat_i(epilogue.lhs_shift));
            sum = V::add_i(sum, V::mul_i(zeros, V::splat_i(*columns.zero_factor.at(column))));
        }
        if !epilogue.rhs_zero.is_null() {
            let zero = V::splat_i(*columns.rhs_zero.at(column));
            sum = V::sub_i(sum, V::mul_i(V::load_i(job.row_sums.add(row)), zero));
        }
        sum
    }
}

/// Gathers a column out of its panel, as [`DotInput::columns`] says.
///
/// # Safety
/// The job has the column, and `gathered` room for it.
#[inline(always)]
unsafe fn gather<K: DotKernel>(job: &Job, column: usize, gathered: *mut K::Value) {
    let whole = job.k / K::DEPTH * K::DEPTH;
    let tail = job.k - whole;
    // SAFETY: the panel has every step that K reaches into; there is room for whole vectors.
    unsafe {
        let panel: *const i8 = job.rhs.cast::<i8>().add(column * K::KR);
        let to = gathered.add(column * stride::<K>(job.k));
        for step in 0..whole / K::KR {
            let from: [i8; 16] = {
                let mut values = [0; 16];
                panel.add(step * K::NR * K::KR).copy_to_nonoverlapping(values.as_mut_ptr(), K::KR);
                values
            };
            for t in 0..K::KR {
                to.add(step * K::KR + t).write(from[t].into());
            }
        }
        if tail > 0 {
            let zeros = K::DEPTH - tail;
            for i in 0..zeros {
                to.add(whole + i).write(0.into());
            }
            for t in 0..tail {
                let k = whole + t;
                let value = *panel.add(k / K::KR * K::NR * K::KR + k % K::KR);
                to.add(whole + zeros + t).write(value.into());
            }
        }
    }
}
