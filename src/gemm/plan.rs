//! The call: checks, blocks, parts, and the kernel that does the work.

use core::{ffi::c_void, marker::PhantomData, ops::Range};

#[cfg(feature = "alloc")]
use super::patches::{PatchBytes, Patches};
use super::{
    blocking::{Depth, Grid, Scratch},
    finish::{BorrowedKind, Finish, Kind},
    output::{Output, check_scales, check_zero_points},
    pack::{Contents, PackedRhs},
};
use crate::{
    Broadcast, Error, Executor, MatMut, MatRef, Operand, OutputElement, Sequential,
    kernels::{self, Epilogue, Job, LhsFormat, LhsRows, Multiply, Param},
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
    pub(crate) fn check(&self, k: usize, kind: &BorrowedKind) -> Result<(), Error> {
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

#[inline]
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
    finish: Finish<'a>,
    multiply: Multiply,
    depth: Depth,
    element: PhantomData<T>,
}

impl<'a, T: OutputElement> Gemm<'a, T> {
    /// Checks the output against the weights.
    ///
    /// # Errors
    /// [`Error::Length`] for scales or a bias that are not one for each column; [`Error::Scale`], [`Error::Bias`],
    /// [`Error::BiasType`], [`Error::ZeroPoint`], [`Error::Clamp`] for their values.
    pub fn new(weights: &'a PackedRhs<'a>, output: Output<'a, T>) -> Result<Self, Error> {
        output.finish.check(weights.n())?;
        let kernel = weights.kernel().0;
        Ok(Self::checked(
            weights,
            output.finish,
            (output.product)(kernel.id),
            Depth::new(kernel, weights.k()),
        ))
    }

    /// As [`Gemm::new`], of what has been checked and worked out before. The caller sees to it that [`Finish::fits`] holds: kernels
    /// read a scale and a bias for each column without another look at how many there are.
    #[inline]
    pub(super) fn checked(
        weights: &'a PackedRhs<'a>,
        finish: Finish<'a>,
        multiply: Multiply,
        depth: Depth,
    ) -> Self {
        debug_assert!(finish.fits(weights.n()), "kernels read a scale and a bias for each column");
        Self { weights, contents: weights.contents(), finish, multiply, depth, element: PhantomData }
    }

    /// Bytes of scratch that [`Gemm::run`] needs for up to `m` rows, alignment included. Bounded: it stops growing with `m`
    /// when a block of rows fills a part of the cache.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`].
    pub fn workspace_size(&self, m: usize) -> Result<usize, Error> {
        self.workspace_size_with(m, &Sequential)
    }

    /// Bytes of scratch that [`Gemm::run_with`] needs for up to `m` rows on that executor, or one of fewer threads: as much for each
    /// thread that there can be work for as [`Gemm::workspace_size`] says.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`].
    pub fn workspace_size_with(&self, m: usize, executor: &(impl Executor + ?Sized)) -> Result<usize, Error> {
        self.depth.workspace_size(self.weights, m, executor.threads())
    }

    /// Scratch for [`Gemm::run`] with up to `m` rows.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`].
    #[cfg(feature = "alloc")]
    pub fn workspace(&self, m: usize) -> Result<super::Workspace, Error> {
        super::Workspace::with_size(self.workspace_size(m)?)
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
        executor: &(impl Executor + ?Sized),
        lhs: impl Into<Lhs<'l, A>>,
        out: MatMut<T>,
        scratch: &mut [u8],
    ) -> Result<(), Error> {
        let lhs = lhs.into();
        let m = lhs.matrix.rows();
        lhs.check(self.weights.k(), &self.finish.kind)?;
        let rows = LhsRows {
            ptr: lhs.matrix.as_ptr().cast(),
            row_stride: lhs.matrix.row_stride(),
            rows: m,
            k: self.weights.k(),
            unsigned: A::MIN == 0,
        };
        let source = Source::Rows { rows, col_stride: lhs.matrix.col_stride() };
        let row_scales = lhs.row_scales();
        let checked = Checked {
            source,
            zero_points: &lhs.zero_points,
            row_scales: &row_scales,
            row_sums: lhs.row_sums,
        };
        self.run_checked(executor, checked, out, scratch)
    }

    /// As [`Gemm::run_with`], with the patches of an image as the rows of `lhs`, of one zero point.
    ///
    /// # Errors
    /// As [`Gemm::run_with`].
    #[cfg(feature = "alloc")]
    pub(crate) fn run_patches<A: Operand>(
        &self,
        executor: &(impl Executor + ?Sized),
        patches: &Patches<A>,
        out: MatMut<T>,
        scratch: &mut [u8],
    ) -> Result<(), Error> {
        check_shape("values of a patch (K)", self.weights.k(), patches.k())?;
        let zero_points = Broadcast::All(patches.zero_point());
        check_zero_points::<A>("lhs zero point", &zero_points, 1)?;
        let checked = Checked {
            source: Source::Patches(patches.bytes()),
            zero_points: &zero_points,
            row_scales: &Broadcast::All(1.0),
            row_sums: None,
        };
        self.run_checked(executor, checked, out, scratch)
    }

    /// What is left to check, and the work.
    #[inline(always)]
    fn run_checked(
        &self,
        executor: &(impl Executor + ?Sized),
        lhs: Checked,
        mut out: MatMut<T>,
        scratch: &mut [u8],
    ) -> Result<(), Error> {
        let weights = self.weights;
        let (m, n, k) = (lhs.source.rows(), weights.n(), weights.k());
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

        let (bias, store) = self.finish.for_kernel(Param::new(lhs.row_scales.as_slice()));
        let null = core::ptr::null();
        let contents = &self.contents;
        let call = Call {
            kernel: weights.kernel().0,
            multiply: self.multiply,
            panels: contents.panels,
            depth: &self.depth,
            k,
            row_sums: lhs.row_sums,
            epilogue: Epilogue {
                sum_offset: contents.sum_offset.map_or(null, |s| s.as_ptr()),
                zero_factor: contents.zero_factor.as_ptr(),
                rhs_zero: contents.rhs_zero.map_or(null, |z| z.as_ptr()),
                lhs_zero: Param::new(lhs.zero_points.as_slice()),
                lhs_shift: weights.kernel().0.lhs.shift(lhs.source.unsigned()),
                bias,
                store,
            },
            lhs: lhs.source,
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
            unsafe { call.part(index, rows, cols) }
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

/// Activations whose values and number of columns have been checked.
struct Checked<'a> {
    source: Source,
    zero_points: &'a Broadcast<'a, i32>,
    row_scales: &'a Broadcast<'a, f32>,
    row_sums: Option<&'a [i32]>,
}

/// Where the rows of `lhs` come from.
enum Source {
    /// A matrix, whose rows are contiguous if the column stride is 1.
    Rows { rows: LhsRows, col_stride: usize },
    /// An image.
    #[cfg(feature = "alloc")]
    Patches(PatchBytes),
}

impl Source {
    fn rows(&self) -> usize {
        match self {
            Self::Rows { rows, .. } => rows.rows,
            #[cfg(feature = "alloc")]
            Self::Patches(patches) => patches.rows(),
        }
    }

    fn unsigned(&self) -> bool {
        match self {
            Self::Rows { rows, .. } => rows.unsigned,
            #[cfg(feature = "alloc")]
            Self::Patches(patches) => patches.unsigned,
        }
    }
}

/// A checked call, as the threads that compute its parts see it.
struct Call<'a> {
    kernel: &'static kernels::Kernel,
    multiply: Multiply,
    panels: &'a [i8],
    depth: &'a Depth,
    lhs: Source,
    k: usize,
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
unsafe impl Sync for Call<'_> {}

impl Call<'_> {
    /// Computes some rows and columns.
    ///
    /// # Safety
    /// The ranges lie inside the product, `cols` starts at a panel; no other thread has the same index or outputs; there is
    /// scratch for the index.
    unsafe fn part(&self, index: usize, rows: Range<usize>, cols: Range<usize>) {
        let block = self.depth.block_rows(rows.len());
        let rhs = &self.panels[cols.start * self.depth.padded..];
        // SAFETY: offsets stay inside the part's scratch, the column constants, the rows and the output.
        unsafe {
            let scratch = self.scratch.add(index * self.part_bytes);
            let packed = scratch.add(self.sizes.kernel);
            let gathered = packed.add(self.sizes.lhs);
            let sums: *mut i32 = gathered.add(self.sizes.gather).cast();
            let buffers = Buffers { packed, gathered, sums };
            let mut start = rows.start;
            while start < rows.end {
                let end = (start + block).min(rows.end);
                let (lhs, lhs_stride, flip_lhs) = match &self.lhs {
                    Source::Rows { rows, col_stride } => self.block(rows, *col_stride, start..end, &buffers),
                    #[cfg(feature = "alloc")]
                    Source::Patches(patches) => self.patches(patches, start..end, &buffers),
                };
                let has_sums = !self.epilogue.rhs_zero.is_null();
                let offset = start * self.out_row_stride + cols.start * self.out_col_stride;
                (self.multiply)(&Job {
                    rows: end - start,
                    cols: cols.len(),
                    k: self.k,
                    lhs,
                    lhs_stride,
                    flip_lhs,
                    rhs: rhs.as_ptr(),
                    scratch,
                    epilogue: &self.epilogue,
                    first_row: start,
                    first_col: cols.start,
                    row_sums: if has_sums { sums.cast_const() } else { core::ptr::null() },
                    out: self.out.add(offset * self.out_size).cast::<c_void>(),
                    out_row_stride: self.out_row_stride,
                    out_col_stride: self.out_col_stride,
                });
                start = end;
            }
        }
    }

    /// Prepares a block of the rows of a matrix, and their sums if they are needed; gives the prepared rows, their stride
    /// and whether the kernel has to flip them.
    ///
    /// # Safety
    /// As [`Call::part`]; the buffers have room for the block.
    #[inline(always)]
    unsafe fn block(
        &self,
        lhs: &LhsRows,
        col_stride: usize,
        rows: Range<usize>,
        buffers: &Buffers,
    ) -> (*const u8, usize, bool) {
        // SAFETY: the caller's.
        unsafe {
            let (source, in_place) = self.contiguous(lhs, col_stride, rows.clone(), buffers);
            if !self.epilogue.rhs_zero.is_null() {
                match self.row_sums {
                    Some(known) => {
                        let shift = (self.k as i32).wrapping_mul(self.epilogue.lhs_shift);
                        shift_sums(&known[rows], shift, buffers.sums);
                    }
                    None => (self.kernel.row_sums)(&source, buffers.sums),
                }
            }
            if in_place {
                return (source.ptr, source.row_stride, self.kernel.lhs.shift(source.unsigned) != 0);
            }
            (self.kernel.pack_lhs)(&source, buffers.packed);
            (buffers.packed, self.depth.lhs_stride, false)
        }
    }

    /// Contiguous rows of a block of a matrix, and whether the kernel can read them where they lie.
    ///
    /// # Safety
    /// As [`Call::block`].
    #[inline(always)]
    unsafe fn contiguous(
        &self,
        lhs: &LhsRows,
        col_stride: usize,
        rows: Range<usize>,
        buffers: &Buffers,
    ) -> (LhsRows, bool) {
        // SAFETY: the rows lie inside the view.
        let first = unsafe { lhs.ptr.add(rows.start * lhs.row_stride) };
        let source = LhsRows { ptr: first, rows: rows.len(), ..*lhs };
        if col_stride == 1 || lhs.k <= 1 {
            return (source, self.reads(lhs.unsigned));
        }
        // A strided block is gathered once; for a kernel that reads bytes, straight into the signedness it wants.
        let (dst, unsigned) = match self.kernel.lhs {
            LhsFormat::Bytes { unsigned } => (buffers.packed, unsigned),
            LhsFormat::PackedAsIs | LhsFormat::PackedSigned => (buffers.gathered, lhs.unsigned),
        };
        let flip = if unsigned == lhs.unsigned { 0 } else { 0x80 };
        let row_stride = kernels::layout::byte_row_stride(lhs.k);
        // SAFETY: the view reaches every element of the block; the scratch has room for its rows.
        unsafe { gather(&source, col_stride, flip, dst, row_stride) };
        (LhsRows { ptr: dst, row_stride, unsigned, ..source }, self.reads(unsigned))
    }

    /// The kernel reads rows of bytes of that signedness where they lie.
    fn reads(&self, unsigned: bool) -> bool {
        match self.kernel.lhs {
            LhsFormat::Bytes { unsigned: wanted } => wanted == unsigned || (self.kernel.flips_lhs)(),
            LhsFormat::PackedAsIs | LhsFormat::PackedSigned => false,
        }
    }

    /// As [`Call::block`], of the patches of an image. They are copied from it straight into what the kernel reads, or, for
    /// kernels with a format of their own, a few at a time into a buffer that stays in the first cache level and from there.
    ///
    /// # Safety
    /// As [`Call::block`].
    #[cfg(feature = "alloc")]
    unsafe fn patches(
        &self,
        patches: &PatchBytes,
        rows: Range<usize>,
        buffers: &Buffers,
    ) -> (*const u8, usize, bool) {
        let (dst, unsigned, chunk) = match self.kernel.lhs {
            LhsFormat::Bytes { unsigned } => (buffers.packed, unsigned, rows.len()),
            _ => (buffers.gathered, patches.unsigned, self.depth.chunk_rows()),
        };
        let flip = if unsigned == patches.unsigned { 0 } else { 0x80 };
        let row_stride = kernels::layout::byte_row_stride(self.k);
        let packs = !self.reads(unsigned);
        let mut start = rows.start;
        while start < rows.end {
            // Panels of rows are the same as if the block were packed at once: the last chunk has at least one whole panel.
            let left = rows.end - start;
            let count = if left >= chunk + self.kernel.mr { chunk } else { left };
            // SAFETY: the rows are patches of the image; the buffers have room for a block.
            unsafe {
                patches.gather(
                    kernels::layout::copy_runs(self.kernel.isa),
                    start..start + count,
                    flip,
                    dst,
                    row_stride,
                );
                let done = start - rows.start;
                let source = LhsRows { ptr: dst, row_stride, rows: count, k: self.k, unsigned };
                if !self.epilogue.rhs_zero.is_null() {
                    (self.kernel.row_sums)(&source, buffers.sums.add(done));
                }
                if packs {
                    (self.kernel.pack_lhs)(&source, buffers.packed.add(done * self.depth.lhs_stride));
                }
            }
            start += count;
        }
        (buffers.packed, self.depth.lhs_stride, false)
    }
}

/// A part's scratch.
struct Buffers {
    packed: *mut u8,
    gathered: *mut u8,
    sums: *mut i32,
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
