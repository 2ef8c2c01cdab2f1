//! Strided views of matrices over slices, checked once when they are made.
//!
//! Element (i, j) of a view lies `i * row_stride + j * col_stride` elements after its first. A view that exists is
//! in bounds, so the code below it needs no further check.

use core::{marker::PhantomData, ops::Range};

use crate::Error;

/// Shape and strides shared by both views.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl Layout {
    /// Elements from the first to one past the last; `None` when that overflows.
    fn span(&self) -> Option<usize> {
        if self.rows == 0 || self.cols == 0 {
            return Some(0);
        }
        let last_row = (self.rows - 1).checked_mul(self.row_stride)?;
        let last_col = (self.cols - 1).checked_mul(self.col_stride)?;
        last_row.checked_add(last_col)?.checked_add(1)
    }

    fn check_span(&self, len: usize) -> Result<(), Error> {
        let span =
            self.span().ok_or(Error::SizeOverflow { what: "matrix", rows: self.rows, cols: self.cols })?;
        if span > len {
            return Err(Error::Length { what: "matrix", expected: span, actual: len });
        }
        Ok(())
    }

    /// No two elements share memory: one direction must step over the whole extent of the other.
    fn check_distinct(&self) -> Result<(), Error> {
        let row_extent = self.rows.saturating_sub(1).saturating_mul(self.row_stride);
        let col_extent = self.cols.saturating_sub(1).saturating_mul(self.col_stride);
        let distinct = match (self.rows, self.cols) {
            (0, _) | (_, 0) | (1, 1) => true,
            (1, _) => self.col_stride > 0,
            (_, 1) => self.row_stride > 0,
            _ => {
                (self.row_stride > col_extent && self.col_stride > 0)
                    || (self.col_stride > row_extent && self.row_stride > 0)
            }
        };
        if distinct {
            return Ok(());
        }
        let Self { rows, cols, row_stride, col_stride } = *self;
        Err(Error::Overlap { rows, cols, row_stride, col_stride })
    }

    #[inline]
    fn dense(
        rows: usize,
        cols: usize,
        row_stride: usize,
        col_stride: usize,
        len: usize,
    ) -> Result<Self, Error> {
        let expected = rows.checked_mul(cols).ok_or(Error::SizeOverflow { what: "matrix", rows, cols })?;
        if len != expected {
            return Err(Error::Length { what: "matrix", expected, actual: len });
        }
        Ok(Self { rows, cols, row_stride, col_stride })
    }

    fn offset(&self, row: usize, col: usize) -> Option<usize> {
        (row < self.rows && col < self.cols).then(|| row * self.row_stride + col * self.col_stride)
    }

    fn transposed(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride }
    }

    /// Layout of a sub-matrix and the offset of its first element (0 when it is empty).
    fn sub(&self, rows: &Range<usize>, cols: &Range<usize>) -> Result<(Self, usize), Error> {
        for (what, range, len) in [("rows", rows, self.rows), ("columns", cols, self.cols)] {
            if range.start > range.end || range.end > len {
                return Err(Error::SubMatrix { what, start: range.start, end: range.end, len });
            }
        }
        let sub = Self { rows: rows.len(), cols: cols.len(), ..*self };
        Ok((sub, self.offset(rows.start, cols.start).filter(|_| sub.rows > 0 && sub.cols > 0).unwrap_or(0)))
    }
}

/// A read-only strided view of a matrix: `rows` x `cols` elements of `T` inside a slice.
///
/// ```
/// use i8gemm::MatRef;
/// let data = [1i8, 2, 3, 4, 5, 6];
/// let a = MatRef::row_major(&data, 2, 3)?;
/// assert_eq!(a.get(1, 0), Some(4));
/// assert_eq!(a.transpose().get(0, 1), Some(4));
/// assert_eq!(a.submatrix(0..2, 1..3)?.get(1, 1), Some(6));
/// assert!(MatRef::row_major(&data, 2, 4).is_err());
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Debug)]
pub struct MatRef<'a, T> {
    ptr: *const T,
    layout: Layout,
    life: PhantomData<&'a [T]>,
}

impl<T> Clone for MatRef<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for MatRef<'_, T> {}

// SAFETY: the view is a shared borrow of a slice of T and gives out nothing but shared access to it.
unsafe impl<T: Sync> Send for MatRef<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for MatRef<'_, T> {}

impl<'a, T> MatRef<'a, T> {
    /// A view with any strides, in elements. Strides may be 0 (a repeated row or column) and may overlap.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] when the extent overflows, [`Error::Length`] when it does not fit `data`.
    #[inline]
    pub fn new(
        data: &'a [T],
        rows: usize,
        cols: usize,
        row_stride: usize,
        col_stride: usize,
    ) -> Result<Self, Error> {
        let layout = Layout { rows, cols, row_stride, col_stride };
        layout.check_span(data.len())?;
        Ok(Self { ptr: data.as_ptr(), layout, life: PhantomData })
    }

    /// `rows` x `cols`, rows one after the other; `data` holds exactly `rows * cols` elements.
    ///
    /// # Errors
    /// [`Error::Length`] for any other length, [`Error::SizeOverflow`] when `rows * cols` overflows.
    #[inline]
    pub fn row_major(data: &'a [T], rows: usize, cols: usize) -> Result<Self, Error> {
        let layout = Layout::dense(rows, cols, cols, 1, data.len())?;
        Ok(Self { ptr: data.as_ptr(), layout, life: PhantomData })
    }

    /// `rows` x `cols`, columns one after the other; `data` holds exactly `rows * cols` elements.
    ///
    /// # Errors
    /// As [`MatRef::row_major`].
    pub fn col_major(data: &'a [T], rows: usize, cols: usize) -> Result<Self, Error> {
        Ok(Self::row_major(data, cols, rows)?.transpose())
    }

    /// Rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.layout.rows
    }

    /// Columns.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.layout.cols
    }

    /// Elements from one row to the next.
    #[must_use]
    pub fn row_stride(&self) -> usize {
        self.layout.row_stride
    }

    /// Elements from one column to the next.
    #[must_use]
    pub fn col_stride(&self) -> usize {
        self.layout.col_stride
    }

    /// The same elements with rows and columns exchanged; nothing moves.
    #[must_use]
    pub fn transpose(self) -> Self {
        Self { layout: self.layout.transposed(), ..self }
    }

    /// The view of some rows and columns.
    ///
    /// # Errors
    /// [`Error::SubMatrix`] when a range does not lie inside the matrix.
    pub fn submatrix(self, rows: Range<usize>, cols: Range<usize>) -> Result<Self, Error> {
        let (layout, offset) = self.layout.sub(&rows, &cols)?;
        // SAFETY: a non-empty sub-matrix starts at an element of this view; an empty one keeps the pointer.
        Ok(Self { ptr: unsafe { self.ptr.add(offset) }, layout, life: PhantomData })
    }

    /// All elements in row-major order as a slice, if they lie so.
    pub(crate) fn whole_slice(&self) -> Option<&'a [T]> {
        let (rows, cols) = (self.rows(), self.cols());
        self.row_slice(0)?;
        if rows > 1 && self.row_stride() != cols {
            return None;
        }
        // SAFETY: the constructor proved that every element lies inside the slice, which lives for 'a; rows follow one another.
        Some(unsafe { core::slice::from_raw_parts(self.ptr, rows * cols) })
    }

    /// A row as a slice, if its elements are contiguous and it lies inside the matrix.
    #[must_use]
    pub fn row_slice(&self, row: usize) -> Option<&'a [T]> {
        let cols = self.cols();
        if cols > 1 && self.col_stride() != 1 {
            return None;
        }
        if cols == 0 {
            return (row < self.rows()).then_some(&[]);
        }
        let offset = self.layout.offset(row, 0)?;
        // SAFETY: the constructor proved that every element of the layout lies inside the slice, which lives for 'a.
        Some(unsafe { core::slice::from_raw_parts(self.ptr.add(offset), cols) })
    }

    /// First element; valid for every element of the layout.
    pub(crate) fn as_ptr(&self) -> *const T {
        self.ptr
    }
}

impl<T: Copy> MatRef<'_, T> {
    /// A copy of all elements in row-major order.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] for more than memory holds: a view may repeat its rows.
    #[cfg(feature = "alloc")]
    pub(crate) fn copied(&self, what: &'static str) -> Result<alloc::vec::Vec<T>, Error> {
        let mut values = crate::memory::room(what, self.rows(), self.cols())?;
        // However many rows without columns, none has values.
        for row in 0..if self.cols() == 0 { 0 } else { self.rows() } {
            match self.row_slice(row) {
                Some(row) => values.extend_from_slice(row),
                None => values.extend((0..self.cols()).filter_map(|col| self.get(row, col))),
            }
        }
        Ok(values)
    }

    /// Element (row, col), or `None` outside the matrix.
    #[must_use]
    pub fn get(&self, row: usize, col: usize) -> Option<T> {
        // SAFETY: the constructor proved that every element of the layout lies inside the slice.
        self.layout.offset(row, col).map(|offset| unsafe { *self.ptr.add(offset) })
    }
}

/// A writable strided view of a matrix; no two of its elements share memory.
///
/// ```
/// use i8gemm::MatMut;
/// let mut data = [0i32; 8];
/// // 2 x 3 inside rows of 4.
/// let mut c = MatMut::new(&mut data, 2, 3, 4, 1)?;
/// c.set(1, 2, 7);
/// assert_eq!(data[6], 7);
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Debug)]
pub struct MatMut<'a, T> {
    ptr: *mut T,
    layout: Layout,
    life: PhantomData<&'a mut [T]>,
}

// SAFETY: the view is an exclusive borrow of a slice of T.
unsafe impl<T: Send> Send for MatMut<'_, T> {}
// SAFETY: through a shared reference it gives out copies of elements only.
unsafe impl<T: Sync> Sync for MatMut<'_, T> {}

impl<'a, T> MatMut<'a, T> {
    /// A view with any strides, in elements, as long as no two elements overlap.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`], [`Error::Length`] as for [`MatRef::new`]; [`Error::Overlap`] when neither stride
    /// steps over the whole extent of the other direction.
    #[inline]
    pub fn new(
        data: &'a mut [T],
        rows: usize,
        cols: usize,
        row_stride: usize,
        col_stride: usize,
    ) -> Result<Self, Error> {
        let layout = Layout { rows, cols, row_stride, col_stride };
        layout.check_span(data.len())?;
        layout.check_distinct()?;
        Ok(Self { ptr: data.as_mut_ptr(), layout, life: PhantomData })
    }

    /// `rows` x `cols`, rows one after the other; `data` holds exactly `rows * cols` elements.
    ///
    /// # Errors
    /// As [`MatRef::row_major`].
    #[inline]
    pub fn row_major(data: &'a mut [T], rows: usize, cols: usize) -> Result<Self, Error> {
        let layout = Layout::dense(rows, cols, cols, 1, data.len())?;
        Ok(Self { ptr: data.as_mut_ptr(), layout, life: PhantomData })
    }

    /// `rows` x `cols`, columns one after the other; `data` holds exactly `rows * cols` elements.
    ///
    /// # Errors
    /// As [`MatRef::row_major`].
    pub fn col_major(data: &'a mut [T], rows: usize, cols: usize) -> Result<Self, Error> {
        Ok(Self::row_major(data, cols, rows)?.transpose())
    }

    /// Rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.layout.rows
    }

    /// Columns.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.layout.cols
    }

    /// Elements from one row to the next.
    #[must_use]
    pub fn row_stride(&self) -> usize {
        self.layout.row_stride
    }

    /// Elements from one column to the next.
    #[must_use]
    pub fn col_stride(&self) -> usize {
        self.layout.col_stride
    }

    /// The same elements with rows and columns exchanged; nothing moves.
    #[must_use]
    pub fn transpose(self) -> Self {
        Self { layout: self.layout.transposed(), ..self }
    }

    /// The view of some rows and columns.
    ///
    /// # Errors
    /// [`Error::SubMatrix`] when a range does not lie inside the matrix.
    pub fn submatrix(self, rows: Range<usize>, cols: Range<usize>) -> Result<Self, Error> {
        let (layout, offset) = self.layout.sub(&rows, &cols)?;
        // SAFETY: a non-empty sub-matrix starts at an element of this view; an empty one keeps the pointer.
        Ok(Self { ptr: unsafe { self.ptr.add(offset) }, layout, life: PhantomData })
    }

    /// A shorter borrow of the same view.
    #[must_use]
    pub fn reborrow(&mut self) -> MatMut<'_, T> {
        MatMut { ptr: self.ptr, layout: self.layout, life: PhantomData }
    }

    /// The same view, read-only.
    #[must_use]
    pub fn as_ref(&self) -> MatRef<'_, T> {
        MatRef { ptr: self.ptr, layout: self.layout, life: PhantomData }
    }

    /// A row as a slice, if its elements are contiguous and it lies inside the matrix.
    #[cfg(feature = "alloc")]
    pub(crate) fn row_slice_mut(&mut self, row: usize) -> Option<&mut [T]> {
        let cols = self.cols();
        if cols > 1 && self.col_stride() != 1 {
            return None;
        }
        if cols == 0 {
            return (row < self.rows()).then_some(&mut []);
        }
        let offset = self.layout.offset(row, 0)?;
        // SAFETY: the constructor proved that every element of the layout lies inside the slice, which `self` borrows
        // exclusively, and that no two of them share memory.
        Some(unsafe { core::slice::from_raw_parts_mut(self.ptr.add(offset), cols) })
    }

    /// First element; valid for writes to every element of the layout.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut T {
        self.ptr
    }
}

impl<T: Copy> MatMut<'_, T> {
    /// Element (row, col), or `None` outside the matrix.
    #[must_use]
    pub fn get(&self, row: usize, col: usize) -> Option<T> {
        self.as_ref().get(row, col)
    }

    /// Writes element (row, col); `false`, and nothing written, outside the matrix.
    pub fn set(&mut self, row: usize, col: usize, value: T) -> bool {
        let Some(offset) = self.layout.offset(row, col) else { return false };
        // SAFETY: the constructor proved that every element of the layout lies inside the slice.
        unsafe { *self.ptr.add(offset) = value };
        true
    }
}
