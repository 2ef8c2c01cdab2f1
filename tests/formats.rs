//! Weights of fewer bits, and weights whose groups of K have scales: every kernel against the scalar reference.

mod common;

use common::{FILLS, Fill, Matrix, ORDERS, Order, Random, Threads, WIDTHS, compare, kernels, stored};
use i8gemm::{
    Error, FixedPoint, FixedRounding, Gemm, Lhs, MatMut, MatRef, Operand, Output, PackedRhs, Product, Rhs,
    reference,
};
use quickcheck::quickcheck;

/// Weights of few bits.
fn codes<B: Operand>(random: &mut Random, bits: u32, rows: usize, cols: usize, order: Order) -> Matrix<B> {
    let mut w = Matrix::<B>::random(random, Fill::Uniform, rows, cols, order);
    let extremes = random.below(3) == 0;
    let last = (1 << bits) - 1;
    for value in &mut w.data {
        let code = if extremes { random.below(2) * last } else { random.below(last + 1) };
        let byte = if B::MIN == 0 { code as u8 } else { (code as i8 - (1 << (bits - 1))) as u8 };
        *value = bytemuck::cast(byte);
    }
    w
}

/// A zero point of few bits for all columns, or one for each.
fn zero_points<B: Operand>(random: &mut Random, bits: u32, n: usize) -> Vec<i32> {
    let half = 1 << (bits - 1);
    let min = if B::MIN == 0 { 0 } else { -half };
    let count = if random.below(2) == 0 { 1 } else { n };
    let last = min + 2 * half - 1;
    (0..count).map(|_| if random.below(3) == 0 { min + half } else { random.range(min, last) }).collect()
}

fn check<A: Operand, B: Operand>(random: &mut Random, shape: [usize; 3]) {
    let bits = WIDTHS[random.below(WIDTHS.len())];
    let size = 128 / bits as usize * (1 + random.below(4));
    check_groups::<A, B>(random, bits, shape, size);
}

fn check_groups<A: Operand, B: Operand>(random: &mut Random, bits: u32, [m, k, n]: [usize; 3], size: usize) {
    let orders: [Order; 3] = std::array::from_fn(|_| ORDERS[random.below(ORDERS.len())]);
    let fills = [(); 2].map(|()| FILLS[random.below(FILLS.len())]);
    let x = Matrix::<A>::random(random, fills[0], m, k, orders[0]);
    let narrow = codes::<B>(random, bits, k, n, orders[1]);
    let wide = Matrix::<B>::random(random, fills[1], k, n, orders[1]);
    let zeros = zero_points::<B>(random, bits, n);
    let row_zeros: Vec<i32> = (0..m).map(|_| random.range(A::MIN, A::MAX)).collect();
    let row_scales: Vec<f32> = (0..m).map(|_| random.scale()).collect();
    let scales: Vec<f32> = (0..n).map(|_| random.scale()).collect();
    let bias: Vec<i32> = (0..n).map(|_| random.range(-5000, 5000)).collect();
    let bias_f32: Vec<f32> = (0..n).map(|_| random.range(-300, 300) as f32 / 3.0).collect();
    let group_scales: Vec<f32> = (0..k.div_ceil(size) * n)
        .map(|_| random.scale() * [1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0, 0.0][random.below(8)])
        .collect();

    let one = Lhs::new(x.view()).zero_point(A::MIN + 100);
    let each = Lhs::new(x.view()).zero_points(&row_zeros);
    let scaled = each.scales(&row_scales);
    let rhs = match zeros[..] {
        [zero] => Rhs::new(narrow.view()).zero_point(zero),
        _ => Rhs::new(narrow.view()).zero_points(&zeros),
    };
    let few = stored(rhs, bits);
    for kernel in kernels() {
        // Every output of weights of few bits.
        for lhs in [one, each] {
            compare(kernel, lhs, m, few, n, Output::i32(), orders[2]).unwrap();
            compare(kernel, lhs, m, few, n, Output::i32().bias(&bias).accumulate(), orders[2]).unwrap();
            let output = Output::<u8>::requantize(&scales, 7).bias(&bias).clamp(7, 200);
            compare(kernel, lhs, m, few, n, output, orders[2]).unwrap();
            let fixed = FixedPoint::new(1 << 30, -8).unwrap();
            let output = Output::<i8>::requantize_fixed(fixed, FixedRounding::Double, -3);
            compare(kernel, lhs, m, few, n, output, orders[2]).unwrap();
        }
        compare(kernel, scaled, m, few, n, Output::f32(&scales).bias_f32(&bias_f32), orders[2]).unwrap();
        // Groups of K, of both widths.
        for rhs in [few, Rhs::new(wide.view())] {
            let rhs = rhs.groups(size, &group_scales);
            for lhs in [one, each, scaled] {
                compare(kernel, lhs, m, rhs, n, Output::f32(1.0), orders[2]).unwrap();
                let output = Output::f32(&scales).bias_f32(&bias_f32).clamp(-50.0, 6.0);
                compare(kernel, lhs, m, rhs, n, output, orders[2]).unwrap();
            }
        }
    }
}

quickcheck! {
    fn every_kernel_multiplies_every_format(m: u8, k: u16, n: u8, seed: u64) -> bool {
        let mut random = Random(seed);
        // Some beyond a group of panels of every kernel.
        let n = if n.is_multiple_of(4) { usize::from(n) } else { usize::from(n) % 40 };
        let shape = [usize::from(m) % 40, usize::from(k) % 300, n];
        match seed % 4 {
            0 => check::<i8, i8>(&mut random, shape),
            1 => check::<u8, i8>(&mut random, shape),
            2 => check::<i8, u8>(&mut random, shape),
            _ => check::<u8, u8>(&mut random, shape),
        }
        true
    }
}

/// Every K around every step, and every number of columns around every panel: none may be left to chance.
#[test]
fn every_tail_of_every_format() {
    let mut random = Random(11);
    for k in (0..70).chain([95, 96, 97, 127, 128, 129]) {
        check::<u8, i8>(&mut random, [3, k, 1 + k % 20]);
    }
    for n in 0..36 {
        check::<i8, u8>(&mut random, [1 + n % 3, 45, n]);
    }
}

/// Blocks of rows: what is unpacked serves all of them, and sums of rows lie group by group.
#[test]
fn many_rows() {
    let mut random = Random(12);
    check::<u8, u8>(&mut random, [260, 1000, 5]);
    check::<i8, i8>(&mut random, [40, 96, 130]);
    // Groups that are too long for what a kernel does with short panels, and a last one that is not.
    check_groups::<u8, i8>(&mut random, 4, [40, 576, 30], 544);
    check_groups::<i8, u8>(&mut random, 2, [40, 608, 30], 576);
}

#[test]
fn threads_change_no_bit() {
    for bits in WIDTHS {
        let (m, k, n) = (60, 256, 200);
        let mut random = Random(13);
        let x = Matrix::<u8>::random(&mut random, Fill::Uniform, m, k, Order::RowMajor);
        let w = codes::<i8>(&mut random, bits, k, n, Order::ColMajor);
        let scales: Vec<f32> = (0..k / 64 * n).map(|_| random.scale()).collect();
        let rhs = stored(Rhs::new(w.view()), bits).groups(64, &scales);
        let mut expected = vec![0.0f32; m * n];
        let lhs = Lhs::new(x.view()).zero_point(9);
        let output = Output::f32(0.5);
        reference::gemm(lhs, rhs, &output, MatMut::row_major(&mut expected, m, n).unwrap()).unwrap();
        for kernel in kernels() {
            let product = Product::new(PackedRhs::pack_for(kernel, rhs).unwrap(), output).unwrap();
            for threads in [1, 2, 7] {
                let mut scratch = vec![0; product.workspace_size_with(m, &Threads(threads)).unwrap()];
                let mut y = vec![0.0f32; m * n];
                let out = MatMut::row_major(&mut y, m, n).unwrap();
                product.run_with(&Threads(threads), lhs, out, &mut scratch).unwrap();
                assert!(
                    y.iter().zip(&expected).all(|(a, b)| common::bits(a) == common::bits(b)),
                    "{kernel}, {bits} bits, {threads} threads"
                );
            }
        }
    }
}

#[test]
fn few_bits_are_few_bytes() {
    let (k, n) = (1024, 256);
    let w = vec![0i8; k * n];
    for kernel in kernels() {
        let rhs = Rhs::new(MatRef::row_major(&w, k, n).unwrap());
        let bytes = |rhs| PackedRhs::pack_for(kernel, rhs).unwrap().bytes();
        for bits in WIDTHS {
            assert_eq!(bytes(rhs) - bytes(stored(rhs, bits)), k * n - k * n * bits as usize / 8, "{kernel}");
        }
    }
}

#[test]
fn mistakes_are_errors() {
    let w: Vec<i8> = (0..64).map(|i| i % 16 - 8).collect();
    let rhs = Rhs::new(MatRef::row_major(&w, 64, 1).unwrap()).four_bits();
    assert!(PackedRhs::pack(rhs).is_ok());
    let pack = |rhs: Rhs<i8>| PackedRhs::pack(rhs).map(drop).unwrap_err();

    let wide = [7i8, -8, 8, 0];
    let error = pack(Rhs::new(MatRef::row_major(&wide, 2, 2).unwrap()).four_bits());
    assert_eq!(error, Error::Weight { row: 1, col: 0, value: 8, min: -8, max: 7 });
    let unsigned = Rhs::new(MatRef::row_major(&[15u8, 16], 2, 1).unwrap()).four_bits();
    let error = PackedRhs::pack(unsigned).map(drop).unwrap_err();
    assert_eq!(error, Error::Weight { row: 1, col: 0, value: 16, min: 0, max: 15 });
    let unsigned_two = Rhs::new(MatRef::row_major(&[3u8, 4], 2, 1).unwrap()).two_bits();
    let beyond = Error::Weight { row: 1, col: 0, value: 4, min: 0, max: 3 };
    assert_eq!(PackedRhs::pack(unsigned_two).map(drop).unwrap_err(), beyond);
    let beyond = Error::Weight { row: 0, col: 0, value: 7, min: -2, max: 1 };
    assert_eq!(pack(Rhs::new(MatRef::row_major(&wide, 2, 2).unwrap()).two_bits()), beyond);
    let mut y = [0i32];
    let (x, out) = (MatRef::row_major(&[1u8, 1], 1, 2).unwrap(), MatMut::row_major(&mut y, 1, 1).unwrap());
    assert_eq!(reference::gemm(x, unsigned, &Output::i32(), out).unwrap_err(), error);

    assert!(matches!(pack(rhs.zero_point(8)), Error::ZeroPoint { value: 8, min: -8, max: 7, .. }));
    for size in [0, 16, 33] {
        assert_eq!(pack(rhs.groups(size, &[1.0; 4])), Error::GroupSize { size, multiple: 32 });
    }
    let zeros = [0i8; 64];
    let two = Rhs::new(MatRef::row_major(&zeros, 64, 1).unwrap()).two_bits();
    assert_eq!(pack(two.groups(32, &[1.0; 2])), Error::GroupSize { size: 32, multiple: 64 });
    assert!(matches!(pack(rhs.groups(32, &[1.0])), Error::Length { expected: 2, actual: 1, .. }));
    assert!(matches!(pack(rhs.groups(32, &[1.0, f32::NAN])), Error::NonFinite { index: 1, .. }));

    let grouped = PackedRhs::pack(rhs.groups(32, &[1.0, -1.0])).unwrap();
    assert_eq!(Gemm::new(&grouped, Output::i32()).unwrap_err(), Error::GroupedOutput);
    assert_eq!(Gemm::new(&grouped, Output::<u8>::requantize(1.0, 0)).unwrap_err(), Error::GroupedOutput);
    assert_eq!(Gemm::new(&grouped, Output::f32(1.0).bias(&[1])).unwrap_err(), Error::GroupedOutput);
    assert_eq!(Gemm::new(&grouped, Output::f32(1.0).accumulate()).unwrap_err(), Error::GroupedOutput);
    assert_eq!(Product::new(grouped, Output::i32()).unwrap_err(), Error::GroupedOutput);
}
