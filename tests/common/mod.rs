//! What the integration tests share: matrices with holes, random and extreme values, and the comparison of a kernel with
//! the scalar reference.
#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::{sync::mpsc, thread, time::Duration};

use i8gemm::{
    Error, Executor, Gemm, Kernel, Lhs, MatMut, MatRef, Operand, Output, OutputElement, PackedRhs, Rhs,
    Sequential, reference,
};

/// The values that random tests never draw often enough: pair sums of -128 * -128 overflow 16 bits.
pub const EXTREMES: [i8; 7] = [-128, -127, -1, 0, 1, 126, 127];

/// A small generator (SplitMix64): the same numbers on every target, from one seed.
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn range(&mut self, min: i32, max: i32) -> i32 {
        min + self.below((max - min + 1) as usize) as i32
    }

    /// A scale between 2^-18 and 2^2.
    pub fn scale(&mut self) -> f32 {
        let exponent = self.range(-18, 2);
        (1.0 + self.below(1 << 23) as f32 / (1 << 23) as f32) * 2f32.powi(exponent)
    }
}

/// How a matrix is filled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fill {
    Uniform,
    Extremes,
    AllMin,
    Alternating,
}

pub const FILLS: [Fill; 4] = [Fill::Uniform, Fill::Extremes, Fill::AllMin, Fill::Alternating];

/// Bit patterns of `len` values: the same bytes serve i8 and, with the sign bit flipped, u8.
pub fn bytes<T: Operand>(random: &mut Random, fill: Fill, len: usize) -> Vec<T> {
    let from_i8 = |x: i8| -> T { bytemuck::cast(if T::MIN == 0 { (x as u8) ^ 0x80 } else { x as u8 }) };
    (0..len)
        .map(|i| match fill {
            Fill::Uniform => bytemuck::cast(random.next() as u8),
            Fill::Extremes => from_i8(EXTREMES[random.below(EXTREMES.len())]),
            Fill::AllMin => from_i8(-128),
            Fill::Alternating => from_i8(if i % 2 == 0 { -128 } else { 127 }),
        })
        .collect()
}

/// Storage order of a matrix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Order {
    RowMajor,
    /// Columns one after the other, as weights stored N x K are.
    ColMajor,
    /// Rows with a gap behind each.
    Gaps,
    /// No unit stride at all.
    Strided,
}

pub const ORDERS: [Order; 4] = [Order::RowMajor, Order::ColMajor, Order::Gaps, Order::Strided];

/// Row stride, column stride and elements needed.
pub fn strides(order: Order, rows: usize, cols: usize) -> (usize, usize, usize) {
    let (row, col) = match order {
        Order::RowMajor => (cols, 1),
        Order::ColMajor => (1, rows),
        Order::Gaps => (cols + 3, 1),
        Order::Strided => (2 * cols + 5, 2),
    };
    let len = if rows == 0 || cols == 0 { 0 } else { (rows - 1) * row + (cols - 1) * col + 1 };
    (row, col, len)
}

/// A matrix that owns its elements.
pub struct Matrix<T> {
    pub data: Vec<T>,
    pub rows: usize,
    pub cols: usize,
    pub order: Order,
}

impl<T: Operand> Matrix<T> {
    pub fn random(random: &mut Random, fill: Fill, rows: usize, cols: usize, order: Order) -> Self {
        let data = bytes(random, fill, strides(order, rows, cols).2);
        Self { data, rows, cols, order }
    }
}

impl<T> Matrix<T> {
    pub fn view(&self) -> MatRef<'_, T> {
        let (row, col, _) = strides(self.order, self.rows, self.cols);
        MatRef::new(&self.data, self.rows, self.cols, row, col).unwrap()
    }
}

/// Bits of weights that are fewer than 8.
pub const WIDTHS: [u32; 2] = [4, 2];

/// Weights as ones of so many bits.
pub fn stored<B: Operand>(rhs: Rhs<B>, bits: u32) -> Rhs<B> {
    match bits {
        4 => rhs.four_bits(),
        2 => rhs.two_bits(),
        _ => rhs,
    }
}

/// The kernels that a test runs on: the pinned one alone, or every one that this CPU has.
pub fn kernels() -> Vec<Kernel> {
    match std::env::var_os("I8GEMM_KERNEL") {
        Some(name) if !name.is_empty() => vec![Kernel::best().expect("the pinned kernel is available")],
        _ => Kernel::available().collect(),
    }
}

/// What outputs are compared by: -0.0 is not 0.0.
pub fn bits<T: OutputElement>(value: &T) -> &[u8] {
    bytemuck::bytes_of(value)
}

/// Runs a product on a kernel and on the reference, into outputs with gaps, and compares every byte of both, gaps included.
pub fn compare<A: Operand, B: Operand, T: OutputElement + PartialEq + std::fmt::Debug>(
    kernel: Kernel,
    lhs: Lhs<A>,
    m: usize,
    rhs: Rhs<B>,
    n: usize,
    output: Output<T>,
    order: Order,
) -> Result<(), Error> {
    let (row, col, len) = strides(order, m, n);
    // A pattern that no output is likely to be, so that a missed or a stray store shows.
    let mut expected: Vec<T> = (0..len).map(|i| T::from_i32((i % 113) as i32)).collect();
    let mut actual = expected.clone();
    reference::gemm(lhs, rhs, &output, MatMut::new(&mut expected, m, n, row, col)?)?;
    let weights = PackedRhs::pack_for(kernel, rhs)?;
    Gemm::new(&weights, output)?.apply(lhs, MatMut::new(&mut actual, m, n, row, col)?)?;
    if let Some(at) = (0..len).find(|&i| bits(&expected[i]) != bits(&actual[i])) {
        panic!(
            "{kernel}: {m} x {} x {n}, {order:?}: element {at}: expected {:?}, got {:?}",
            weights.k(),
            expected[at],
            actual[at]
        );
    }
    Ok(())
}

/// Runs a test on a thread of its own, and panics unless it ends soon.
pub fn soon(test: impl FnOnce() + Send + 'static) {
    let (sender, receiver) = mpsc::channel();
    let thread = thread::spawn(move || {
        test();
        // Nobody may be listening any more.
        let _ = sender.send(());
    });
    match receiver.recv_timeout(Duration::from_secs(60)) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("no end after a minute"),
        _ => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
    }
}

/// As many threads as it says, which it has not.
pub struct Threads(pub usize);

impl Executor for Threads {
    fn threads(&self) -> usize {
        self.0
    }

    fn run(&self, count: usize, task: &(dyn Fn() + Sync)) {
        Sequential.run(count, task);
    }

    /// Small products have several parts, too.
    fn min_cycles(&self) -> usize {
        1 << 9
    }
}

/// A static layer keeps biases in f32 where rounding one to whole steps of the sums moves it by more than 1/32 of a step of the
/// output, or, for outputs of f32, by more than 2^-12 of the largest.
pub fn keeps_f32(bias: &[f32], steps: &[f32], output_scale: Option<f32>) -> bool {
    let largest = bias.iter().fold(0.0f32, |most, b| most.max(b.abs()));
    let most = output_scale.map_or(f64::from(largest) / 4096.0, |scale| f64::from(scale) / 32.0);
    bias.iter().zip(steps).any(|(&b, &step)| {
        let (b, step) = (f64::from(b), f64::from(step));
        ((b / step).round_ties_even() * step - b).abs() > most
    })
}
