//! Epilogues, written once over [`Lanes`]: zero-point correction, bias, scale, rounding, clamp, store.
//!
//! A tile's sums are still in registers when they get here. A tile is compiled for each end that a
//! program describes outputs with ([`EndI32`], [`EndF32`], [`EndByte`]); integer requantization ([`EndFixed`]), strided outputs and ragged last columns go through a small
//! buffer of the tile ([`End::flush`]) so that they cost no copy of the tile's code.

use core::{ffi::c_void, hint::unreachable_unchecked, mem::MaybeUninit};

use super::{Epilogue, Store, lanes::Lanes};

/// Groups of four vectors of the largest tile of any kernel.
const MAX_GROUPS: usize = 12;

/// What changes no f32 when it is added, zeros of either sign included: an output without bias needs no branch.
const NO_BIAS: f32 = -0.0;

/// What a kernel needs of the stack: column parameters of a group of panels, and a tile whose outputs cannot go where they belong at
/// once. `COLS` is the most columns of a group, `ROWS` the most rows of a tile.
#[repr(C, align(64))]
pub(crate) struct Buffers<const ROWS: usize, const COLS: usize> {
    columns: [[MaybeUninit<u32>; COLS]; Columns::ROWS],
    tile: [[MaybeUninit<i32>; COLS]; ROWS],
}

/// [`Buffers`] of some size.
pub(crate) trait TileBuffers {
    /// Nothing written.
    const NEW: Self;
    /// Most columns of a group.
    const COLS: usize;

    /// The room for column parameters, and for a tile.
    fn parts(&mut self) -> (Columns, TileBuffer);
}

impl<const ROWS: usize, const COLS: usize> TileBuffers for Buffers<ROWS, COLS> {
    const NEW: Self = Self {
        columns: [const { [const { MaybeUninit::uninit() }; COLS] }; Columns::ROWS],
        tile: [const { [const { MaybeUninit::uninit() }; COLS] }; ROWS],
    };
    const COLS: usize = COLS;

    #[inline(always)]
    fn parts(&mut self) -> (Columns, TileBuffer) {
        let [base, zero_factor, rhs_zero, scale, bias, multiplier, shift] = &mut self.columns;
        let columns = Columns {
            base: Row(base.as_mut_ptr().cast()),
            zero_factor: Row(zero_factor.as_mut_ptr().cast()),
            rhs_zero: Row(rhs_zero.as_mut_ptr().cast()),
            scale: Row(scale.as_mut_ptr().cast()),
            bias: Row(bias.as_mut_ptr().cast()),
            multiplier: Row(multiplier.as_mut_ptr().cast()),
            shift: Row(shift.as_mut_ptr().cast()),
            small_scales: false,
        };
        (columns, TileBuffer { start: self.tile.as_mut_ptr().cast(), stride: COLS })
    }
}

/// The column parameters of one group of panels, padded so that vectors can be read whole: made once for a group,
/// used by every row tile that passes it. Only what the epilogue reads is written, so nothing needs clearing.
pub(crate) struct Columns {
    /// Sum offset + i32 bias, and the zero-point term if all rows share their zero point.
    pub base: Row<i32>,
    pub zero_factor: Row<i32>,
    pub rhs_zero: Row<i32>,
    pub scale: Row<f32>,
    pub bias: Row<f32>,
    multiplier: Row<i32>,
    shift: Row<i32>,
    /// Every scale is below 1, so that no sum times its scale leaves the range of i32.
    small_scales: bool,
}

/// One parameter of each column, in [`Buffers`].
pub(crate) struct Row<T>(*mut T);

impl<T: Copy> Row<T> {
    #[inline(always)]
    pub fn at(&self, column: usize) -> *const T {
        self.0.wrapping_add(column)
    }

    /// Writes `value(j)` for the columns below `count` and `pad` from there to `width`.
    ///
    /// # Safety
    /// The row has `width` columns.
    #[inline(always)]
    unsafe fn fill(&self, count: usize, width: usize, pad: T, value: impl Fn(usize) -> T) {
        for j in 0..width {
            // SAFETY: the caller's.
            unsafe { self.0.add(j).write(if j < count { value(j) } else { pad }) };
        }
    }
}

impl Row<i32> {
    /// Writes `value(j, address of the old value)` for each vector of columns `j` below `width`.
    ///
    /// # Safety
    /// The row has `width` columns, a multiple of `LANES`; the CPU has the features of `V`.
    #[inline(always)]
    unsafe fn each<V: Lanes>(&self, width: usize, value: impl Fn(usize, *const i32) -> V::I) {
        for j in (0..width).step_by(V::LANES) {
            // SAFETY: the caller's.
            unsafe { V::store_i(value(j, self.at(j)), self.0.add(j)) };
        }
    }
}

impl Columns {
    /// Parameters that a column may have.
    const ROWS: usize = 7;

    /// Takes the parameters of columns `start .. start + count`, and pads them to `width` columns.
    ///
    /// # Safety
    /// The epilogue is valid for those columns and at least one row; the rows have `width >= count` columns, a multiple
    /// of `LANES`; the CPU has the features of `V`.
    #[inline(always)]
    pub unsafe fn fill<V: Lanes>(&mut self, epilogue: &Epilogue, start: usize, count: usize, width: usize) {
        // SAFETY: the caller's.
        unsafe {
            match epilogue.store {
                Store::Fixed { .. } => self.fill_ragged(epilogue, start, count, width),
                _ if count == width => self.fill_whole::<V>(epilogue, start, width),
                _ => self.fill_ragged(epilogue, start, count, width),
            }
        }
    }

    /// [`Columns::fill`] without padding, a vector at a time: what a call of one row spends its time on beside the weights.
    ///
    /// # Safety
    /// As [`Columns::fill`].
    #[inline(always)]
    unsafe fn fill_whole<V: Lanes>(&mut self, epilogue: &Epilogue, start: usize, width: usize) {
        // SAFETY: columns `start .. start + width` lie within what the epilogue is valid for, and whole vectors of them in
        // the rows of this.
        unsafe {
            let factors = epilogue.zero_factor.add(start);
            if epilogue.lhs_zero.step == 0 {
                let zero = V::splat_i(epilogue.lhs_zero.get(0).wrapping_add(epilogue.lhs_shift));
                self.base.each::<V>(width, |j, _| V::mul_i(zero, V::load_i(factors.add(j))));
            } else {
                self.base.each::<V>(width, |_, _| V::splat_i(0));
                self.zero_factor.each::<V>(width, |j, _| V::load_i(factors.add(j)));
            }
            for part in [epilogue.sum_offset, epilogue.bias] {
                if !part.is_null() {
                    let part = part.add(start);
                    self.base.each::<V>(width, |j, base| V::add_i(V::load_i(base), V::load_i(part.add(j))));
                }
            }
            if !epilogue.rhs_zero.is_null() {
                let zeros = epilogue.rhs_zero.add(start);
                self.rhs_zero.each::<V>(width, |j, _| V::load_i(zeros.add(j)));
            }
            if let Store::F32 { col_scales: scales, bias, .. } | Store::HalfEven { scales, bias, .. } =
                epilogue.store
            {
                let from = scales.from(start);
                let mut largest = V::splat_f(0.0);
                for j in (0..width).step_by(V::LANES) {
                    let scale =
                        if scales.step == 0 { V::splat_f(*from.ptr) } else { V::load_f(from.ptr.add(j)) };
                    V::store_f(scale, self.scale.0.add(j));
                    largest = V::max_f(largest, scale);
                }
                self.small_scales = V::all_below(largest, V::splat_f(1.0));
                for j in (0..width).step_by(V::LANES) {
                    let bias =
                        if bias.is_null() { V::splat_f(NO_BIAS) } else { V::load_f(bias.add(start + j)) };
                    V::store_f(bias, self.bias.0.add(j));
                }
            }
        }
    }

    /// [`Columns::fill`] of any columns. Compiled once: the last columns of a product are few.
    ///
    /// # Safety
    /// As [`Columns::fill`].
    #[inline(never)]
    unsafe fn fill_ragged(&mut self, epilogue: &Epilogue, start: usize, count: usize, width: usize) {
        // SAFETY: column `start + j` lies within what the epilogue is valid for, for every `j` below `count`; the rows have room for
        // `width` columns; the epilogue is valid for at least one row.
        unsafe {
            let sum_offset = |j| read_or(epilogue.sum_offset, start + j, 0);
            let bias = |j| read_or(epilogue.bias, start + j, 0);
            let zero_factor = |j| *epilogue.zero_factor.add(start + j);
            if epilogue.lhs_zero.step == 0 {
                let zero = epilogue.lhs_zero.get(0).wrapping_add(epilogue.lhs_shift);
                self.base.fill(count, width, 0, |j| {
                    zero.wrapping_mul(zero_factor(j)).wrapping_add(sum_offset(j)).wrapping_add(bias(j))
                });
            } else {
                self.base.fill(count, width, 0, |j| sum_offset(j).wrapping_add(bias(j)));
                self.zero_factor.fill(count, width, 0, zero_factor);
            }
            if !epilogue.rhs_zero.is_null() {
                self.rhs_zero.fill(count, width, 0, |j| *epilogue.rhs_zero.add(start + j));
            }
            match epilogue.store {
                Store::I32 { .. } => {}
                Store::F32 { col_scales: scales, bias, .. } | Store::HalfEven { scales, bias, .. } => {
                    self.scale.fill(count, width, 0.0, |j| scales.get(start + j));
                    self.small_scales = (0..count).all(|j| scales.get(start + j) < 1.0);
                    self.bias.fill(count, width, NO_BIAS, |j| read_or(bias, start + j, NO_BIAS));
                }
                Store::Fixed { multipliers, .. } => {
                    self.multiplier.fill(count, width, 0, |j| multipliers.get(start + j).multiplier);
                    self.shift.fill(count, width, 0, |j| multipliers.get(start + j).shift);
                }
            }
        }
    }
}

/// Element of an optional array.
///
/// # Safety
/// `ptr` is null or readable at `index`.
#[inline(always)]
unsafe fn read_or<T: Copy>(ptr: *const T, index: usize, default: T) -> T {
    // SAFETY: the caller's.
    if ptr.is_null() { default } else { unsafe { *ptr.add(index) } }
}

/// Where a tile's outputs go, and the parameters of its rows and columns.
#[derive(Clone, Copy)]
pub(crate) struct TileEnd<'a> {
    pub columns: &'a Columns,
    /// First column of the tile among those.
    pub col: usize,
    pub epilogue: &'a Epilogue,
    /// First row of the tile within the product.
    pub row: usize,
    /// Sums of the tile's rows, if the epilogue has an `rhs_zero`.
    pub row_sums: *const i32,
    /// [`Epilogue::corrects`].
    pub corrects: bool,
    /// The tile's first row from the group's first column on. Room for whole vectors in every row of the tile.
    pub out: *mut c_void,
    /// Elements.
    pub out_stride: usize,
    /// `out` holds sums that these are added to.
    pub accumulate: bool,
}

impl TileEnd<'_> {
    /// The end of the tile's rows from `r` on, whose outputs have elements of `bytes`.
    #[inline(always)]
    #[allow(dead_code, reason = "for kernels that finish a tile row by row")]
    pub fn at_row(&self, r: usize, bytes: usize) -> Self {
        Self {
            row: self.row + r,
            row_sums: self.row_sums.wrapping_add(r),
            out: self.out.wrapping_byte_add(r * self.out_stride * bytes),
            ..*self
        }
    }

    /// What the epilogue adds to every sum of a vector of columns, whatever the row: a kernel may start from it.
    ///
    /// # Safety
    /// The group has those columns; the CPU has the features of `V`.
    #[inline(always)]
    pub unsafe fn base<V: Lanes>(&self, vector: usize) -> V::I {
        // SAFETY: the caller's.
        unsafe { V::load_i(self.columns.base.at(self.col + vector * V::LANES)) }
    }

    /// Scales of the columns, if the store has some. Asked for before the first output is stored: as the compiler sees it, a store may
    /// change where they are.
    #[inline(always)]
    pub fn scales(&self) -> *const f32 {
        self.columns.scale.at(self.col)
    }

    /// Biases of the columns, in outputs, or what changes none, if the store may have an f32 bias.
    #[inline(always)]
    pub fn biases(&self) -> *const f32 {
        self.columns.bias.at(self.col)
    }
}

/// The end of a tile: what happens to corrected sums that are still in registers.
pub(crate) trait End {
    /// Of an element of the output.
    const BYTES: usize;
    /// Outputs are made of the sums that tiles leave in a buffer.
    const BUFFERED: bool = false;
    /// What tiles are compiled with: this end, or that of the sums.
    type Tile: End;
    /// What it makes of an epilogue before the first tile.
    type Ready<V: Lanes>: Copy;

    /// # Safety
    /// The end agrees with the store; the CPU has the features of `V`.
    unsafe fn ready<V: Lanes>(epilogue: &Epilogue) -> Self::Ready<V>;

    /// The end is [`EndByte`], and this is what it needs.
    #[inline(always)]
    #[allow(dead_code, reason = "only blocks of sums, which some targets have, ask")]
    fn bytes<V: Lanes>(_ready: &Self::Ready<V>) -> Option<&ReadyBytes<V>> {
        None
    }

    /// # Safety
    /// As [`finish`]; `ready` is of the epilogue.
    unsafe fn store<V: Lanes, const R: usize, const Q: usize>(
        sums: &[[V::I; Q]; R],
        end: &TileEnd,
        ready: &Self::Ready<V>,
    );

    /// Moves a finished tile from a buffer, to its place.
    ///
    /// # Safety
    /// [`End::store`] has written the buffer; the elements may be written to their place; the CPU has the features of `V`.
    unsafe fn flush<V: Lanes>(buffer: &TileBuffer, end: &TileEnd, place: &Place);
}

/// Calls the body with each constant index below `$count`, unrolled in the source: an array of vectors indexed by a
/// loop that the compiler chose not to unroll would live in memory. What is not below is gone before the compiler translates it:
/// `const` makes the library build several times faster.
macro_rules! each {
    ($i:ident in 0..$count:expr => $body:expr) => {
        each!(@ $i, $count, $body, 0 1 2 3 4 5 6 7 8 9 10 11)
    };
    ($i:ident in [$($n:literal)*] => $body:expr) => {
        { $( { let $i: usize = $n; $body } )* }
    };
    (@ $i:ident, $count:expr, $body:expr, $($n:literal)*) => {
        { $( if const { $n < $count } { let $i: usize = $n; $body } )* }
    };
}

#[allow(unused_imports, reason = "for kernels that finish a tile in parts")]
pub(super) use each;

/// Corrects the sums of a tile of `R` rows by `Q` vectors and hands them to the end `E`.
///
/// # Safety
/// `end.epilogue` is valid for rows `end.row .. end.row + R`; `end.out` has room for `R` rows of `Q` whole vectors;
/// the CPU has the features of `V`.
#[inline(always)]
pub(super) unsafe fn finish<V: Lanes, E: End, const R: usize, const Q: usize>(
    mut sums: [[V::I; Q]; R],
    end: &TileEnd,
) {
    // SAFETY: the caller's.
    unsafe {
        each!(q in 0..Q => {
            let base = end.base::<V>(q);
            each!(r in 0..R => sums[r][q] = V::add_i(sums[r][q], base));
        });
        finish_from_base::<V, E, R, Q>(sums, end, &E::ready(end.epilogue));
    }
}

/// [`finish`] of sums that started from [`TileEnd::base`], with the end ready.
///
/// # Safety
/// As [`finish`]; `ready` is of the epilogue.
#[inline(always)]
pub(super) unsafe fn finish_from_base<V: Lanes, E: End, const R: usize, const Q: usize>(
    mut sums: [[V::I; Q]; R],
    end: &TileEnd,
    ready: &E::Ready<V>,
) {
    // SAFETY: the caller's.
    unsafe {
        if end.corrects {
            correct::<V, R, Q>(&mut sums, end);
        }
        E::store::<V, R, Q>(&sums, end, ready);
    }
}

/// Adds what depends on both row and column.
///
/// # Safety
/// As [`finish`].
#[inline(always)]
pub(super) unsafe fn correct<V: Lanes, const R: usize, const Q: usize>(
    sums: &mut [[V::I; Q]; R],
    end: &TileEnd,
) {
    let columns = end.columns;
    let epilogue = end.epilogue;
    // SAFETY: the columns reach to col + Q * LANES; rows are the caller's promise.
    unsafe {
        if epilogue.lhs_zero.step != 0 {
            each!(r in 0..R => {
                let zero = V::splat_i(epilogue.lhs_zero.get(end.row + r).wrapping_add(epilogue.lhs_shift));
                each!(q in 0..Q => {
                    let factor = V::load_i(columns.zero_factor.at(end.col + q * V::LANES));
                    sums[r][q] = V::add_i(sums[r][q], V::mul_i(zero, factor));
                });
            });
        }
        if !epilogue.rhs_zero.is_null() {
            each!(r in 0..R => {
                let row_sum = V::splat_i(*end.row_sums.add(r));
                each!(q in 0..Q => {
                    let zero = V::load_i(columns.rhs_zero.at(end.col + q * V::LANES));
                    sums[r][q] = V::sub_i(sums[r][q], V::mul_i(row_sum, zero));
                });
            });
        }
    }
}

/// i32 output.
pub(crate) struct EndI32;

impl End for EndI32 {
    const BYTES: usize = 4;
    type Tile = Self;
    type Ready<V: Lanes> = ();

    #[inline(always)]
    unsafe fn ready<V: Lanes>(_epilogue: &Epilogue) {}

    #[inline(always)]
    unsafe fn store<V: Lanes, const R: usize, const Q: usize>(
        sums: &[[V::I; Q]; R],
        end: &TileEnd,
        _ready: &(),
    ) {
        let out = end.out.cast::<i32>().wrapping_add(end.col);
        // SAFETY: `out` has room for R rows of Q vectors.
        unsafe {
            let mut row = out;
            if end.accumulate {
                each!(r in 0..R => {
                    row = V::row(out, row, r, end.out_stride);
                    each!(q in 0..Q => {
                        let p = row.add(q * V::LANES);
                        V::store_i(V::add_i(V::load_i(p), sums[r][q]), p);
                    });
                });
            } else {
                each!(r in 0..R => {
                    row = V::row(out, row, r, end.out_stride);
                    each!(q in 0..Q => V::store_i(sums[r][q], row.add(q * V::LANES)));
                });
            }
        }
    }

    #[inline(always)]
    unsafe fn flush<V: Lanes>(buffer: &TileBuffer, end: &TileEnd, place: &Place) {
        // SAFETY: the caller's.
        unsafe {
            match end.epilogue.store {
                Store::I32 { accumulate: true } => place.add(buffer),
                _ => place.fill::<i32>(buffer.start, buffer.stride),
            }
        }
    }
}

/// i8 or u8 output, requantized in integers: from the sums of a tile, so that tiles are those of i32 output.
pub(crate) struct EndFixed;

impl End for EndFixed {
    const BYTES: usize = 1;
    const BUFFERED: bool = true;
    type Tile = EndI32;
    type Ready<V: Lanes> = ();

    #[inline(always)]
    unsafe fn ready<V: Lanes>(_epilogue: &Epilogue) {}

    #[inline(always)]
    unsafe fn store<V: Lanes, const R: usize, const Q: usize>(
        sums: &[[V::I; Q]; R],
        end: &TileEnd,
        ready: &(),
    ) {
        // SAFETY: the caller's.
        unsafe { EndI32::store::<V, R, Q>(sums, end, ready) }
    }

    #[inline(always)]
    unsafe fn flush<V: Lanes>(buffer: &TileBuffer, end: &TileEnd, place: &Place) {
        // SAFETY: the caller's.
        unsafe {
            buffer.requantize::<V>(end, place.rows, place.cols);
            place.fill::<u8>(buffer.start.cast(), 4 * buffer.stride);
        }
    }
}

/// f32 output.
pub(crate) struct EndF32;

impl End for EndF32 {
    const BYTES: usize = 4;
    type Tile = Self;
    /// The range, if there is one. Its zeros are positive, so that zeros of either sign that meet them become the same on every
    /// instruction set: see the order of operands in [`EndF32::store`].
    type Ready<V: Lanes> = Option<[V::F; 2]>;

    #[inline(always)]
    unsafe fn ready<V: Lanes>(epilogue: &Epilogue) -> Option<[V::F; 2]> {
        // SAFETY: the caller's: it is the end of this store.
        unsafe {
            let Store::F32 { min, max, .. } = epilogue.store else { unreachable_unchecked() };
            let clamps = min > f32::NEG_INFINITY || max < f32::INFINITY;
            clamps.then(|| [V::splat_f(min), V::splat_f(max)])
        }
    }

    #[inline(always)]
    unsafe fn store<V: Lanes, const R: usize, const Q: usize>(
        sums: &[[V::I; Q]; R],
        end: &TileEnd,
        ready: &Option<[V::F; 2]>,
    ) {
        // SAFETY: the caller's.
        unsafe {
            match ready {
                Some([min, max]) => {
                    Self::store_f32::<V, R, Q>(sums, end, |v| V::min_f(*max, V::max_f(v, *min)))
                }
                None => Self::store_f32::<V, R, Q>(sums, end, |v| v),
            }
        }
    }

    #[inline(always)]
    unsafe fn flush<V: Lanes>(buffer: &TileBuffer, _end: &TileEnd, place: &Place) {
        // SAFETY: the caller's.
        unsafe { place.fill::<f32>(buffer.start.cast(), buffer.stride) }
    }
}

impl EndF32 {
    /// # Safety
    /// As [`finish`].
    #[inline(always)]
    unsafe fn store_f32<V: Lanes, const R: usize, const Q: usize>(
        sums: &[[V::I; Q]; R],
        end: &TileEnd,
        clamp: impl Fn(V::F) -> V::F,
    ) {
        // SAFETY: the caller's: it is the end of this store.
        let Store::F32 { row_scales, .. } = end.epilogue.store else { unsafe { unreachable_unchecked() } };
        let out = end.out.cast::<f32>().wrapping_add(end.col);
        // SAFETY: as for EndI32; Columns holds whole vectors; row scales are valid for the tile's rows.
        unsafe {
            // With registers to spare, scales are read before the first store, which may change anything, as the compiler sees it.
            let keep = R * Q + Q + 6 <= V::REGISTERS;
            let mut kept = [V::splat_f(0.0); Q];
            let (scales, biases) = (end.scales(), end.biases());
            if keep {
                each!(q in 0..Q => kept[q] = V::load_f(scales.add(q * V::LANES)));
            }
            let mut row = out;
            each!(r in 0..R => {
                row = V::row(out, row, r, end.out_stride);
                let row_scale = V::splat_f(row_scales.get(end.row + r));
                each!(q in 0..Q => {
                    let scale = V::mul_f(row_scale, if keep { kept[q] } else { V::load_f(scales.add(q * V::LANES)) });
                    let bias = V::load_f(biases.add(q * V::LANES));
                    let value = V::add_f(V::mul_f(V::to_f(sums[r][q]), scale), bias);
                    V::store_f(clamp(value), row.add(q * V::LANES));
                });
            });
        }
    }
}

/// i8 or u8 output, rounded half to even. Both are the low byte of a clamped i32.
pub(crate) struct EndByte;

/// What [`EndByte`] makes of an epilogue.
#[derive(Clone, Copy)]
pub(crate) struct ReadyBytes<V: Lanes> {
    pub range: V::ByteRange,
    /// There is an f32 bias.
    pub bias: bool,
}

impl End for EndByte {
    const BYTES: usize = 1;
    type Tile = Self;
    type Ready<V: Lanes> = ReadyBytes<V>;

    #[inline(always)]
    unsafe fn ready<V: Lanes>(epilogue: &Epilogue) -> ReadyBytes<V> {
        // SAFETY: the caller's: it is the end of this store.
        unsafe {
            let Store::HalfEven { bias, zero_point, min, max, .. } = epilogue.store else {
                unreachable_unchecked()
            };
            ReadyBytes { range: V::byte_range(zero_point, min, max), bias: !bias.is_null() }
        }
    }

    #[inline(always)]
    fn bytes<V: Lanes>(ready: &ReadyBytes<V>) -> Option<&ReadyBytes<V>> {
        Some(ready)
    }

    #[inline(always)]
    unsafe fn store<V: Lanes, const R: usize, const Q: usize>(
        sums: &[[V::I; Q]; R],
        end: &TileEnd,
        ready: &ReadyBytes<V>,
    ) {
        // SAFETY: the caller's.
        unsafe {
            if ready.bias {
                Self::store_bytes::<V, true, R, Q>(sums, end, &ready.range);
            } else {
                Self::store_bytes::<V, false, R, Q>(sums, end, &ready.range);
            }
        }
    }

    #[inline(always)]
    unsafe fn flush<V: Lanes>(buffer: &TileBuffer, _end: &TileEnd, place: &Place) {
        // SAFETY: the caller's.
        unsafe { place.fill::<u8>(buffer.start.cast(), buffer.stride) }
    }
}

impl EndByte {
    /// # Safety
    /// As [`finish`]; the f32 bias is not null if `BIAS`.
    #[inline(always)]
    unsafe fn store_bytes<V: Lanes, const BIAS: bool, const R: usize, const Q: usize>(
        sums: &[[V::I; Q]; R],
        end: &TileEnd,
        to: &V::ByteRange,
    ) {
        // SAFETY: as for EndF32.
        unsafe {
            // Stores of bytes may change anything, as the compiler sees it: with registers to spare, scales are read before.
            let keep = R * Q + Q + 6 <= V::REGISTERS;
            let mut kept = [V::splat_f(0.0); Q];
            let (scales, biases) = (end.scales(), end.biases());
            if keep {
                each!(q in 0..Q => kept[q] = V::load_f(scales.add(q * V::LANES)));
            }
            // Four vectors at a time, row by row: as many as instruction sets narrow together.
            // The columns were filled for a store with scales, which says this of them.
            let in_range = !BIAS && end.columns.small_scales;
            let mut bytes = [V::narrow([V::splat_f(0.0); 4], to, in_range); MAX_GROUPS];
            let mut row = end.out.cast::<u8>().wrapping_add(end.col);
            each!(g in 0..(R * Q).div_ceil(4) => {
                let mut steps = [V::splat_f(0.0); 4];
                each!(i in [0 1 2 3] => {
                    let (r, q) = Self::place::<R, Q>(g, i);
                    let scale = if keep { kept[q] } else { V::load_f(scales.add(q * V::LANES)) };
                    steps[i] = V::mul_f(V::to_f(sums[r][q]), scale);
                    if BIAS {
                        steps[i] = V::add_f(steps[i], V::load_f(biases.add(q * V::LANES)));
                    }
                });
                bytes[g] = V::narrow(steps, to, in_range);
                if !V::LIMITS_TOGETHER {
                    Self::store_group::<V, R, Q>(g, V::limit(bytes[g], to), to, end, &mut row);
                }
            });
            if V::LIMITS_TOGETHER {
                if V::limits(to) {
                    each!(g in 0..(R * Q).div_ceil(4) => bytes[g] = V::limit(bytes[g], to));
                }
                each!(g in 0..(R * Q).div_ceil(4) => Self::store_group::<V, R, Q>(g, bytes[g], to, end, &mut row));
            }
        }
    }

    /// Row and vector of a group's vector `i`. A group that is not whole repeats its last, which is not stored again.
    #[inline(always)]
    fn place<const R: usize, const Q: usize>(group: usize, i: usize) -> (usize, usize) {
        let vector = (4 * group + i).min(R * Q - 1);
        (vector / Q, vector % Q)
    }

    /// Stores a group. `row` is the place of the row of the vector before it, and becomes that of its last.
    ///
    /// # Safety
    /// As [`finish`]; the tile has the group.
    #[inline(always)]
    unsafe fn store_group<V: Lanes, const R: usize, const Q: usize>(
        group: usize,
        bytes: V::Bytes,
        to: &V::ByteRange,
        end: &TileEnd,
        row: &mut *mut u8,
    ) {
        let out = end.out.cast::<u8>().wrapping_add(end.col);
        let count = (R * Q - 4 * group).min(4);
        // SAFETY: `out` has room for R rows of Q vectors.
        unsafe {
            let mut places = [out; 4];
            each!(i in [0 1 2 3] => {
                let (r, q) = Self::place::<R, Q>(group, i);
                if q == 0 && i < count {
                    *row = V::row(out, *row, r, end.out_stride);
                }
                places[i] = row.add(q * V::LANES);
            });
            if Q.is_multiple_of(4) {
                V::store_bytes::<4>(bytes, to, places, count);
            } else if Q.is_multiple_of(2) {
                V::store_bytes::<2>(bytes, to, places, count);
            } else {
                V::store_bytes::<1>(bytes, to, places, count);
            }
        }
    }
}

/// A tile's outputs before they are scattered, in [`Buffers`]: rows of `stride` elements, 4 bytes of room for each.
pub(crate) struct TileBuffer {
    pub start: *mut i32,
    pub stride: usize,
}

impl TileBuffer {
    /// Requantizes in integers: bytes overwrite the sums of their own row from its start. A vector of LANES bytes ends before
    /// the next vector of sums begins.
    ///
    /// # Safety
    /// The buffer holds `rows` x `cols` sums; the epilogue's store is [`Store::Fixed`]; the CPU has the features of `V`.
    #[inline(always)]
    unsafe fn requantize<V: Lanes>(&self, end: &TileEnd, rows: usize, cols: usize) {
        let Store::Fixed { double_rounding, zero_point, min, max, .. } = end.epilogue.store else { return };
        // SAFETY: a row of the buffer has whole vectors.
        unsafe {
            let zero = V::splat_i(zero_point);
            let (low, high) = (V::splat_i(min - zero_point), V::splat_i(max - zero_point));
            for r in 0..rows {
                let sums: *mut i32 = self.start.add(r * self.stride);
                for j in (0..cols).step_by(V::LANES) {
                    let x = V::load_i(sums.add(j));
                    let m = V::load_i(end.columns.multiplier.at(j));
                    let e = V::load_i(end.columns.shift.at(j));
                    let scaled = if double_rounding {
                        V::scale_double_rounding(x, m, e)
                    } else {
                        V::scale_single_rounding(x, m, e)
                    };
                    let clamped = V::min_i(V::max_i(scaled, low), high);
                    V::store_low_bytes(V::add_i(clamped, zero), sums.cast::<u8>().add(j));
                }
            }
        }
    }
}

/// Where elements go that a tile left in a [`TileBuffer`].
pub(crate) struct Place {
    pub rows: usize,
    pub cols: usize,
    pub out: *mut c_void,
    /// Elements.
    pub row_stride: usize,
    /// Elements.
    pub col_stride: usize,
}

impl Place {
    /// Copies elements from a buffer whose rows are `source_stride` elements apart. Compiled once for a type: ragged and
    /// strided outputs are few, or slow anyway.
    ///
    /// # Safety
    /// The buffer holds the elements, and they may be written to the place.
    #[inline(never)]
    unsafe fn fill<T: Copy>(&self, source: *const T, source_stride: usize) {
        let out: *mut T = self.out.cast();
        for r in 0..self.rows {
            // SAFETY: the caller's.
            unsafe {
                let (from, to) = (source.add(r * source_stride), out.add(r * self.row_stride));
                if self.col_stride == 1 {
                    from.copy_to_nonoverlapping(to, self.cols);
                } else {
                    for j in 0..self.cols {
                        *to.add(j * self.col_stride) = *from.add(j);
                    }
                }
            }
        }
    }

    /// Adds sums from a buffer, wrapping.
    ///
    /// # Safety
    /// As [`Place::fill`].
    #[inline(never)]
    unsafe fn add(&self, source: &TileBuffer) {
        let out: *mut i32 = self.out.cast();
        for r in 0..self.rows {
            for j in 0..self.cols {
                // SAFETY: the caller's.
                unsafe {
                    let place = out.add(r * self.row_stride + j * self.col_stride);
                    *place = (*place).wrapping_add(*source.start.add(r * source.stride + j));
                }
            }
        }
    }
}
