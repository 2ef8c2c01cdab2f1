//! Every kernel against the scalar reference: shapes, strides, signs, zero points, outputs, extreme values.

mod common;

use common::{FILLS, Fill, Matrix, ORDERS, Order, Random, compare, kernels};
use i8gemm::{FixedPoint, FixedRounding, Gemm, Kernel, Lhs, MatMut, MatRef, Operand, Output, PackedRhs, Rhs};
use quickcheck::{Arbitrary, Gen, quickcheck};

/// One random product, all of it drawn from a seed so that a failure can be repeated.
#[derive(Clone, Debug)]
struct Case {
    m: usize,
    k: usize,
    n: usize,
    seed: u64,
}

impl Arbitrary for Case {
    fn arbitrary(g: &mut Gen) -> Self {
        let mut random = Random(u64::arbitrary(g));
        // Mostly small, so that every tail of every tile is met; sometimes beyond a block of rows or a group of panels.
        let size = |random: &mut Random, small: usize, large: usize| {
            if random.below(8) == 0 { random.below(large + 1) } else { random.below(small + 1) }
        };
        let m = size(&mut random, 30, 120);
        let k = size(&mut random, 40, 400);
        let n = size(&mut random, 40, 200);
        Self { m, k, n, seed: random.next() }
    }

    fn shrink(&self) -> Box<dyn Iterator<Item = Self>> {
        let case = self.clone();
        Box::new((self.m, self.k, self.n).shrink().map(move |(m, k, n)| Self { m, k, n, ..case }))
    }
}

/// The parameters of one product, drawn at random.
struct Parameters {
    lhs_zero: Vec<i32>,
    rhs_zero: Vec<i32>,
    row_scales: Vec<f32>,
    scales: Vec<f32>,
    multipliers: Vec<FixedPoint>,
    bias: Vec<i32>,
    bias_f32: Vec<f32>,
}

impl Parameters {
    fn draw<A: Operand, B: Operand>(random: &mut Random, m: usize, n: usize) -> Self {
        let mut each = |count: usize, min: i32, max: i32| -> Vec<i32> {
            // One for all, or one for each.
            let count = if random.below(2) == 0 { 1 } else { count };
            (0..count).map(|_| random.range(min, max)).collect()
        };
        let lhs_zero = each(m, A::MIN, A::MAX);
        let mut rhs_zero = each(n, B::MIN, B::MAX);
        if random.below(3) == 0 {
            // Symmetric weights: the path without sums of rows.
            rhs_zero = vec![(B::MIN + B::MAX + 1) / 2];
        }
        let scales = |random: &mut Random, count: usize| -> Vec<f32> {
            let count = if random.below(2) == 0 { 1 } else { count };
            (0..count).map(|_| random.scale()).collect()
        };
        let multipliers = (0..if random.below(2) == 0 { 1 } else { n })
            .map(|_| FixedPoint::new(random.range(1 << 30, i32::MAX), random.range(-31, 30)).unwrap())
            .collect();
        Self {
            lhs_zero,
            rhs_zero,
            row_scales: scales(random, m),
            scales: scales(random, n),
            multipliers,
            bias: (0..n).map(|_| random.next() as i32 >> random.below(20)).collect(),
            bias_f32: (0..n).map(|_| random.range(-300, 300) as f32 / 3.0).collect(),
        }
    }
}

/// A single value where the slice has one, so that both forms of each parameter are used.
macro_rules! one_or_each {
    ($values:expr, $one:expr, $each:expr) => {
        if let [value] = $values[..] { $one(value) } else { $each(&$values[..]) }
    };
}

fn check<A: Operand, B: Operand>(kernel: Kernel, case: &Case) {
    let &Case { m, k, n, seed } = case;
    let mut random = Random(seed);
    let fill = FILLS[random.below(FILLS.len())];
    let order = |random: &mut Random| ORDERS[random.below(ORDERS.len())];
    let (lhs_order, rhs_order) = (order(&mut random), order(&mut random));
    let x = Matrix::<A>::random(&mut random, fill, m, k, lhs_order);
    let w = Matrix::<B>::random(&mut random, fill, k, n, rhs_order);
    let p = Parameters::draw::<A, B>(&mut random, m, n);
    let order = order(&mut random);

    let lhs =
        one_or_each!(p.lhs_zero, |z| Lhs::new(x.view()).zero_point(z), |z| Lhs::new(x.view()).zero_points(z));
    let rhs =
        one_or_each!(p.rhs_zero, |z| Rhs::new(w.view()).zero_point(z), |z| Rhs::new(w.view()).zero_points(z));
    let scaled = one_or_each!(p.row_scales, |s| lhs.scale(s), |s| lhs.scales(s));

    macro_rules! expect {
        ($lhs:expr, $output:expr) => {
            compare(kernel, $lhs, m, rhs, n, $output, order).unwrap()
        };
    }
    expect!(lhs, Output::i32());
    expect!(lhs, Output::i32().bias(&p.bias).accumulate());
    let f32 = one_or_each!(p.scales, Output::f32, Output::f32);
    expect!(scaled, f32);
    expect!(lhs, f32.bias(&p.bias));
    expect!(scaled, f32.bias_f32(&p.bias_f32).clamp(0.0, 6.0));
    expect!(scaled, f32.accumulate());
    expect!(lhs, f32.bias(&p.bias).accumulate());
    expect!(scaled, f32.bias_f32(&p.bias_f32).accumulate().clamp(0.0, 60.0));

    macro_rules! bytes {
        ($t:ty) => {
            let zero = random.range(<$t as Operand>::MIN, <$t as Operand>::MAX);
            let max = random.range(zero, <$t as Operand>::MAX);
            let output = one_or_each!(p.scales, |s: f32| Output::<$t>::requantize(s, zero), |s| {
                Output::<$t>::requantize(s, zero)
            });
            expect!(lhs, output);
            expect!(lhs, output.bias(&p.bias).clamp(zero, max));
            expect!(lhs, output.bias_f32(&p.bias_f32));
            for rounding in [FixedRounding::Single, FixedRounding::Double] {
                let output = one_or_each!(
                    p.multipliers,
                    |s: FixedPoint| Output::<$t>::requantize_fixed(s, rounding, zero),
                    |s| Output::<$t>::requantize_fixed(s, rounding, zero)
                );
                expect!(lhs, output);
                expect!(lhs, output.bias(&p.bias).clamp(zero, max));
            }
        };
    }
    bytes!(i8);
    bytes!(u8);
}

quickcheck! {
    fn every_kernel_matches_the_reference_i8_i8(case: Case) -> bool {
        kernels().into_iter().for_each(|kernel| check::<i8, i8>(kernel, &case));
        true
    }

    fn every_kernel_matches_the_reference_u8_i8(case: Case) -> bool {
        kernels().into_iter().for_each(|kernel| check::<u8, i8>(kernel, &case));
        true
    }

    fn every_kernel_matches_the_reference_i8_u8(case: Case) -> bool {
        kernels().into_iter().for_each(|kernel| check::<i8, u8>(kernel, &case));
        true
    }

    fn every_kernel_matches_the_reference_u8_u8(case: Case) -> bool {
        kernels().into_iter().for_each(|kernel| check::<u8, u8>(kernel, &case));
        true
    }
}

/// Every number of rows and of columns around every tile, every K around every step: none may be left to chance.
#[test]
fn every_tail_of_every_kernel() {
    let mut random = Random(7);
    for kernel in kernels() {
        let (mr, nr, kr) = kernel.tile();
        let depths = [0, 1, kr - 1, kr, kr + 1, 2 * kr + kr / 2, 3 * kr];
        // From about 32 rows on, some kernels have other tiles.
        for m in (0..=2 * mr + 1).chain(31..=36) {
            for n in (0..=nr + 1).chain([2 * nr, 3 * nr + 1, 4 * nr - 1, 4 * nr, 5 * nr + 1]) {
                let k = depths[random.below(depths.len())];
                let x = Matrix::<u8>::random(&mut random, Fill::Uniform, m, k, Order::RowMajor);
                let w = Matrix::<i8>::random(&mut random, Fill::Uniform, k, n, Order::ColMajor);
                let lhs = Lhs::new(x.view()).zero_point(3);
                compare(kernel, lhs, m, Rhs::new(w.view()), n, Output::i32(), Order::RowMajor).unwrap();
            }
        }
        // Loops take up to four steps a turn, and read ahead.
        for k in 0..=10 * kr + 1 {
            for m in [1, 2, 4, 8, mr] {
                let x = Matrix::<i8>::random(&mut random, Fill::Extremes, m, k, Order::RowMajor);
                let w = Matrix::<i8>::random(&mut random, Fill::Extremes, k, nr, Order::RowMajor);
                compare(
                    kernel,
                    Lhs::new(x.view()),
                    m,
                    Rhs::new(w.view()),
                    nr,
                    Output::i32(),
                    Order::RowMajor,
                )
                .unwrap();
            }
        }
    }
}

/// Products that take several blocks of rows and several groups of panels, and depths beyond a cache level; rows by themselves with
/// panels that are short, that lie 4 KB apart, and that are too many for any cache.
#[test]
fn large_products() {
    let mut random = Random(11);
    for kernel in kernels() {
        let alone = [
            (1, 3000, 257),
            (1, 300, 1801),
            (1, 1024, 201),
            (1, 1030, 8200),
            (1, 1003, 2001),
            (1, 2050, 900),
        ];
        let several = [(700, 1000, 70), (260, 1500, 33), (13, 9000, 17), (37, 512, 41)];
        for (m, k, n) in alone.into_iter().chain(several) {
            let x = Matrix::<i8>::random(&mut random, Fill::Uniform, m, k, Order::RowMajor);
            let w = Matrix::<u8>::random(&mut random, Fill::Uniform, k, n, Order::ColMajor);
            let zero: Vec<i32> = (0..n).map(|_| random.range(0, 255)).collect();
            let rhs = Rhs::new(w.view()).zero_points(&zero);
            compare(kernel, Lhs::new(x.view()).zero_point(-5), m, rhs, n, Output::i32(), Order::RowMajor)
                .unwrap();
        }
    }
}

/// A single row at every depth around a block of steps, of random values and of those whose products come closest to the ends of 16 bits.
#[test]
fn one_row_at_every_depth() {
    let mut random = Random(19);
    for kernel in kernels() {
        let nr = kernel.tile().1;
        for (k, n) in
            (0..=40).chain(126..=131).chain(159..=194).flat_map(|k| [nr, 2 * nr, 7 * nr + 3].map(|n| (k, n)))
        {
            let x = Matrix::<i8>::random(&mut random, Fill::Uniform, 1, k, Order::RowMajor);
            let w = Matrix::<i8>::random(&mut random, Fill::Uniform, k, n, Order::ColMajor);
            let (lhs, rhs) = (Lhs::new(x.view()).zero_point(7), Rhs::new(w.view()));
            compare(kernel, lhs, 1, rhs, n, Output::i32(), Order::RowMajor).unwrap();
            for (value, weight) in [(255u8, -128i8), (255, 127), (15, -128), (240, -128)] {
                let (x, w) = (vec![value; k], vec![weight; k * n]);
                let lhs = Lhs::new(MatRef::row_major(&x, 1, k).unwrap());
                let rhs = Rhs::new(MatRef::row_major(&w, k, n).unwrap());
                compare(kernel, lhs, 1, rhs, n, Output::i32(), Order::RowMajor).unwrap();
            }
        }
    }
}

/// Every height of tile and number of panels at depths with and without a tail, read in place or not, through every kind of end.
#[test]
fn every_tile_through_every_end() {
    fn check<A: Operand>(random: &mut Random, kernel: Kernel, m: usize, k: usize, n: usize) {
        let x = Matrix::<A>::random(random, Fill::Uniform, m, k, Order::RowMajor);
        let w = Matrix::<i8>::random(random, Fill::Uniform, k, n, Order::ColMajor);
        let (scales, rows): (Vec<_>, Vec<_>) =
            ((0..n).map(|_| random.scale()).collect(), (0..m).map(|_| random.scale()).collect());
        let small: Vec<_> = scales.iter().map(|scale| scale / 1e3).collect();
        let (lhs, rhs) = (Lhs::new(x.view()).zero_point(A::MIN + 100), Rhs::new(w.view()));
        let order = Order::RowMajor;
        compare(kernel, lhs, m, rhs, n, Output::i32(), order).unwrap();
        compare(kernel, lhs, m, rhs.zero_point(3), n, Output::<i8>::requantize(&small, -7), order).unwrap();
        compare(kernel, lhs, m, rhs, n, Output::<u8>::requantize(&scales, 9).clamp(9, 200), order).unwrap();
        compare(kernel, lhs.scales(&rows), m, rhs, n, Output::f32(&scales), order).unwrap();
        compare(kernel, lhs.scales(&rows), m, rhs, n, Output::f32(&scales).clamp(0.0, 6e3), order).unwrap();
        compare(kernel, lhs.scales(&rows), m, rhs, n, Output::f32(&scales).accumulate(), order).unwrap();
    }
    let mut random = Random(17);
    for kernel in kernels() {
        for m in 1..=13 {
            for (k, n) in [(15, 64), (258, 112), (520, 48), (67, 16), (258, 32)] {
                check::<i8>(&mut random, kernel, m, k, n);
                check::<u8>(&mut random, kernel, m, k, n);
            }
        }
    }
}

/// Few columns of many rows, which some kernels multiply along K: depths around their vectors, rows that are no whole blocks, through
/// every kind of end, read in place or not, contiguous or not.
#[test]
fn few_columns() {
    fn check<A: Operand>(random: &mut Random, kernel: Kernel, m: usize, k: usize, n: usize) {
        let fill = FILLS[random.below(FILLS.len())];
        let (x, w) = (
            Matrix::<A>::random(random, fill, m, k, Order::RowMajor),
            Matrix::<i8>::random(random, fill, k, n, Order::ColMajor),
        );
        let mut p = Parameters::draw::<A, i8>(random, m, n);
        while p.row_scales.len() != m {
            p = Parameters::draw::<A, i8>(random, m, n);
        }
        let lhs = one_or_each!(p.lhs_zero, |z| Lhs::new(x.view()).zero_point(z), |z| {
            Lhs::new(x.view()).zero_points(z)
        });
        let rhs = one_or_each!(p.rhs_zero, |z| Rhs::new(w.view()).zero_point(z), |z| {
            Rhs::new(w.view()).zero_points(z)
        });
        let (scaled, f32) = (lhs.scales(&p.row_scales), one_or_each!(p.scales, Output::f32, Output::f32));
        let order = ORDERS[random.below(ORDERS.len())];
        macro_rules! expect {
            ($($lhs:expr, $output:expr;)*) => { $(compare(kernel, $lhs, m, rhs, n, $output, order).unwrap();)* };
        }
        let i8 = one_or_each!(p.scales, |s| Output::<i8>::requantize(s, -7), |s| {
            Output::<i8>::requantize(s, -7)
        });
        let rounding = [FixedRounding::Single, FixedRounding::Double][random.below(2)];
        let fixed = one_or_each!(p.multipliers, |s| Output::<u8>::requantize_fixed(s, rounding, 9), |s| {
            Output::<u8>::requantize_fixed(s, rounding, 9)
        });
        expect! {
            lhs, Output::i32();
            lhs, Output::i32().bias(&p.bias).accumulate();
            scaled, f32.bias_f32(&p.bias_f32).clamp(0.0, 60.0);
            lhs, f32.bias(&p.bias);
            scaled, f32.accumulate();
            lhs, i8.bias(&p.bias).clamp(-7, 100);
            lhs, i8.bias_f32(&p.bias_f32);
            lhs, fixed.bias(&p.bias);
        }
    }
    let mut random = Random(19);
    for kernel in kernels() {
        for n in 1..=9 {
            for k in [32, 63, 64, 65, 100, 127, 128, 191, 256, 320, 333, 512, 1030, 5000] {
                let m = [8, 15, 16, 17, 24, 31, 33, 64, 70, 75, 83][random.below(11)];
                check::<i8>(&mut random, kernel, m, k, n);
                check::<u8>(&mut random, kernel, m, k, n);
            }
        }
    }
}

/// Sums at both ends of i32 times scales from the smallest to the largest: conversions to integers saturate alike.
#[test]
fn extreme_scales() {
    let ends = [i32::MIN, i32::MIN + 1, -1, 0, 1, 1 << 24, i32::MAX - 64, i32::MAX];
    let below_one = f32::from_bits(1.0f32.to_bits() - 1);
    let scales = [f32::MIN_POSITIVE, 1e-9, 0.5, below_one, 1.0, 1e3, 3e5, f32::MAX];
    let (x, w) = ([0i8; 2], vec![0i8; 64]);
    for kernel in kernels() {
        for scale in scales {
            let bias: Vec<i32> = ends.iter().copied().cycle().take(64).collect();
            let bias_f32: Vec<f32> = bias.iter().map(|&b| b as f32).collect();
            let lhs = Lhs::new(MatRef::row_major(&x, 2, 1).unwrap());
            let rhs = Rhs::new(MatRef::row_major(&w, 1, 64).unwrap());
            // One scale for all columns, and one among others.
            let mut each = [1e-3; 64];
            each[9] = scale;
            for zero in [-128, -1, 0, 127] {
                let output = Output::<i8>::requantize(scale, zero);
                compare(kernel, lhs, 2, rhs, 64, output.bias(&bias), Order::RowMajor).unwrap();
                compare(kernel, lhs, 2, rhs, 64, output.bias_f32(&bias_f32), Order::RowMajor).unwrap();
                let output = Output::<u8>::requantize(&each, zero.max(0));
                compare(kernel, lhs, 2, rhs, 64, output.bias(&bias), Order::RowMajor).unwrap();
            }
        }
        // A product of scales so small that products vanish: zeros keep their signs, with and without a bias of either zero, and
        // between bounds that are zeros of either sign.
        let bias: Vec<i32> = [-3, 0, 5].into_iter().cycle().take(64).collect();
        let zeros: Vec<f32> = [0.0, -0.0].into_iter().cycle().take(64).collect();
        let lhs = Lhs::new(MatRef::row_major(&x, 2, 1).unwrap()).scale(1e-30);
        let rhs = Rhs::new(MatRef::row_major(&w, 1, 64).unwrap());
        let infinite = f32::INFINITY;
        let ranges = [
            (-infinite, infinite),
            (0.0, 6.0),
            (-0.0, 6.0),
            (-6.0, 0.0),
            (-6.0, -0.0),
            (-0.0, 0.0),
            (0.0, -0.0),
        ];
        for scale in [1e-30, 1.0, 1e30] {
            for (min, max) in ranges {
                let output = Output::f32(scale).clamp(min, max);
                compare(kernel, lhs, 2, rhs, 64, output, Order::RowMajor).unwrap();
                compare(kernel, lhs, 2, rhs, 64, output.bias(&bias), Order::RowMajor).unwrap();
                compare(kernel, lhs, 2, rhs, 64, output.bias_f32(&zeros), Order::RowMajor).unwrap();
                compare(kernel, lhs, 2, rhs, 64, output.bias(&bias).accumulate(), Order::RowMajor).unwrap();
            }
        }
        // An infinite product of scales: infinite outputs, and NaN for sums of 0 unless there is a clamp.
        let weights = PackedRhs::pack_for(kernel, MatRef::row_major(&[0i8, 1], 1, 2).unwrap()).unwrap();
        let lhs = Lhs::new(MatRef::row_major(&[1i8], 1, 1).unwrap()).scale(1e30);
        let mut out = [0.0f32; 2];
        for (min, max, zero) in [(f32::NEG_INFINITY, f32::INFINITY, f32::NAN), (-5.0, f32::INFINITY, -5.0)] {
            let gemm = Gemm::new(&weights, Output::f32(1e30).clamp(min, max)).unwrap();
            gemm.apply(lhs, MatMut::row_major(&mut out, 1, 2).unwrap()).unwrap();
            assert_eq!((out[0].is_nan(), out[1]), (zero.is_nan(), f32::INFINITY), "{kernel}");
            assert!(zero.is_nan() || out[0] == zero, "{kernel}");
        }
    }
}

/// Extreme values at the longest K that is safe: the sum comes within a step of i32's ends and must not move.
#[test]
fn extreme_values_at_the_longest_safe_k() {
    let k = i8gemm::MAX_SAFE_K;
    let mut random = Random(13);
    for kernel in kernels() {
        for fill in FILLS {
            let x = Matrix::<i8>::random(&mut random, fill, 3, k, Order::RowMajor);
            let w = Matrix::<i8>::random(&mut random, fill, k, 5, Order::ColMajor);
            let (lhs, rhs) = (Lhs::new(x.view()), Rhs::new(w.view()));
            compare(kernel, lhs, 3, rhs, 5, Output::i32(), Order::RowMajor).unwrap();
            compare(kernel, lhs.zero_point(127), 3, rhs.zero_point(127), 5, Output::i32(), Order::RowMajor)
                .unwrap();
        }
    }
}

/// A depth whose product with 128 leaves i32: sums of rows, constants of columns and the sums themselves wrap.
#[test]
fn depths_whose_sums_wrap() {
    const K: usize = (1 << 24) + 37;
    let rhs = Rhs::new(MatRef::new(&[127i8], K, 1, 0, 0).unwrap()).zero_point(-128).allow_wrapping();
    let (signed, unsigned) = (vec![-128i8; K], vec![0u8; K]);
    for kernel in kernels() {
        let lhs = Lhs::new(MatRef::row_major(&signed, 1, K).unwrap()).zero_point(127);
        compare(kernel, lhs, 1, rhs, 1, Output::i32(), Order::RowMajor).unwrap();
        let lhs = Lhs::new(MatRef::row_major(&unsigned, 1, K).unwrap()).zero_point(255);
        compare(kernel, lhs, 1, rhs, 1, Output::i32(), Order::RowMajor).unwrap();
    }
}
