//! Peers that are Rust crates, called as their documentation shows: weights packed beforehand where that can be.

use anyhow::{Result, anyhow};
use gemmkit::{Parallelism, Workspace};
use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions, PackedBMatrix, QuantParams};
use rten_tensor::Matrix;
use tract_data::prelude::*;
use tract_linalg::{
    mmm::{AsInputValue, FusedSpec, MMMInputValue, MatMatMul, Query},
    multithread::{self, Executor},
};

use crate::{
    cores,
    ours::{LHS_ZERO, Operands, macs},
    pairs::{Clock, Contender, checksum},
};

/// A product whose call is all there is to time.
pub trait Product {
    const NAME: &'static str;
    /// It starts threads of its own, which stay where the one that starts them may run.
    const OWN_THREADS: bool = false;
    fn call(&mut self) -> Result<()>;
    /// Lets threads go that would look for more work on cores that others need.
    fn rest(&mut self) {}
    /// Zero point of `lhs` that was applied, and the sums in row-major order.
    fn sums(&self) -> Option<(i32, Vec<i32>)>;
}

/// A [`Product`] in the ring.
pub struct InProcess<P> {
    pub work: f64,
    pub product: P,
}

impl<P: Product> InProcess<P> {
    pub fn new(operands: &Operands, product: P) -> Self {
        Self { work: macs(operands.shape), product }
    }
}

impl<P: Product> Contender for InProcess<P> {
    fn work(&self) -> f64 {
        self.work
    }

    fn seconds(&mut self, calls: usize, clock: Clock) -> Result<f64> {
        let mut result = Ok(());
        let mut time = || clock.time(|| result = (0..calls).try_for_each(|_| self.product.call()));
        let seconds =
            if P::OWN_THREADS && clock == Clock::Wall { cores::unpinned(&mut time) } else { time() };
        result.map(|()| seconds)
    }

    fn rest(&mut self) {
        self.product.rest();
    }

    fn sums(&mut self) -> Result<Option<(i32, i64)>> {
        Ok(self.product.sums().map(|(zero, sums)| (zero, checksum(sums.into_iter()))))
    }
}

/// rten-gemm: u8 x i8. Its threads are those of the rayon pool it is called from.
pub struct Rten<'a> {
    executor: GemmExecutor<u8, i8, i32>,
    operands: &'a Operands,
    weights: PackedBMatrix<i8>,
    zero_points: Vec<u8>,
    out: Vec<i32>,
}

impl<'a> Rten<'a> {
    pub fn new(operands: &'a Operands) -> Self {
        let (m, k, n) = operands.shape;
        let executor = GemmExecutor::new();
        let weights = executor.prepack_b(Matrix::from_data([k, n], &operands.rhs[..]));
        Self { executor, operands, weights, zero_points: vec![LHS_ZERO as u8; m], out: vec![0; m * n] }
    }
}

impl Product for Rten<'_> {
    const NAME: &'static str = "rten-gemm";

    fn call(&mut self) -> Result<()> {
        let (m, k, _) = self.operands.shape;
        let lhs = Matrix::from_data([m, k], bytemuck::cast_slice(&self.operands.lhs[..]));
        let a_quant = Some(QuantParams { zero_point: &self.zero_points[..] });
        let options = GemmOptions { a_quant, ..GemmOptions::default() };
        let (lhs, rhs) = (GemmInputA::Unpacked(lhs), GemmInputB::Packed(&self.weights));
        self.executor.gemm(&mut self.out, lhs, rhs, options).map_err(|error| anyhow!("{error:?}"))
    }

    fn sums(&self) -> Option<(i32, Vec<i32>)> {
        Some((LHS_ZERO, self.out.clone()))
    }
}

/// gemmkit: i8 x i8, no zero points. With weights packed beforehand it writes columns.
pub struct Gemmkit<'a> {
    operands: &'a Operands,
    weights: gemmkit::PackedRhs<i8>,
    out: Vec<i32>,
    workspace: Workspace,
    threads: Parallelism,
}

impl<'a> Gemmkit<'a> {
    pub fn new(operands: &'a Operands, threads: usize) -> Self {
        let (m, k, n) = operands.shape;
        Self {
            operands,
            weights: gemmkit::prepack_rhs_i8(gemmkit::MatRef::from_row_major(&operands.rhs, k, n)),
            out: vec![0; m * n],
            workspace: Workspace::new(),
            threads: if threads == 1 { Parallelism::Serial } else { Parallelism::Rayon(threads) },
        }
    }
}

impl Product for Gemmkit<'_> {
    const NAME: &'static str = "gemmkit";
    const OWN_THREADS: bool = true;

    fn call(&mut self) -> Result<()> {
        let (m, k, n) = self.operands.shape;
        let lhs = gemmkit::MatRef::from_row_major(&self.operands.lhs, m, k);
        let out = gemmkit::MatMut::from_col_major(&mut self.out, m, n);
        gemmkit::gemm_i8_packed_b_with(&mut self.workspace, 1, lhs, &self.weights, 0, out, self.threads);
        Ok(())
    }

    fn sums(&self) -> Option<(i32, Vec<i32>)> {
        let (m, _, n) = self.operands.shape;
        Some((0, (0..m * n).map(|i| self.out[i % n * m + i / n]).collect()))
    }
}

/// tract-linalg: i8 x i8, no zero points. Weights are packed once, and activations in each call, as its own layers do; like them it
/// makes the transpose where there are fewer rows than columns, for its kernels want the longer side on the left.
pub struct Tract<'a> {
    operands: &'a Operands,
    kernel: Box<dyn MatMatMul>,
    packing: usize,
    transposed: bool,
    lhs: Tensor,
    weights: Box<dyn MMMInputValue>,
    out: Tensor,
    threads: Executor,
}

impl<'a> Tract<'a> {
    pub fn new(operands: &'a Operands, threads: usize) -> Result<Self> {
        let (m, k, n) = operands.shape;
        let transposed = m < n;
        let (left, right) = if transposed { (n, m) } else { (m, n) };
        // The kernel that it would choose, and of that one's packings the one of i8.
        let query = Query {
            allow_extractor: false,
            ..Query::plain(DatumType::I32, Some(left), Some(k), Some(right))
        };
        let (kernel, packing, _) = tract_linalg::MmmDispatch::native()
            .pick(&query)
            .ok_or_else(|| anyhow!("no kernel of i8 operands and i32 sums here"))?;
        let rhs = Tensor::from_shape(&[k, n], &operands.rhs)?;
        let (left, right) = &kernel.packings()[packing];
        Ok(Self {
            operands,
            packing,
            transposed,
            lhs: Tensor::from_shape(&[m, k], &operands.lhs)?,
            weights: if transposed { left } else { right }.prepare_one(&rhs, 0, 1)?,
            out: Tensor::zero::<i32>(&[m, n])?,
            kernel,
            threads: if threads == 1 { Executor::SingleThread } else { Executor::multithread(threads) },
        })
    }
}

impl Product for Tract<'_> {
    const NAME: &'static str = "tract-linalg";
    const OWN_THREADS: bool = true;

    fn call(&mut self) -> Result<()> {
        let (m, _, n) = self.operands.shape;
        let (left, right) = &self.kernel.packings()[self.packing];
        let lhs = if self.transposed { right } else { left }.prepare_one(&self.lhs, 1, 0)?;
        let mut sides = [(&*lhs, m, 0), (&*self.weights, n, 1)];
        if self.transposed {
            sides.reverse();
        }
        let [(left, rows, row_axis), (right, cols, col_axis)] = sides;
        let threads = self.threads.clone();
        multithread::multithread_tract_scope(threads, || {
            // SAFETY: operands were packed by the kernel's own packing for this depth, and `out` has M x N sums.
            unsafe {
                let store = self.kernel.c_view(Some(row_axis), Some(col_axis)).wrap(&self.out.view_mut());
                let product = FusedSpec::AddMatMul {
                    a: AsInputValue::Borrowed(left),
                    b: AsInputValue::Borrowed(right),
                    packing: self.packing,
                };
                self.kernel.run(rows, cols, &[product, FusedSpec::Store(store)])
            }
        })
    }

    fn sums(&self) -> Option<(i32, Vec<i32>)> {
        let (m, _, n) = self.operands.shape;
        // SAFETY: the tensor was made as M x N i32.
        let sums = unsafe { self.out.as_slice_unchecked::<i32>() };
        Some((0, sums[..m * n].to_vec()))
    }
}

/// gemm: f32, what the integers have to beat.
pub struct GemmF32<'a> {
    operands: &'a Operands,
    rhs: Vec<f32>,
    out: Vec<f32>,
    threads: gemm::Parallelism,
}

impl<'a> GemmF32<'a> {
    pub fn new(operands: &'a Operands, threads: usize) -> Self {
        let (m, _, n) = operands.shape;
        Self {
            operands,
            rhs: operands.rhs.iter().map(|&v| f32::from(v)).collect(),
            out: vec![0.0; m * n],
            threads: if threads == 1 { gemm::Parallelism::None } else { gemm::Parallelism::Rayon(threads) },
        }
    }
}

impl Product for GemmF32<'_> {
    const NAME: &'static str = "gemm (f32)";

    fn call(&mut self) -> Result<()> {
        let (m, k, n) = self.operands.shape;
        let row = |cols: usize| cols as isize;
        // SAFETY: all three are row-major, of M x N, M x K and K x N elements.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                self.out.as_mut_ptr(),
                1,
                row(n),
                false,
                self.operands.lhs_f32.as_ptr(),
                1,
                row(k),
                self.rhs.as_ptr(),
                1,
                row(n),
                0.0,
                1.0,
                false,
                false,
                false,
                self.threads,
            );
        }
        Ok(())
    }

    fn sums(&self) -> Option<(i32, Vec<i32>)> {
        None
    }
}
