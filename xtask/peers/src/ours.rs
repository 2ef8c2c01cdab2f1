//! The products of this crate.

mod in_call;

use std::fmt;

use anyhow::Result;
use bytemuck::NoUninit;
use i8gemm::{
    Gemm, Kernel, Lhs, MatMut, MatRef, Operand, Output, OutputElement, PackedRhs, Rayon, Rhs,
    quant::{DynamicBuffers, DynamicQuantizer},
};

use crate::pairs::{Clock, Contender, checksum};

/// M, K, N.
pub type Shape = (usize, usize, usize);

/// Multiply-adds of a product.
pub fn macs((m, k, n): Shape) -> f64 {
    m as f64 * k as f64 * n as f64
}

/// Zero point of `lhs`.
pub const LHS_ZERO: i32 = 3;

/// Type of an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    I8,
    U8,
    I32,
    F32,
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::I8 => "i8",
            Self::U8 => "u8",
            Self::I32 => "i32",
            Self::F32 => "f32",
        })
    }
}

/// What is computed. `lhs` has a zero point; an f32 `lhs` is quantized on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Op {
    pub lhs: Type,
    pub rhs: Type,
    pub out: Type,
    /// Each column of `rhs` has a zero point.
    pub rhs_zero: bool,
    pub packing: Packing,
}

/// When `rhs` is packed, and from what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Once, before anything is timed.
    Once,
    /// In each call, from K x N.
    Rows,
    /// In each call, from N x K.
    Columns,
}

impl Op {
    pub const fn new(lhs: Type, rhs: Type, out: Type) -> Self {
        Self { lhs, rhs, out, rhs_zero: false, packing: Packing::Once }
    }

    pub const fn packed_in_call(self, packing: Packing) -> Self {
        Self { packing, ..self }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let zeros = if self.rhs_zero { ", rhs zero points" } else { "" };
        let packing = match self.packing {
            Packing::Once => "",
            Packing::Rows => ", K x N packed in the call",
            Packing::Columns => ", N x K packed in the call",
        };
        write!(f, "{} x {} -> {}{zeros}{packing}", self.lhs, self.rhs, self.out)
    }
}

/// The operands of a shape, the same bytes for everyone: spread over all values, made by a formula that Python's side repeats.
pub struct Operands {
    pub shape: Shape,
    /// M x K.
    pub lhs: Vec<i8>,
    /// K x N.
    pub rhs: Vec<i8>,
    /// M x K, between -1 and 1.
    pub lhs_f32: Vec<f32>,
}

/// Element `i` of an operand.
fn value(i: usize) -> i8 {
    ((i as u64).wrapping_mul(2_654_435_761) >> 7) as i8
}

impl Operands {
    pub fn new(shape: Shape) -> Self {
        let (m, k, n) = shape;
        let lhs: Vec<i8> = (0..m * k).map(value).collect();
        let lhs_f32 = lhs.iter().map(|&v| f32::from(v) / 128.0).collect();
        Self { shape, lhs, rhs: (0..k * n).map(value).collect(), lhs_f32 }
    }

    /// `rhs` as the operation has it.
    fn rhs<W: Operand>(&self, op: Op) -> Result<MatRef<'_, W>> {
        let ((_, k, n), bytes) = (self.shape, bytemuck::cast_slice(&self.rhs));
        Ok(match op.packing {
            Packing::Columns => MatRef::row_major(bytes, n, k)?.transpose(),
            _ => MatRef::row_major(bytes, k, n)?,
        })
    }

    /// A scale for each column, for outputs that have them.
    pub fn scales(&self) -> Vec<f32> {
        (0..self.shape.2).map(|j| 1e-4 * (1.0 + (j % 7) as f32)).collect()
    }
}

/// The checksum of the exact sums, with that zero point of `lhs`: the portable kernel's, which shares nothing with the others but the
/// loops around it.
pub fn expected(operands: &Operands, op: Op, zero_point: i32) -> Result<i64> {
    let (m, k, n) = operands.shape;
    let kernel = Kernel::by_name("portable")?;
    let weights = match op.rhs {
        Type::U8 => with_zero_points(operands.rhs::<u8>(op)?, op, |rhs| PackedRhs::pack_for(kernel, rhs))?,
        _ => with_zero_points(operands.rhs::<i8>(op)?, op, |rhs| PackedRhs::pack_for(kernel, rhs))?,
    };
    let gemm = Gemm::new(&weights, Output::i32())?;
    let mut out = vec![0; m * n];
    let view = MatMut::row_major(&mut out, m, n)?;
    match op.lhs {
        Type::U8 => {
            let lhs = MatRef::<u8>::row_major(bytemuck::cast_slice(&operands.lhs), m, k)?;
            gemm.apply(Lhs::new(lhs).zero_point(zero_point), view)?;
        }
        _ => gemm.apply(Lhs::new(MatRef::row_major(&operands.lhs, m, k)?).zero_point(zero_point), view)?,
    }
    Ok(checksum(out.into_iter()))
}

/// Calls `f` with the weights and, if the operation has them, their zero points.
fn with_zero_points<W: Operand, R>(rhs: MatRef<W>, op: Op, f: impl FnOnce(Rhs<W>) -> R) -> R {
    let zeros: Vec<i32> = (0..rhs.cols()).map(|j| W::MIN + 100 + (j % 50) as i32).collect();
    let rhs = Rhs::new(rhs);
    f(if op.rhs_zero { rhs.zero_points(&zeros) } else { rhs })
}

/// Calls `f` with the product of these operands.
pub fn with<R>(
    operands: &Operands,
    op: Op,
    kernel: Kernel,
    threads: usize,
    f: impl FnOnce(&mut dyn Contender) -> Result<R>,
) -> Result<R> {
    match op.rhs {
        Type::U8 => with_rhs::<u8, R>(operands, op, kernel, threads, f),
        _ => with_rhs::<i8, R>(operands, op, kernel, threads, f),
    }
}

fn with_rhs<W: Operand, R>(
    operands: &Operands,
    op: Op,
    kernel: Kernel,
    threads: usize,
    f: impl FnOnce(&mut dyn Contender) -> Result<R>,
) -> Result<R> {
    if op.packing != Packing::Once {
        return in_call::with::<W, R>(operands, op, kernel, f);
    }
    let weights = with_zero_points(operands.rhs::<W>(op)?, op, |rhs| PackedRhs::pack_for(kernel, rhs))?;
    let scales = operands.scales();
    let common = Common { operands, op, threads };
    match op.out {
        Type::I8 => common.with_output::<i8, R>(&weights, Output::requantize(&scales, 5), f),
        Type::U8 => common.with_output::<u8, R>(&weights, Output::requantize(&scales, 5), f),
        Type::I32 => common.with_output::<i32, R>(&weights, Output::i32(), f),
        Type::F32 => common.with_output::<f32, R>(&weights, Output::f32(&scales), f),
    }
}

struct Common<'a> {
    operands: &'a Operands,
    op: Op,
    threads: usize,
}

impl Common<'_> {
    fn with_output<T: OutputElement + Default + NoUninit, R>(
        self,
        weights: &PackedRhs,
        output: Output<T>,
        f: impl FnOnce(&mut dyn Contender) -> Result<R>,
    ) -> Result<R> {
        let gemm = Gemm::new(weights, output)?;
        let (m, _, n) = self.operands.shape;
        let row_scales: Vec<f32> = (0..m).map(|i| 0.01 * (1.0 + (i % 5) as f32)).collect();
        let lhs = &self.operands.lhs;
        let out = vec![T::default(); m * n];
        let scratch = vec![0; gemm.workspace_size_with(m, &Rayon)?];
        let buffers = DynamicBuffers::default();
        let row_scales = if self.op.out == Type::F32 { &row_scales[..] } else { &[] };
        let product = Product { common: self, gemm, out, scratch };
        match product.common.op.lhs {
            Type::I8 => f(&mut Quantized { product, lhs: &lhs[..], row_scales }),
            Type::U8 => f(&mut Quantized { product, lhs: bytemuck::cast_slice::<i8, u8>(lhs), row_scales }),
            _ => f(&mut Dynamic { product, buffers }),
        }
    }
}

struct Product<'a, T> {
    common: Common<'a>,
    gemm: Gemm<'a, T>,
    out: Vec<T>,
    scratch: Vec<u8>,
}

impl<T: OutputElement> Product<'_, T> {
    fn run<A: Operand>(&mut self, lhs: Lhs<A>) -> Result<()> {
        let (m, _, n) = self.common.operands.shape;
        let out = MatMut::row_major(&mut self.out, m, n)?;
        match self.common.threads {
            1 => self.gemm.run(lhs, out, &mut self.scratch)?,
            _ => self.gemm.run_with(&Rayon, lhs, out, &mut self.scratch)?,
        }
        Ok(())
    }
}

/// `lhs` is quantized already.
struct Quantized<'a, A, T> {
    product: Product<'a, T>,
    lhs: &'a [A],
    /// Empty if there are none.
    row_scales: &'a [f32],
}

impl<A: Operand, T: OutputElement + NoUninit> Contender for Quantized<'_, A, T> {
    fn work(&self) -> f64 {
        macs(self.product.common.operands.shape)
    }

    fn seconds(&mut self, calls: usize, clock: Clock) -> Result<f64> {
        let (m, k, _) = self.product.common.operands.shape;
        let mut lhs = Lhs::new(MatRef::row_major(self.lhs, m, k)?).zero_point(LHS_ZERO);
        if !self.row_scales.is_empty() {
            lhs = lhs.scales(self.row_scales);
        }
        let mut result = Ok(());
        let seconds = clock.time(|| result = (0..calls).try_for_each(|_| self.product.run(lhs)));
        result.map(|()| seconds)
    }

    fn sums(&mut self) -> Result<Option<(i32, i64)>> {
        if self.product.common.op.out != Type::I32 {
            return Ok(None);
        }
        self.seconds(1, Clock::Wall)?;
        let sums: &[i32] = bytemuck::cast_slice(&self.product.out);
        Ok(Some((LHS_ZERO, checksum(sums.iter().copied()))))
    }
}

/// `lhs` is quantized in each call.
struct Dynamic<'a, T> {
    product: Product<'a, T>,
    buffers: DynamicBuffers<u8>,
}

impl<T: OutputElement> Dynamic<'_, T> {
    fn call(&mut self) -> Result<()> {
        let operands = self.product.common.operands;
        let (m, k, _) = operands.shape;
        let real = MatRef::row_major(&operands.lhs_f32, m, k)?;
        let lhs = DynamicQuantizer::per_tensor().quantize(real, &mut self.buffers)?;
        self.product.run(lhs)
    }
}

impl<T: OutputElement> Contender for Dynamic<'_, T> {
    fn work(&self) -> f64 {
        macs(self.product.common.operands.shape)
    }

    fn seconds(&mut self, calls: usize, clock: Clock) -> Result<f64> {
        let mut result = Ok(());
        let seconds = clock.time(|| result = (0..calls).try_for_each(|_| self.call()));
        result.map(|()| seconds)
    }
}
