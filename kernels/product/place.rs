//! The place of outputs that a tile leaves in a buffer first: strided ones, ragged last columns, and what is made of sums in memory.

use core::ffi::c_void;

use super::columns::TileBuffer;

/// Where elements go that a tile left in a [`TileBuffer`].
pub(crate) struct Place {
    pub rows: usize,
    pub cols: usize,
    /// Of the first column within the product.
    pub col: usize,
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
    pub unsafe fn fill<T: Copy>(&self, source: *const T, source_stride: usize) {
        let out: *mut T = self.out.cast();
        for r in 0..self.rows {
            // SAFETY: the buffer holds `rows` x `cols` elements, and their places are writable.
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
    pub unsafe fn add(&self, source: &TileBuffer) {
        let out: *mut i32 = self.out.cast();
        for r in 0..self.rows {
            for j in 0..self.cols {
                // SAFETY: as in `fill`; what is there are sums.
                unsafe {
                    let place = out.add(r * self.row_stride + j * self.col_stride);
                    *place = (*place).wrapping_add(*source.start.add(r * source.stride + j));
                }
            }
        }
    }
}
