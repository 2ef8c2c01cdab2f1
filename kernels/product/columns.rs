//! The parameters of columns, gathered once for a group of panels, and the room that they and a tile take.

use core::mem::MaybeUninit;

use super::{
    super::{Epilogue, vectors::lanes::Lanes},
    ends::Store,
};

/// What changes no f32 when it is added, zeros of either sign included: an output without bias needs no branch.
const NO_BIAS: f32 = -0.0;

/// What a kernel needs of the stack: column parameters of a group of panels, and a tile whose outputs cannot go where they belong at
/// once. `COLS` is the most columns of a group, `ROWS` the most rows of a tile.
#[repr(C, align(64))]
pub(crate) struct Buffers<const ROWS: usize, const COLS: usize> {
    columns: [[MaybeUninit<u32>; COLS]; Columns::PARAMETERS],
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
        columns: [const { [const { MaybeUninit::uninit() }; COLS] }; Columns::PARAMETERS],
        tile: [const { [const { MaybeUninit::uninit() }; COLS] }; ROWS],
    };
    const COLS: usize = COLS;

    #[inline(always)]
    fn parts(&mut self) -> (Columns, TileBuffer) {
        let [base, zero_factor, rhs_zero, scale, bias, multiplier, shift] = &mut self.columns;
        let columns = Columns {
            base: PerColumn(base.as_mut_ptr().cast()),
            zero_factor: PerColumn(zero_factor.as_mut_ptr().cast()),
            rhs_zero: PerColumn(rhs_zero.as_mut_ptr().cast()),
            scale: PerColumn(scale.as_mut_ptr().cast()),
            bias: PerColumn(bias.as_mut_ptr().cast()),
            multiplier: PerColumn(multiplier.as_mut_ptr().cast()),
            shift: PerColumn(shift.as_mut_ptr().cast()),
            small_scales: false,
        };
        (columns, TileBuffer { start: self.tile.as_mut_ptr().cast(), stride: COLS })
    }
}

/// A tile's outputs before they are scattered, in [`Buffers`]: rows of `stride` elements, 4 bytes of room for each.
pub(crate) struct TileBuffer {
    pub start: *mut i32,
    pub stride: usize,
}

/// The column parameters of one group of panels, padded so that vectors can be read whole: made once for a group,
/// used by every row tile that passes it. Only what the epilogue reads is written, so nothing needs clearing.
pub(crate) struct Columns {
    /// Sum offset + i32 bias, and the zero-point term if all rows share their zero point.
    pub base: PerColumn<i32>,
    pub zero_factor: PerColumn<i32>,
    pub rhs_zero: PerColumn<i32>,
    pub scale: PerColumn<f32>,
    pub bias: PerColumn<f32>,
    pub multiplier: PerColumn<i32>,
    pub shift: PerColumn<i32>,
    /// Every scale is below 1, so that no sum times its scale leaves the range of i32.
    pub small_scales: bool,
}

/// One parameter of each column, in [`Buffers`].
pub(crate) struct PerColumn<T>(*mut T);

impl<T: Copy> PerColumn<T> {
    #[inline(always)]
    pub fn at(&self, column: usize) -> *const T {
        self.0.wrapping_add(column)
    }

    /// Writes `value(j)` for the columns below `count` and `pad` from there to `width`.
    ///
    /// # Safety
    /// There is room for `width` columns.
    #[inline(always)]
    unsafe fn fill(&self, count: usize, width: usize, pad: T, value: impl Fn(usize) -> T) {
        for j in 0..width {
            // SAFETY: there is room for `width` columns.
            unsafe { self.0.add(j).write(if j < count { value(j) } else { pad }) };
        }
    }
}

impl PerColumn<i32> {
    /// Writes `value(j, address of the old value)` for each vector of columns `j` below `width`.
    ///
    /// # Safety
    /// There is room for `width` columns, a multiple of `LANES`; the CPU has the features of `V`.
    #[inline(always)]
    unsafe fn each<V: Lanes>(&self, width: usize, value: impl Fn(usize, *const i32) -> V::I) {
        for j in (0..width).step_by(V::LANES) {
            // SAFETY: there is room for `width` columns, whole vectors of them.
            unsafe { V::store_i(value(j, self.at(j)), self.0.add(j)) };
        }
    }
}

impl Columns {
    /// Parameters that a column may have.
    const PARAMETERS: usize = 7;

    /// Takes the parameters of columns `start .. start + count`, and pads them to `width` columns.
    ///
    /// # Safety
    /// The epilogue is valid for those columns and at least one row; the rows have `width >= count` columns, a multiple
    /// of `LANES`; the CPU has the features of `V`.
    #[inline(always)]
    pub unsafe fn fill<V: Lanes>(&mut self, epilogue: &Epilogue, start: usize, count: usize, width: usize) {
        // SAFETY: the epilogue is valid for the columns, and there is room for `width` of them; whole ones are not padded.
        unsafe {
            if count == width && epilogue.store.multipliers().is_none() {
                self.fill_whole::<V>(epilogue, start, width);
            } else {
                self.fill_ragged(epilogue, start, count, width);
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
            if let Some((scales, bias)) = epilogue.store.scales() {
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
            if let Some((scales, bias)) = epilogue.store.scales() {
                self.scale.fill(count, width, 0.0, |j| scales.get(start + j));
                self.small_scales = (0..count).all(|j| scales.get(start + j) < 1.0);
                self.bias.fill(count, width, NO_BIAS, |j| read_or(bias, start + j, NO_BIAS));
            }
            if let Some(multipliers) = epilogue.store.multipliers() {
                self.multiplier.fill(count, width, 0, |j| multipliers.get(start + j).multiplier);
                self.shift.fill(count, width, 0, |j| multipliers.get(start + j).shift);
            }
        }
    }
}

impl Columns {
    /// The parameters of one of these columns, for an output that is turned: a vector of its rows from `first_row` on stands where
    /// columns do, so what rows have is what columns have there. Only what follows the corrected sum.
    ///
    /// # Safety
    /// `columns` was filled for the store and has the column; the store is valid for a vector of rows; there is room for a vector of
    /// columns; the CPU has the features of `V`.
    #[inline(always)]
    #[allow(dead_code, reason = "not every target has kernels that turn outputs")]
    pub unsafe fn turn<V: Lanes>(
        &mut self,
        columns: &Columns,
        column: usize,
        store: &Store,
        first_row: usize,
    ) {
        // SAFETY: as promised.
        unsafe {
            if store.scales().is_some() {
                let scale = *columns.scale.at(column);
                let scales = match *store {
                    Store::F32 { row_scales, .. } if row_scales.step == 0 => {
                        V::splat_f(row_scales.get(0) * scale)
                    }
                    Store::F32 { row_scales, .. } => {
                        V::mul_f(V::load_f(row_scales.ptr.add(first_row)), V::splat_f(scale))
                    }
                    _ => V::splat_f(scale),
                };
                V::store_f(scales, self.scale.0);
                V::store_f(V::splat_f(*columns.bias.at(column)), self.bias.0);
                self.small_scales = scale < 1.0;
            }
            if store.multipliers().is_some() {
                V::store_i(V::splat_i(*columns.multiplier.at(column)), self.multiplier.0);
                V::store_i(V::splat_i(*columns.shift.at(column)), self.shift.0);
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
    // SAFETY: it is readable unless it is null.
    if ptr.is_null() { default } else { unsafe { *ptr.add(index) } }
}
