//! The product as it is called: checks, and parts for threads.

use core::marker::PhantomData;

#[cfg(feature = "alloc")]
use super::patches::Patches;
use super::{
    call::{Call, LhsSource},
    grid::Grid,
    lhs::Lhs,
    output::{Finish, Output},
    pack::{Contents, PackedRhs},
    split::Split,
};
use crate::{
    Broadcast, Error, Executor, MatMut, Operand, OutputElement, Sequential,
    check::check_shape,
    kernels::{Epilogue, LhsRows, Multiply, Param},
    parallel::{Team, run_parts},
};

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
    element: PhantomData<T>,
}

impl<'a, T: OutputElement> Gemm<'a, T> {
    /// Checks the output against the weights.
    ///
    /// # Errors
    /// [`Error::Length`] for scales or a bias that are not one for each column; [`Error::Scale`], [`Error::Bias`],
    /// [`Error::BiasType`], [`Error::ZeroPoint`], [`Error::Clamp`] for their values; [`Error::GroupedOutput`] for weights with scales for
    /// groups of K.
    pub fn new(weights: &'a PackedRhs<'a>, output: Output<'a, T>) -> Result<Self, Error> {
        output.finish.check(weights.n())?;
        let multiply = weights.product(output.product, &output.finish)?;
        Ok(Self::checked(weights, output.finish, multiply))
    }

    /// As [`Gemm::new`], of what has been checked and worked out before. The caller sees to it that [`Finish::fits`] holds: kernels
    /// read a scale and a bias for each column without another look at how many there are.
    #[inline]
    pub(super) fn checked(weights: &'a PackedRhs<'a>, finish: Finish<'a>, multiply: Multiply) -> Self {
        debug_assert!(finish.fits(weights.n()), "kernels read a scale and a bias for each column");
        Self { weights, contents: weights.contents(), finish, multiply, element: PhantomData }
    }

    /// Bytes of scratch that [`Gemm::run`] needs for up to `m` rows, alignment included. Bounded: it stops growing with `m`
    /// when a block of rows fills a part of the cache.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`].
    pub fn workspace_size(&self, m: usize) -> Result<usize, Error> {
        self.workspace_size_with(m, &Sequential)
    }

    /// Bytes of scratch that [`Gemm::run_with`] needs for up to `m` rows on that executor, or one of fewer threads that are worth as much
    /// ([`Executor::min_cycles`]): as much for each thread that there can be work for as [`Gemm::workspace_size`] says.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`].
    pub fn workspace_size_with(&self, m: usize, executor: &(impl Executor + ?Sized)) -> Result<usize, Error> {
        self.weights.workspace_size(m, Team::of(executor))
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
        let source = LhsSource::Rows { rows, col_stride: lhs.matrix.col_stride() };
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
        patches.check(self.weights.k())?;
        let checked = Checked {
            source: LhsSource::Patches(patches.bytes()),
            zero_points: &Broadcast::All(patches.zero_point()),
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

        let (depth, team) = (weights.depth(), Team::of(executor));
        let grid = Grid::new(weights.kernel().0, (m, k, n), team);
        // A single thread needs no look, and programs without threads none of the code.
        let split = match team.threads > 1 && lhs.source.matrix().is_some() {
            true => Split::new(weights.kernel().0, depth, (m, k, n), team),
            false => None,
        };
        let (workers, sums) = split.map_or((grid.workers(), 0), |split| (split.workers(), split.bytes()));
        let overflow = Error::SizeOverflow { what: "workspace", rows: m, cols: k };
        let sizes = depth.scratch(m).ok_or(overflow)?;
        let worker_bytes = sizes.total().ok_or(overflow)?;
        let start = scratch.as_ptr().align_offset(64);
        let needed = worker_bytes
            .checked_mul(workers)
            .and_then(|bytes| bytes.checked_add(sums)?.checked_add(start))
            .ok_or(overflow)?;
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
            contents,
            depth,
            k,
            n,
            row_sums: lhs.row_sums,
            epilogue: Epilogue {
                sum_offset: contents.sum_offset.map_or(null, |s| s.as_ptr()),
                zero_factor: contents.zero_factor.as_ptr(),
                rhs_zero: contents.rhs_zero.map_or(null, |z| z.as_ptr()),
                lhs_zero: Param::new(lhs.zero_points.as_slice()),
                lhs_shift: weights.kernel().0.lhs.shift(lhs.source.unsigned()),
                bias,
                store,
                groups: core::ptr::null(),
            },
            lhs: lhs.source,
            out: out.as_mut_ptr().cast(),
            out_size: size_of::<T>(),
            out_row_stride: out.row_stride(),
            out_col_stride: out.col_stride(),
            // SAFETY: `needed` covers the alignment.
            scratch: unsafe { scratch.as_mut_ptr().add(start) },
            sizes,
            worker_bytes,
        };
        if let Some(split) = split {
            run_parts(executor, workers, split.parts(), |worker, runs| {
                // SAFETY: no two calls have one worker or one part; views, weights and parameters outlive this call.
                runs.flatten().for_each(|index| unsafe { call.sum_part(&split, worker, index) });
            });
            // SAFETY: all parts have been run, and nobody else is left.
            unsafe { call.finish_sums(&split) };
            return Ok(());
        }
        run_parts(executor, workers, grid.parts(), |worker, runs| {
            // SAFETY: there is scratch for every worker, and no two calls have the same.
            let mut buffers = unsafe { call.buffers(worker) };
            for run in runs {
                // SAFETY: parts are disjoint in rows or columns and lie inside M x N, and each is given away once; views, weights
                // and parameters outlive this call.
                grid.pieces(run, |rows, cols| unsafe { call.part(&mut buffers, rows, cols) });
            }
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
    source: LhsSource,
    zero_points: &'a Broadcast<'a, i32>,
    row_scales: &'a Broadcast<'a, f32>,
    row_sums: Option<&'a [i32]>,
}
