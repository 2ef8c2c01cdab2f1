//! What the end of a tile has to know of it.

use core::ffi::c_void;

use super::{
    super::{Epilogue, vectors::lanes::Lanes},
    columns::Columns,
};

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
        // SAFETY: the group has whole vectors of columns from `col` on.
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
