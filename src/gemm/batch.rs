//! Products of activations: many at a time, whose `rhs` is packed in the call.

use super::{
    Gemm, Lhs, Output, PackedRhs, Rhs,
    grid::{Shape, cycles},
    parts::ALIGN,
};
use crate::{
    Error, Executor, Kernel, MatMut, Operand, OutputElement, Sequential,
    check::{check_len, check_shape},
    parallel::{Team, run_parts},
};

/// Products of pairs of activations, as in attention: `out[i] = output(lhs[i] * rhs[i])`, for every `i` of a batch.
///
/// No operand is known before the call, so `rhs` is packed in it, from K x N or N x K, into scratch that the caller brings. Each
/// product has a shape, zero points and scales of its own. Products next to each other that have the same `rhs` pack it once: a matrix that
/// all multiply, or keys that several heads share, is given for each of them. Threads take whole products, or, where there are fewer
/// than threads, parts of each.
///
/// Answers have the bits of [`Gemm`]. For an `rhs` that comes again in later calls, pack it once instead.
///
/// ```
/// use i8gemm::{BatchGemm, Lhs, MatMut, MatRef, Output, Rhs};
/// // Two heads of queries and keys, M x K and N x K: scores are queries times keys, transposed.
/// let (m, k, n) = (1, 3, 2);
/// let queries = [1u8, 2, 3, 4, 5, 6];
/// let keys = [1i8, 0, -1, 2, 2, 2, 0, 1, 0, -1, 0, 1];
/// let lhs: Vec<_> = queries.chunks(m * k).map(|q| Lhs::new(MatRef::row_major(q, m, k).unwrap())).collect();
/// let rhs: Vec<_> = keys.chunks(n * k).map(|x| Rhs::new(MatRef::col_major(x, k, n).unwrap())).collect();
/// let mut scores = [0.0f32; 4];
/// let mut out: Vec<_> = scores.chunks_mut(m * n).map(|y| MatMut::row_major(y, m, n).unwrap()).collect();
///
/// let batch = BatchGemm::new(Output::f32(0.5))?;
/// let mut scratch = vec![0; batch.workspace_size(&lhs, &rhs)?];
/// batch.run(&lhs, &rhs, &mut out, &mut scratch)?;
/// assert_eq!(scores, [-1.0, 6.0, 2.5, 1.0]);
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct BatchGemm<'a, T> {
    kernel: Kernel,
    output: Output<'a, T>,
}

/// What scratch a batch takes: bytes of a packed `rhs`, and of a product.
#[derive(Default, Clone, Copy)]
struct Sizes {
    packed: usize,
    product: usize,
}

impl Sizes {
    fn max(self, other: Self) -> Self {
        Self { packed: self.packed.max(other.packed), product: self.product.max(other.product) }
    }

    /// Of so many workers, of any alignment.
    fn total(self, workers: usize) -> Option<usize> {
        self.worker()?.checked_mul(workers)?.checked_add(ALIGN - 1)
    }

    /// Of a worker.
    fn worker(self) -> Option<usize> {
        self.packed
            .checked_next_multiple_of(ALIGN)?
            .checked_add(self.product)?
            .checked_next_multiple_of(ALIGN)
    }
}

/// How a batch is done.
struct Plan {
    sizes: Sizes,
    /// Threads that take whole products, or 1 where all of them take parts of each.
    workers: usize,
}

impl<'a, T: OutputElement> BatchGemm<'a, T> {
    /// Products on [`Kernel::best`], all with that output.
    ///
    /// # Errors
    /// Those of [`Kernel::best`].
    pub fn new(output: Output<'a, T>) -> Result<Self, Error> {
        Ok(Self { kernel: Kernel::best()?, output })
    }

    /// The same on a kernel of the caller's choice.
    ///
    /// # Errors
    /// [`Error::KernelUnavailable`] when this CPU cannot run it.
    pub fn kernel(self, kernel: Kernel) -> Result<Self, Error> {
        kernel.check_available()?;
        Ok(Self { kernel, ..self })
    }

    /// Bytes of scratch that [`BatchGemm::run`] needs for those operands, of any alignment.
    ///
    /// # Errors
    /// As [`BatchGemm::run`], but for the outputs.
    pub fn workspace_size<A: Operand, B: Operand>(
        &self,
        lhs: &[Lhs<A>],
        rhs: &[Rhs<B>],
    ) -> Result<usize, Error> {
        self.workspace_size_with(&Sequential, lhs, rhs)
    }

    /// Bytes of scratch that [`BatchGemm::run_with`] needs on that executor.
    ///
    /// # Errors
    /// As [`BatchGemm::run`], but for the outputs.
    pub fn workspace_size_with<A: Operand, B: Operand>(
        &self,
        executor: &(impl Executor + ?Sized),
        lhs: &[Lhs<A>],
        rhs: &[Rhs<B>],
    ) -> Result<usize, Error> {
        let plan = self.plan(Team::of(executor), lhs, rhs)?;
        plan.sizes.total(plan.workers).ok_or(too_large(plan.workers, plan.sizes))
    }

    /// Computes every `out` on the caller's thread. Allocates nothing.
    ///
    /// # Errors
    /// [`Error::Length`] unless there are as many of each operand; [`Error::Shape`] when K, M or N of a product disagree; those of
    /// [`PackedRhs::pack_for`] for an `rhs`, of [`Gemm::new`] for the output, and of [`Gemm::run`] for an `lhs`;
    /// [`Error::BufferTooSmall`] for the scratch. Nothing has been written then.
    pub fn run<A: Operand, B: Operand>(
        &self,
        lhs: &[Lhs<A>],
        rhs: &[Rhs<B>],
        out: &mut [MatMut<T>],
        scratch: &mut [u8],
    ) -> Result<(), Error> {
        self.run_with(&Sequential, lhs, rhs, out, scratch)
    }

    /// As [`BatchGemm::run`], on the threads of an executor.
    ///
    /// # Errors
    /// As [`BatchGemm::run`]; the scratch must have [`BatchGemm::workspace_size_with`] bytes.
    pub fn run_with<A: Operand, B: Operand>(
        &self,
        executor: &(impl Executor + ?Sized),
        lhs: &[Lhs<A>],
        rhs: &[Rhs<B>],
        out: &mut [MatMut<T>],
        scratch: &mut [u8],
    ) -> Result<(), Error> {
        let team = Team::of(executor);
        let Plan { sizes, workers } = self.plan(team, lhs, rhs)?;
        check_len("out", out.len(), lhs.len())?;
        for ((lhs, rhs), out) in lhs.iter().zip(rhs).zip(&*out) {
            check_shape("rows of out (M)", lhs.matrix.rows(), out.rows())?;
            check_shape("columns of out (N)", rhs.matrix.cols(), out.cols())?;
        }
        let start = scratch.as_ptr().align_offset(ALIGN);
        let worker = sizes.worker().ok_or(too_large(workers, sizes))?;
        let needed = worker.checked_mul(workers).and_then(|bytes| bytes.checked_add(start));
        let needed = needed.ok_or(too_large(workers, sizes))?;
        if scratch.len() < needed {
            return Err(Error::BufferTooSmall { what: "workspace", needed, actual: scratch.len() });
        }

        let scratch = &mut scratch[start..][..needed - start];
        if workers == 1 {
            let outs = out.iter_mut().map(MatMut::reborrow).enumerate();
            return self.one_by_one(executor, (lhs, rhs), outs, sizes, scratch);
        }
        let (scratch, outs) = (Shared(scratch.as_mut_ptr()), Shared(out.as_mut_ptr()));
        run_parts(executor, workers, lhs.len(), |index, runs| {
            // SAFETY: there are as many bytes for every worker, and no two calls have the same.
            let mine = unsafe { core::slice::from_raw_parts_mut(scratch.at(index * worker), worker) };
            // SAFETY: each product is given away once; its output is borrowed until this call returns.
            let outs = runs.flatten().map(|index| (index, unsafe { (*outs.at(index)).reborrow() }));
            let done = self.one_by_one(&Sequential, (lhs, rhs), outs, sizes, mine);
            debug_assert!(done.is_ok(), "all was checked: {done:?}");
        });
        Ok(())
    }

    /// Computes the products of some outputs, each on all threads of the executor.
    fn one_by_one<'o, A: Operand, B: Operand>(
        &self,
        executor: &(impl Executor + ?Sized),
        (lhs, rhs): (&[Lhs<A>], &[Rhs<B>]),
        outs: impl Iterator<Item = (usize, MatMut<'o, T>)>,
        sizes: Sizes,
        scratch: &mut [u8],
    ) -> Result<(), Error>
    where
        T: 'o,
    {
        let (packed, scratch) = scratch.split_at_mut(sizes.packed.next_multiple_of(ALIGN));
        let mut before: Option<&Rhs<B>> = None;
        for (index, out) in outs {
            let fresh = !before.is_some_and(|before| before.is_same(&rhs[index]));
            before = Some(&rhs[index]);
            let weights = PackedRhs::pack_or_keep(self.kernel, &rhs[index], packed, fresh)?;
            Gemm::new(&weights, self.output)?.run_with(executor, lhs[index], out, scratch)?;
        }
        Ok(())
    }

    /// Checks operands against each other and the output, and decides how they are shared.
    fn plan<A: Operand, B: Operand>(
        &self,
        team: Team,
        lhs: &[Lhs<A>],
        rhs: &[Rhs<B>],
    ) -> Result<Plan, Error> {
        check_len("rhs", rhs.len(), lhs.len())?;
        let mut all = 0usize;
        let mut before: Option<&Rhs<B>> = None;
        for (lhs, rhs) in lhs.iter().zip(rhs) {
            lhs.check(rhs.matrix.rows(), &self.output.finish.kind)?;
            if !before.is_some_and(|before| before.is_same(rhs)) {
                rhs.check()?;
                rhs.check_values()?;
                self.output.finish.check(rhs.matrix.cols())?;
                if rhs.groups.is_some() {
                    self.output.finish.check_groups()?;
                }
            }
            before = Some(rhs);
            all = all.saturating_add(cycles(self.kernel.0, shape(lhs, rhs)));
        }
        let workers = team.worthwhile(all);
        let workers = if workers <= lhs.len() { workers } else { 1 };
        // Of a worker, who is alone, or of all threads.
        let team = if workers > 1 { Team::of(&Sequential) } else { team };
        let mut sizes = Sizes::default();
        let mut known = None;
        for (lhs, rhs) in lhs.iter().zip(rhs) {
            let like = (shape(lhs, rhs), rhs.format.bits, rhs.groups.is_some(), rhs.group_size());
            let of_one = match known {
                Some((same, sizes)) if same == like => sizes,
                _ => self.sizes(team, like.0, rhs)?,
            };
            known = Some((like, of_one));
            sizes = sizes.max(of_one);
        }
        Ok(Plan { sizes, workers })
    }

    /// The scratch of a product.
    fn sizes<B: Operand>(&self, team: Team, (m, _, _): Shape, rhs: &Rhs<B>) -> Result<Sizes, Error> {
        let (packed, product) = PackedRhs::sizes(self.kernel, rhs, m, team)?;
        Ok(Sizes { packed, product })
    }
}

fn shape<A: Operand, B: Operand>(lhs: &Lhs<A>, rhs: &Rhs<B>) -> Shape {
    (lhs.matrix.rows(), rhs.matrix.rows(), rhs.matrix.cols())
}

fn too_large(workers: usize, sizes: Sizes) -> Error {
    Error::SizeOverflow { what: "workspace, threads x bytes", rows: workers, cols: sizes.product }
}

/// Elements that are borrowed exclusively for a call, of which each thread takes those that no other does.
struct Shared<T>(*mut T);

// SAFETY: a reference gives out pointers only; who makes references of them, in `run_with`, takes each element on one thread, to which
// it may be sent.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    fn at(&self, index: usize) -> *mut T {
        self.0.wrapping_add(index)
    }
}
