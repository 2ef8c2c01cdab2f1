//! Batches of products whose `rhs` comes with the call: the bits of the products one by one.

mod common;

use common::{FILLS, Matrix, ORDERS, Order, Random, Threads, kernels};
use i8gemm::{
    BatchGemm, Error, Executor, Gemm, Kernel, Lhs, MatMut, MatRef, Operand, Output, OutputElement, PackedRhs,
    Rhs, Sequential,
};

/// A batch: sizes, and which `rhs` each product has.
struct Batch<A, B> {
    lhs: Vec<Matrix<A>>,
    rhs: Vec<Matrix<B>>,
    of: Vec<usize>,
    lhs_zeros: Vec<Vec<i32>>,
    rhs_zeros: Vec<Vec<i32>>,
}

/// Rows of each `lhs`, shapes of the `rhs`, and which of those each product has.
type Case<'a> = (&'a [usize], &'a [(usize, usize)], &'a [usize]);

impl<A: Operand, B: Operand> Batch<A, B> {
    fn new(random: &mut Random, rows: &[usize], shapes: &[(usize, usize)], of: &[usize]) -> Self {
        let fills = [random.below(FILLS.len()), random.below(FILLS.len())].map(|i| FILLS[i]);
        let mut order = Random(random.next());
        let mut order = || ORDERS[order.below(ORDERS.len())];
        let lhs =
            rows.iter().zip(of).map(|(&m, &i)| Matrix::random(random, fills[0], m, shapes[i].0, order()));
        let lhs: Vec<_> = lhs.collect();
        let rhs: Vec<_> =
            shapes.iter().map(|&(k, n)| Matrix::random(random, fills[1], k, n, Order::ColMajor)).collect();
        let lhs_zeros =
            rows.iter().map(|&m| (0..m).map(|_| random.range(A::MIN, A::MAX)).collect()).collect();
        let rhs_zeros =
            shapes.iter().map(|&(_, n)| (0..n).map(|_| random.range(B::MIN, B::MAX)).collect()).collect();
        Self { lhs, rhs, of: of.to_vec(), lhs_zeros, rhs_zeros }
    }

    fn lhs(&self) -> Vec<Lhs<'_, A>> {
        self.lhs.iter().zip(&self.lhs_zeros).map(|(x, z)| Lhs::new(x.view()).zero_points(z)).collect()
    }

    fn rhs(&self) -> Vec<Rhs<'_, B>> {
        self.of.iter().map(|&i| Rhs::new(self.rhs[i].view()).zero_points(&self.rhs_zeros[i])).collect()
    }

    /// The batch, and the products one by one.
    fn check<T: OutputElement>(
        &self,
        kernel: Kernel,
        output: Output<T>,
        executor: &(impl Executor + ?Sized),
        name: &str,
    ) {
        let (lhs, rhs) = (self.lhs(), self.rhs());
        let batch = BatchGemm::new(output).unwrap().kernel(kernel).unwrap();
        let mut scratch = vec![0xA5; batch.workspace_size_with(executor, &lhs, &rhs).unwrap()];
        let sizes: Vec<(usize, usize)> =
            self.lhs.iter().zip(&self.of).map(|(x, &i)| (x.rows, self.rhs[i].cols)).collect();
        let filled = || sizes.iter().map(|(m, n)| vec![T::from_i32(3); m * n]).collect::<Vec<_>>();
        let mut results = filled();
        let mut out: Vec<MatMut<T>> =
            results.iter_mut().zip(&sizes).map(|(y, &(m, n))| MatMut::row_major(y, m, n).unwrap()).collect();
        batch.run_with(executor, &lhs, &rhs, &mut out, &mut scratch).unwrap();
        for (i, mut expected) in filled().into_iter().enumerate() {
            let weights = PackedRhs::pack_for(kernel, rhs[i]).unwrap();
            let (m, n) = sizes[i];
            let one_by_one = MatMut::row_major(&mut expected, m, n).unwrap();
            Gemm::new(&weights, output).unwrap().apply(lhs[i], one_by_one).unwrap();
            let same = results[i].iter().zip(&expected).all(|(a, b)| common::bits(a) == common::bits(b));
            assert!(same, "{kernel}, {name}: product {i}");
        }
    }
}

#[test]
fn a_batch_is_its_products() {
    let mut random = Random(21);
    for kernel in kernels() {
        // Heads that share keys in twos; all by one matrix; shapes that are all different, empty ones among them.
        let batches: [Case; 4] = [
            (&[16, 16, 16, 16, 16, 16], &[(32, 24), (32, 24), (32, 24)], &[0, 0, 1, 1, 2, 2]),
            (&[5, 5, 5], &[(70, 33)], &[0, 0, 0]),
            (&[1, 40, 7, 3, 0], &[(9, 100), (64, 5), (0, 7), (33, 0), (4, 4)], &[0, 1, 2, 3, 4]),
            (&[70], &[(129, 90)], &[0]),
        ];
        for (rows, shapes, of) in batches {
            let signed = Batch::<i8, i8>::new(&mut random, rows, shapes, of);
            let mixed = Batch::<u8, u8>::new(&mut random, rows, shapes, of);
            for threads in [1, 2, 5] {
                signed.check(kernel, Output::i32(), &Threads(threads), "i8");
                mixed.check(kernel, Output::f32(0.37), &Threads(threads), "u8, f32");
                signed.check(kernel, Output::<u8>::requantize(1e-3, 9), &Threads(threads), "requantized");
                mixed.check(kernel, Output::i32().accumulate(), &Threads(threads), "added");
            }
            #[cfg(feature = "rayon")]
            mixed.check(kernel, Output::i32(), &i8gemm::Rayon, "rayon");
        }
    }
}

/// Row scales, as attention quantizes them, and weights of few bits.
#[test]
fn operands_keep_what_they_have() -> Result<(), Error> {
    let (m, k, n) = (3, 64, 5);
    let x = [100u8; 3 * 64];
    let w: Vec<i8> = (0..k * n).map(|i| (i % 16) as i8 - 8).collect();
    let lhs = Lhs::new(MatRef::row_major(&x, m, k)?).zero_point(90).scales(&[0.5, 0.25, 2.0]);
    let group_scales = [0.5f32; 10];
    let plain = Rhs::new(MatRef::row_major(&w, k, n)?).four_bits();
    for rhs in [plain, plain.groups(32, &group_scales)] {
        let batch = BatchGemm::new(Output::f32(0.125))?;
        let mut scratch = vec![0; batch.workspace_size(&[lhs; 2], &[rhs; 2])?];
        let mut y = [[0.0f32; 15]; 2];
        let mut out = Vec::new();
        for y in &mut y {
            out.push(MatMut::row_major(y, m, n)?);
        }
        batch.run(&[lhs; 2], &[rhs; 2], &mut out, &mut scratch)?;
        let mut expected = [0.0f32; 15];
        let weights = PackedRhs::pack(rhs)?;
        Gemm::new(&weights, Output::f32(0.125))?.apply(lhs, MatMut::row_major(&mut expected, m, n)?)?;
        assert_eq!(y, [expected; 2]);
    }
    Ok(())
}

#[test]
fn mistakes_are_errors_and_write_nothing() -> Result<(), Error> {
    let (x, w) = ([1u8; 12], [1i8; 12]);
    let lhs = Lhs::new(MatRef::row_major(&x, 4, 3)?);
    let rhs = Rhs::new(MatRef::row_major(&w, 3, 4)?);
    let short = Rhs::new(MatRef::row_major(&w[..8], 2, 4)?);
    let batch = BatchGemm::new(Output::i32())?;
    let mut y = [7i32; 32];
    let mut run = |lhs: &[Lhs<u8>],
                   rhs: &[Rhs<i8>],
                   (rows, cols, outs): (usize, usize, usize),
                   missing: usize| {
        let mut scratch = vec![0; 1 << 16];
        let size = batch.workspace_size(lhs, rhs).unwrap_or(1 << 16);
        let start = scratch.as_ptr().align_offset(64);
        let scratch = &mut scratch[start..][..size.saturating_sub(63 + missing)];
        let mut out: Vec<_> =
            y.chunks_mut(rows * cols).take(outs).map(|y| MatMut::row_major(y, rows, cols).unwrap()).collect();
        let error = batch.run(lhs, rhs, &mut out, scratch).unwrap_err();
        assert_eq!(y, [7; 32], "{error}");
        error
    };
    assert!(matches!(run(&[lhs; 2], &[rhs], (4, 4, 2), 0), Error::Length { what: "rhs", .. }));
    assert!(matches!(run(&[lhs; 2], &[rhs; 2], (4, 4, 1), 0), Error::Length { what: "out", .. }));
    assert!(matches!(run(&[lhs; 2], &[rhs, short], (4, 4, 2), 0), Error::Shape { .. }));
    assert!(matches!(run(&[lhs; 2], &[rhs; 2], (2, 4, 2), 0), Error::Shape { .. }));
    assert!(matches!(run(&[lhs; 2], &[rhs; 2], (4, 4, 2), 1), Error::BufferTooSmall { .. }));
    let zero = rhs.zero_point(128);
    assert!(matches!(run(&[lhs; 2], &[rhs, zero], (4, 4, 2), 0), Error::ZeroPoint { .. }));
    let zero = lhs.zero_point(-1);
    assert!(matches!(run(&[lhs, zero], &[rhs; 2], (4, 4, 2), 0), Error::ZeroPoint { .. }));
    let beyond = rhs.two_bits().zero_point(2);
    assert!(matches!(run(&[lhs; 2], &[rhs, beyond], (4, 4, 2), 0), Error::ZeroPoint { .. }));
    let scaled = lhs.scale(0.5);
    assert_eq!(run(&[scaled; 2], &[rhs; 2], (4, 4, 2), 0), Error::UnusedLhsScale);

    // Nothing to do is no mistake.
    let none: ([Lhs<u8>; 0], [Rhs<i8>; 0]) = ([], []);
    batch.run_with(
        &Sequential,
        &none.0,
        &none.1,
        &mut [],
        &mut vec![0; batch.workspace_size(&none.0, &none.1)?],
    )
}
