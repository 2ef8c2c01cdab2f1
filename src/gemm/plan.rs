//! The call: checks, blocks, parts, and the kernel that does the work.

use core::{ffi::c_void, ops::Range};

use super::{
    blocking::{Depth, Grid, Scratch},
    output::{Kind, Output, check_scales, check_zero_points},
    pack::{Contents, PackedRhs},
};
use crate::{
    Broadcast, Error, Executor, MatMut, MatRef, Operand, OutputElement, Sequential,
    kernels::{self, Epilogue, Job, LhsFormat, LhsRows, Param},
    parallel::run_parts,
};

/// The longest K whose sums fit an i32 whatever the values: `floor((2^31 - 1) / 255^2)`.
pub const MAX_SAFE_K: usize = 33_025;

/// Activations, M x K, with their zero points and scales: `r = scale * (q - zero_point)`.
///
/// ```
/// use i8gemm::{Lhs, MatRef};
/// let x = [200u8, 100, 0, 50];
/// let matrix = MatRef::row_major(&x, 2, 2)?;
/// let per_tensor = Lhs::new(matrix).zero_point(128);
/// let per_row = Lhs::new(matrix).zero_points(&[128, 7]).scales(&[0.5, 0.1]); // dynamic quantization
/// # let _ = (per_tensor, per_row);
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Lhs<'a, A> {
    pub(crate) matrix: MatRef<'a, A>,
    pub(crate) zero_points: Broadcast<'a, i32>,
    pub(crate) scales: Option<Broadcast<'a, f32>>,
    /// Sums of the rows, if whoever quantized them has taken them already.
    pub(crate) row_sums: Option<&'a [i32]>,
}

impl<'a, A: Operand> Lhs<'a, A> {
    /// Activations with zero point 0 and scale 1.
    #[must_use]
    pub fn new(matrix: MatRef<'a, A>) -> Self {
        Self { matrix, zero_points: Broadcast::All(0), scales: None, row_sums: None }
    }

    /// One zero point for all rows, a value of `A`.
    #[must_use]
    pub fn zero_point(self, zero_point: i32) -> Self {
        Self { zero_points: Broadcast::All(zero_point), ..self }
    }

    /// One zero point for each row, values of `A`.
    #[must_use]
    pub fn zero_points(self, zero_points: &'a [i32]) -> Self {
        Self { zero_points: Broadcast::Each(zero_points), ..self }
    }

    /// One scale for all rows, finite and above zero; for f32 output only.
    #[must_use]
    pub fn scale(self, scale: f32) -> Self {
        Self { scales: Some(Broadcast::All(scale)), ..self }
    }

    /// One scale for each row, finite and above zero; for f32 output only.
    #[must_use]
    pub fn scales(self, scales: &'a [f32]) -> Self {
        Self { scales: Some(Broadcast::Each(scales)), ..self }
    }

    pub(crate) fn row_scales(&self) -> Broadcast<'a, f32> {
        self.scales.unwrap_or(Broadcast::All(1.0))
    }

    /// Checks the activations against the depth of the weights and the kind of output.
    pub(crate) fn check(&self, k: usize, kind: &Kind) -> Result<(), Error> {
        check_shape("columns of lhs (K)", k, self.matrix.cols())?;
        check_zero_points::<A>("lhs zero point", &self.zero_points, self.matrix.rows())?;
        if let Some(scales) = &self.scales {
            if !matches!(kind, Kind::F32 { .. }) {
                return Err(Error::UnusedLhsScale);
            }
            check_scales("lhs scale", scales, self.matrix.rows())?;
        }
        Ok(())
    }
}

impl<'a, A: Operand> From<MatRef<'a, A>> for Lhs<'a, A> {
    fn from(matrix: MatRef<'a, A>) -> Self {
        Self::new(matrix)
    }
}

pub(crate) fn check_shape(what: &'static str, expected: usize, actual: usize) -> Result<(), Error> {
    if expected == actual { Ok(()) } else { Err(Error::Shape { what, expected, actual }) }
}

/// A product ready to run: packed weights and a checked output.
///
/// `out[m, n] = output(sum over k of (lhs[m, k] - za[m]) * (rhs[k, n] - zb[n]))`, with the same bits on every kernel, for
/// every number of threads, and for one row as for many.
///
/// ```
/// use i8gemm::{Gemm, Lhs, MatMut, MatRef, Output, PackedRhs};
/// let w = [1i8, 2, 3, 4, 5, 6]; // K = 3, N = 2
/// let weights = PackedRhs::pack(MatRef::row_major(&w, 3, 2)?)?;
/// let gemm = Gemm::new(&weights, Output::i32())?;
///
/// let x = [128u8, 129, 130, 131, 128, 127]; // M = 2, zero point 128
/// let mut y = [0i32; 4];
/// let mut scratch = gemm.workspace(2)?;
/// let lhs = Lhs::new(MatRef::row_major(&x, 2, 3)?).zero_point(128);
/// gemm.run(lhs, MatMut::row_major(&mut y, 2, 2)?, &mut scratch)?;
/// assert_eq!(y, [13, 16, -2, 0]);
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Gemm<'a, T> {
    weights: &'a PackedRhs<'a>,
    /// Of `weights`: found once, for calls of one row are short.
    contents: Contents<'a>,
    output: Output<'a, T>,
    depth: Depth,
}

impl<'a, T: OutputElement> Gemm<'a, T> {
    /// Checks the output against the weights.
    ///
    /// # Errors
    /// [`Error::Length`] for scales or a bias that are not one for each column; [`Error::Scale`], [`Error::Bias`],
    /// [`Error::BiasType`], [`Error::ZeroPoint`], [`Error::Clamp`] for their values.
    pub fn new(weights: &'a PackedRhs<'a>, output: Output<'a, T>) -> Result<Self, Error> {
        output.check(weights.n())?;
        Ok(Self::checked(weights, output))
    }

    /// As [`Gemm::new`], for an output that has been checked against these weights before: in a layer, whose calls may be of
    /// one row, a check of all columns would be felt.
    pub(crate) fn checked(weights: &'a PackedRhs<'a>, output: Output<'a, T>) -> Self {
        let depth = Depth::new(weights.kernel().0, weights.k());
        Self { weights, contents: weights.contents(), output, depth }
    }

    /// Bytes of scratch that [`Gemm::run`] needs for up to `m` rows, alignment included. Bounded: it stops growing with `m`
    /// when a block of rows fills a part of the cache.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`].
    pub fn workspace_size(&self, m: usize) -> Result<usize, Error> {
        self.workspace_size_with(m, &Sequential)
    }

    /// Bytes of scratch that [`Gemm::run_with`] needs for up to `m` rows on that executor.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`].
    pub fn workspace_size_with(&self, m: usize, executor: &impl Executor) -> Result<usize, Error> {
        let overflow = Error::SizeOverflow { what: "workspace", rows: m, cols: self.weights.k() };
        let part = self.depth.scratch(m).and_then(|s| s.total()).ok_or(overflow)?;
        part.checked_mul(executor.threads().max(1)).and_then(|b| b.checked_add(63)).ok_or(overflow)
    }

    /// Scratch for [`Gemm::run`] with up to `m` rows.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`].
    #[cfg(feature = "alloc")]
    pub fn workspace(&self, m: usize) -> Result<super::Workspace, Error> {
        Ok(super::Workspace::with_size(self.workspace_size(m)?))
    }

    /// Computes `out` on the caller's thread. Allocates nothing.
    ///
    /// # Errors
    /// [`Error::Shape`] when K, M or N disagree; [`Error::Length`], [`Error::ZeroPoint`], [`Error::Scale`] for the zero points
    /// and scales of `lhs`; [`Error::UnusedLhsScale`] for scales without f32 output; [`Error::BufferTooSmall`] for the
    /// scratch. Nothing has been written then.
    pub fn run<'l, A: Operand>(
        &self,
        lhs: impl Into<Lhs<'l, A>>,
        out: MatMut<T>,
        scratch: &mut [u8],
    ) -> Result<(), Error> {
        self.run_with(&Sequential, lhs, out, scratch)
    }

    /// As [`Gemm::run`], in parts on the threads of an executor.
    ///
    /// # Errors
    /// As [`Gemm::run`]; the scratch must have [`Gemm::workspace_size_with`] bytes.
    pub fn run_with<'l, A: Operand>(
        &self,
        executor: &impl Executor,
        lhs: impl Into<Lhs<'l, A>>,
        mut out: MatMut<T>,
        scratch: &mut [u8],
    ) -> Result<(), Error> {
        let lhs = lhs.into();
        let weights = self.weights;
        let (m, n, k) = (lhs.matrix.rows(), weights.n(), weights.k());
        lhs.check(k, &self.output.kind)?;
        check_shape("rows of out (M)", m, out.rows())?;
        check_shape("columns of out (N)", n, out.cols())?;
        if m == 0 || n == 0 {
            return Ok(());
        }

        let grid = Grid::new(weights.kernel().0, m, k, n, executor.threads());
        let overflow = Error::SizeOverflow { what: "workspace", rows: m, cols: k };
        let sizes = self.depth.scratch(grid.part_rows()).ok_or(overflow)?;
        let part_bytes = sizes.total().ok_or(overflow)?;
        let start = scratch.as_ptr().align_offset(64);
        let needed =
            part_bytes.checked_mul(grid.parts()).and_then(|b| b.checked_add(start)).ok_or(overflow)?;
        if scratch.len() < needed {
            return Err(Error::BufferTooSmall { what: "workspace", needed, actual: scratch.len() });
        }

        let row_scales = lhs.row_scales();
        let (bias, store) = self.output.for_kernel(Param::new(row_scales.as_slice()));
        let null = core::ptr::null();
        let contents = &self.contents;
        let product = Product {
            kernel: weights.kernel().0,
            panels: contents.panels,
            depth: &self.depth,
            lhs: LhsRows {
                ptr: lhs.matrix.as_ptr().cast(),
                row_stride: lhs.matrix.row_stride(),
                rows: m,
                k,
                unsigned: A::MIN == 0,
            },
            lhs_col_stride: lhs.matrix.col_stride(),
            row_sums: lhs.row_sums,
            epilogue: Epilogue {
                sum_offset: contents.sum_offset.map_or(null, |s| s.as_ptr()),
                zero_factor: contents.zero_factor.as_ptr(),
                rhs_zero: contents.rhs_zero.map_or(null, |z| z.as_ptr()),
                lhs_zero: Param::new(lhs.zero_points.as_slice()),
                lhs_shift: weights.kernel().0.lhs.shift(A::MIN == 0),
                bias,
                store,
            },
            out: out.as_mut_ptr().cast(),
            out_size: size_of::<T>(),
            out_row_stride: out.row_stride(),
            out_col_stride: out.col_stride(),
            // SAFETY: `needed` covers the alignment.
            scratch: unsafe { scratch.as_mut_ptr().add(start) },
            sizes,
            part_bytes,
        };
        run_parts(executor, grid.parts(), |index| {
            let (rows, cols) = grid.part(index);
            // SAFETY: parts are disjoint in rows or columns and lie inside M x N; each index is run once, so its part of
            // the scratch is its own; views, weights and parameters outlive this call.
            unsafe { product.part(index, rows, cols) }
        });
        Ok(())
    }

    /// Computes `out` with scratch of its own: the convenient form.
    ///
    /// # Errors
    /// As [`Gemm::run`].
    #[cfg(feature = "alloc")]
    pub fn apply<'l, A: Operand>(&self, lhs: impl Into<Lhs<'l, A>>, out: MatMut<T>) -> Result<(), Error> {
        let lhs = lhs.into();
        let mut scratch = self.workspace(lhs.matrix.rows())?;
        self.run(lhs, out, &mut scratch)
    }
}

/// A checked product, as the threads that compute its parts see it.
struct Product<'a> {
    kernel: &'static kernels::Kernel,
    panels: &'a [i8],
    depth: &'a Depth,
    lhs: LhsRows,
    lhs_col_stride: usize,
    row_sums: Option<&'a [i32]>,
    epilogue: Epilogue,
    out: *mut u8,
    out_size: usize,
    out_row_stride: usize,
    out_col_stride: usize,
    scratch: *mut u8,
    sizes: Scratch,
    part_bytes: usize,
}

// SAFETY: parts read shared inputs and write disjoint outputs and scratch, see `Gemm::run_with`.
unsafe impl Sync for Product<'_> {}

impl Product<'_> {
    /// Computes some rows and columns.
    ///
    /// # Safety
    /// The ranges lie inside the product, `cols` starts at a panel; no other thread has the same index or outputs; there is
    /// scratch for the index.
    unsafe fn part(&self, index: usize, rows: Range<usize>, cols: Range<usize>) {
        let kernel = self.kernel;
        let k = self.lhs.k;
        let block = self.depth.block_rows(rows.len());
        let rhs = &self.panels[cols.start * self.depth.padded..];
        // SAFETY: offsets stay inside the part's scratch, the column constants, the rows and the output.
        unsafe {
            let scratch = self.scratch.add(index * self.part_bytes);
            let packed = scratch.add(self.sizes.kernel);
            let gathered = packed.add(self.sizes.lhs);
            let sums: *mut i32 = gathered.add(self.sizes.gather).cast();
            let mut start = rows.start;
            while start < rows.end {
                let end = (start + block).min(rows.end);
                let (source, in_place) = self.block(start..end, packed, gathered);
                let mut row_sums = core::ptr::null();
                if !self.epilogue.rhs_zero.is_null() {
                    match self.row_sums {
                        Some(known) => {
                            let shift = (k as i32).wrapping_mul(self.epilogue.lhs_shift);
                            shift_sums(&known[start..end], shift, sums);
                        }
                        None => (kernel.row_sums)(&source, sums),
                    }
                    row_sums = sums.cast_const();
                }
                let (lhs, lhs_stride) = if in_place {
                    (source.ptr, source.row_stride)
                } else {
                    (kernel.pack_lhs)(&source, packed);
                    (packed.cast_const(), self.depth.lhs_stride)
                };
                let offset = start * self.out_row_stride + cols.start * self.out_col_stride;
                (kernel.multiply)(&Job {
                    rows: end - start,
                    cols: cols.len(),
                    k,
                    lhs,
                    lhs_stride,
                    rhs: rhs.as_ptr(),
                    scratch,
                    epilogue: &self.epilogue,
                    first_row: start,
                    first_col: cols.start,
                    row_sums,
                    out: self.out.add(offset * self.out_size).cast::<c_void>(),
                    out_row_stride: self.out_row_stride,
                    out_col_stride: self.out_col_stride,
                });
                start = end;
            }
        }
    }

    /// Contiguous rows of a block of `lhs`, and whether the kernel can read them as they are.
    ///
    /// # Safety
    /// As [`Product::part`].
    unsafe fn block(&self, rows: Range<usize>, packed: *mut u8, gathered: *mut u8) -> (LhsRows, bool) {
        let format = self.kernel.lhs;
        // SAFETY: the rows lie inside the view.
        let first = unsafe { self.lhs.ptr.add(rows.start * self.lhs.row_stride) };
        let source = LhsRows { ptr: first, rows: rows.len(), ..self.lhs };
        let as_wanted =
            |unsigned| matches!(format, LhsFormat::Bytes { unsigned: wanted } if wanted == unsigned);
        if self.lhs_col_stride == 1 || self.lhs.k <= 1 {
            return (source, as_wanted(self.lhs.unsigned));
        }
        // A strided block is gathered once; for a kernel that reads bytes, straight into the signedness it wants.
        let (dst, unsigned) = match format {
            LhsFormat::Bytes { unsigned } => (packed, unsigned),
            LhsFormat::PackedAsIs | LhsFormat::PackedSigned => (gathered, self.lhs.unsigned),
        };
        let flip = if unsigned == self.lhs.unsigned { 0 } else { 0x80 };
        let row_stride = kernels::layout::byte_row_stride(self.lhs.k);
        // SAFETY: the view reaches every element of the block; the scratch has room for its rows.
        unsafe { gather(&source, self.lhs_col_stride, flip, dst, row_stride) };
        (LhsRows { ptr: dst, row_stride, unsigned, ..source }, as_wanted(unsigned))
    }
}

/// Row sums as the kernel sees the rows. Not inlined, as [`gather`]: what few calls need would cost all of them registers.
///
/// # Safety
/// `dst` has room for as many sums.
#[inline(never)]
unsafe fn shift_sums(sums: &[i32], shift: i32, dst: *mut i32) {
    for (i, sum) in sums.iter().enumerate() {
        // SAFETY: the caller's.
        unsafe { dst.add(i).write(sum.wrapping_add(shift)) };
    }
}

/// Copies a strided block into contiguous rows, `dst[i][k] = src[i][k] ^ flip`, in tiles so that neither side runs through
/// memory a cache line for each byte.
///
/// # Safety
/// Element (i, k) is readable at `i * src.row_stride + k * col_stride` bytes; `dst` has room for `src.rows` rows.
#[inline(never)]
unsafe fn gather(src: &LhsRows, col_stride: usize, flip: u8, dst: *mut u8, row_stride: usize) {
    const TILE: usize = 64;
    for k0 in (0..src.k).step_by(TILE) {
        for i0 in (0..src.rows).step_by(TILE) {
            for i in i0..(i0 + TILE).min(src.rows) {
                for k in k0..(k0 + TILE).min(src.k) {
                    // SAFETY: the caller's.
                    unsafe {
                        let byte = *src.ptr.add(i * src.row_stride + k * col_stride);
                        *dst.add(i * row_stride + k) = byte ^ flip;
                    }
                }
            }
        }
    }
}
