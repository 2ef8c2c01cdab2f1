//! The work of a call: blocks of rows, their preparation, and the kernel.

use core::{ffi::c_void, ops::Range};

#[cfg(feature = "alloc")]
use super::patches::PatchBytes;
use super::{
    blocking::{Depth, Scratch},
    pack::Contents,
};
use crate::kernels::{self, Epilogue, GroupPlace, Job, LhsFormat, LhsRows, Multiply, Param, Store};

/// Where the rows of `lhs` come from.
pub(super) enum LhsSource {
    /// A matrix, whose rows are contiguous if the column stride is 1.
    Rows { rows: LhsRows, col_stride: usize },
    /// An image.
    #[cfg(feature = "alloc")]
    Patches(PatchBytes),
}

impl LhsSource {
    pub fn rows(&self) -> usize {
        match self {
            Self::Rows { rows, .. } => rows.rows,
            #[cfg(feature = "alloc")]
            Self::Patches(patches) => patches.rows(),
        }
    }

    /// The rows of a matrix, and its column stride.
    pub fn matrix(&self) -> Option<(&LhsRows, usize)> {
        match self {
            Self::Rows { rows, col_stride } => Some((rows, *col_stride)),
            #[cfg(feature = "alloc")]
            Self::Patches(_) => None,
        }
    }

    pub fn unsigned(&self) -> bool {
        match self {
            Self::Rows { rows, .. } => rows.unsigned,
            #[cfg(feature = "alloc")]
            Self::Patches(patches) => patches.unsigned,
        }
    }
}

/// A checked call, as the threads that compute its parts see it.
pub(super) struct Call<'a> {
    pub kernel: &'static kernels::Kernel,
    pub multiply: Multiply,
    pub panels: &'a [u8],
    pub contents: &'a Contents<'a>,
    pub depth: &'a Depth,
    pub lhs: LhsSource,
    pub k: usize,
    pub n: usize,
    pub row_sums: Option<&'a [i32]>,
    pub epilogue: Epilogue,
    pub out: *mut u8,
    pub out_size: usize,
    pub out_row_stride: usize,
    pub out_col_stride: usize,
    pub scratch: *mut u8,
    pub sizes: Scratch,
    pub worker_bytes: usize,
}

// SAFETY: parts read shared inputs and write disjoint outputs and scratch, see `Gemm::run_with`.
unsafe impl Sync for Call<'_> {}

impl Call<'_> {
    /// Where a worker prepares rows.
    ///
    /// # Safety
    /// There is scratch for the worker.
    #[inline(always)]
    pub unsafe fn buffers(&self, worker: usize) -> Buffers {
        // SAFETY: offsets stay inside the worker's scratch.
        unsafe {
            let kernel = self.scratch.add(worker * self.worker_bytes);
            let packed = kernel.add(self.sizes.kernel);
            let gathered = packed.add(self.sizes.lhs);
            let sums = gathered.add(self.sizes.gather).cast();
            Buffers { kernel, packed, gathered, sums, rows: 0..0, prepared: (core::ptr::null(), 0, false) }
        }
    }

    /// Computes some rows and columns.
    ///
    /// # Safety
    /// The ranges lie inside the product, `cols` starts at a panel; no other thread has the same buffers or outputs.
    #[inline(always)]
    pub unsafe fn part(&self, buffers: &mut Buffers, rows: Range<usize>, cols: Range<usize>) {
        let block = self.depth.block_rows(rows.len());
        let rhs = &self.panels[cols.start * self.depth.column_bytes..];
        // SAFETY: offsets stay inside the column constants, the rows and the output.
        unsafe {
            let mut start = rows.start;
            while start < rows.end {
                let end = (start + block).min(rows.end);
                // The part before may have had the same rows.
                if buffers.rows != (start..end) {
                    buffers.rows = start..end;
                    buffers.prepared = match &self.lhs {
                        LhsSource::Rows { rows, col_stride } => {
                            self.block(rows, *col_stride, start..end, buffers)
                        }
                        #[cfg(feature = "alloc")]
                        LhsSource::Patches(patches) => self.patches(patches, start..end, buffers),
                    };
                }
                let (lhs, lhs_stride, flip_lhs) = buffers.prepared;
                let has_sums = !self.epilogue.rhs_zero.is_null();
                let offset = start * self.out_row_stride + cols.start * self.out_col_stride;
                let job = Job {
                    rows: end - start,
                    cols: cols.len(),
                    k: self.k,
                    first_k: 0,
                    lhs,
                    lhs_stride,
                    flip_lhs,
                    rhs: rhs.as_ptr(),
                    rhs_stride: self.depth.panel_bytes,
                    scratch: buffers.kernel,
                    epilogue: &self.epilogue,
                    first_row: start,
                    first_col: cols.start,
                    row_sums: if has_sums { buffers.sums.cast_const() } else { core::ptr::null() },
                    out: self.out.add(offset * self.out_size).cast::<c_void>(),
                    out_row_stride: self.out_row_stride,
                    out_col_stride: self.out_col_stride,
                };
                if self.depth.plain {
                    (self.multiply)(&job);
                } else {
                    self.formatted(&job, self.contents);
                }
                start = end;
            }
        }
    }

    /// Computes a job of any format, group by group of K. Not inlined, as [`gather`].
    ///
    /// # Safety
    /// As [`Call::part`], for the job; the contents are those of the weights.
    #[inline(never)]
    unsafe fn formatted(&self, job: &Job, contents: &Contents) {
        let multiply = |job: &Job| {
            // SAFETY: the panels are of the format, and the part's scratch has room for some of them.
            unsafe {
                match &self.depth.unpacking {
                    None => (self.multiply)(job),
                    Some(unpacking) => unpacking.multiply(self.kernel, self.multiply, job, self.out_size),
                }
            }
        };
        let Some(scales) = contents.group_scales else { return multiply(job) };
        let (stride, last) = (contents.stride, self.depth.groups - 1);
        let one = 1.0;
        for group in 0..=last {
            let first_k = group * self.depth.group_size;
            let from = |constants: *const i32| match constants.is_null() {
                true => constants,
                false => constants.wrapping_add(group * stride),
            };
            let groups = GroupPlace {
                first: group == 0,
                last: if group == last { Some(self.epilogue.store) } else { None },
            };
            let epilogue = Epilogue {
                sum_offset: from(self.epilogue.sum_offset),
                zero_factor: from(self.epilogue.zero_factor),
                store: Store::F32 {
                    row_scales: Param::new(core::slice::from_ref(&one)),
                    col_scales: Param { ptr: scales.as_ptr().wrapping_add(group * stride), step: 1 },
                    bias: core::ptr::null(),
                    min: f32::NEG_INFINITY,
                    max: f32::INFINITY,
                },
                groups: &groups,
                ..self.epilogue
            };
            // A group's rows of K, constants and scales are parts of the product's; sums of rows lie group by group.
            multiply(&Job {
                k: (self.k - first_k).min(self.depth.group_size),
                first_k,
                rhs: job.rhs.wrapping_add(self.depth.column_bytes_to(first_k) * self.kernel.nr),
                row_sums: job.row_sums.wrapping_add(group * job.rows),
                epilogue: &epilogue,
                ..*job
            });
        }
    }

    /// Sums of rows of bytes that begin with row `done` of a block of so many, of each group of K. Not inlined, as [`gather`].
    ///
    /// # Safety
    /// The rows are readable; there is room for the sums of the block.
    #[inline(never)]
    unsafe fn row_sums(&self, rows: &LhsRows, done: usize, block: usize, sums: *mut i32) {
        for group in 0..self.depth.groups {
            let start = group * self.depth.group_size;
            // SAFETY: the caller's: a group's values are a part of each row.
            unsafe {
                let k = (rows.k - start).min(self.depth.group_size);
                let rows = LhsRows { ptr: rows.ptr.add(start), k, ..*rows };
                (self.kernel.row_sums)(&rows, sums.add(group * block + done));
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
    ) -> Prepared {
        // SAFETY: the rows lie inside the matrix; the buffers have room for the block.
        unsafe {
            let (source, in_place) = self.contiguous(lhs, col_stride, rows.clone(), buffers);
            if !self.epilogue.rhs_zero.is_null() {
                match self.row_sums {
                    Some(known) if self.depth.groups == 1 => {
                        let shift = (self.k as i32).wrapping_mul(self.epilogue.lhs_shift);
                        shift_sums(&known[rows], shift, buffers.sums);
                    }
                    _ => self.row_sums(&source, 0, source.rows, buffers.sums),
                }
            }
            self.prepared(&source, in_place, buffers)
        }
    }

    /// Rows as the kernel reads them: where they lie, or packed.
    ///
    /// # Safety
    /// The rows are readable, and the buffers have room for them; `in_place` as [`Call::contiguous`] says.
    #[inline(always)]
    pub unsafe fn prepared(&self, source: &LhsRows, in_place: bool, buffers: &Buffers) -> Prepared {
        if in_place {
            return (source.ptr, source.row_stride, self.kernel.lhs.shift(source.unsigned) != 0);
        }
        // SAFETY: the caller's.
        unsafe { (self.kernel.pack_lhs)(source, buffers.packed) };
        (buffers.packed, (self.kernel.lhs_stride)(source.k), false)
    }

    /// Contiguous rows of a block of a matrix, and whether the kernel can read them where they lie.
    ///
    /// # Safety
    /// As [`Call::block`].
    #[inline(always)]
    pub unsafe fn contiguous(
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
            LhsFormat::PackedUnsigned | LhsFormat::PackedSigned => (buffers.gathered, lhs.unsigned),
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
            LhsFormat::PackedUnsigned | LhsFormat::PackedSigned => false,
        }
    }

    /// As [`Call::block`], of the patches of an image. They are copied from it straight into what the kernel reads, or, for
    /// kernels with a format of their own, a few at a time into a buffer that stays in the first cache level and from there.
    ///
    /// # Safety
    /// As [`Call::block`].
    #[cfg(feature = "alloc")]
    unsafe fn patches(&self, patches: &PatchBytes, rows: Range<usize>, buffers: &Buffers) -> Prepared {
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
                    kernels::vectors::copies::copy_runs(self.kernel.isa),
                    start..start + count,
                    flip,
                    dst,
                    row_stride,
                );
                let done = start - rows.start;
                let source = LhsRows { ptr: dst, row_stride, rows: count, k: self.k, unsigned };
                if !self.epilogue.rhs_zero.is_null() {
                    self.row_sums(&source, done, rows.len(), buffers.sums);
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

/// Prepared rows: where the first is, bytes from one to the next, and whether the kernel has to flip them.
type Prepared = (*const u8, usize, bool);

/// A worker's scratch, and what it has there.
pub(super) struct Buffers {
    /// For the kernel.
    pub kernel: *mut u8,
    packed: *mut u8,
    gathered: *mut u8,
    sums: *mut i32,
    /// Rows that were prepared last.
    rows: Range<usize>,
    prepared: Prepared,
}

/// Row sums as the kernel sees the rows. Not inlined, as [`gather`]: what few calls need would cost all of them registers.
///
/// # Safety
/// `dst` has room for as many sums.
#[inline(never)]
unsafe fn shift_sums(sums: &[i32], shift: i32, dst: *mut i32) {
    for (i, sum) in sums.iter().enumerate() {
        // SAFETY: there is room for as many sums.
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
                    // SAFETY: the element lies inside the block, and `dst` has room for its rows.
                    unsafe {
                        let byte = *src.ptr.add(i * src.row_stride + k * col_stride);
                        *dst.add(i * row_stride + k) = byte ^ flip;
                    }
                }
            }
        }
    }
}
