//! Fake quantization against its definition, finite differences, and integer quantization; codebooks; low-bit weights.

mod common;

use common::Random;
use i8gemm::{
    Error,
    quant::{
        Codebook, Grouping, Levels, QParams, Quantizer, Ternary, binary_weights,
        fake::{FakeQuantizer, binary_backward, binary_forward, lsq_factor, lsq_scale},
        ternary_weights,
    },
};
use quickcheck::quickcheck;

fn uniform(random: &mut Random, width: f32) -> f32 {
    (random.below(1 << 24) as f32 / (1 << 23) as f32 - 1.0) * width
}

/// A number of the normal distribution, by G. Box and M. Muller's transform.
fn normal(random: &mut Random) -> f32 {
    let [a, b] = [(); 2].map(|()| (random.below(1 << 24) + 1) as f32 / (1 << 24) as f32);
    (-2.0 * a.ln()).sqrt() * (std::f32::consts::TAU * b).cos()
}

struct Case {
    grouping: Grouping,
    levels: Levels,
    scales: Vec<f32>,
    zeros: Vec<i32>,
    x: Vec<f32>,
    dy: Vec<f32>,
}

impl Case {
    fn random(random: &mut Random, shape: [usize; 3]) -> Self {
        let len = shape.iter().product();
        let grouping = match random.below(4) {
            0 => Grouping::per_tensor(),
            1 => Grouping::per_group(&shape, 2, 2).unwrap(),
            _ => Grouping::per_channel(&shape, random.below(3)).unwrap(),
        };
        let levels = Levels::signed(random.range(2, 8) as u32).unwrap();
        let scales = (0..grouping.count()).map(|_| 0.05 + uniform(random, 0.04)).collect();
        let zeros = (0..grouping.count()).map(|_| random.range(levels.min(), levels.max())).collect();
        let width = 0.08 * levels.steps() as f32;
        let x = (0..len).map(|_| uniform(random, width)).collect();
        let dy = (0..len).map(|_| uniform(random, 1.0)).collect();
        Self { grouping, levels, scales, zeros, x, dy }
    }

    fn quantizer(&self) -> FakeQuantizer<'_> {
        FakeQuantizer::new(self.grouping, &*self.scales, &*self.zeros).levels(self.levels)
    }

    fn forward(&self) -> (Vec<f32>, Vec<u8>) {
        let (mut y, mut mask) = (vec![7.0; self.x.len()], vec![0xff; self.x.len().div_ceil(8)]);
        self.quantizer().forward(&self.x, &mut y, &mut mask).unwrap();
        (y, mask)
    }
}

quickcheck! {
    /// What training sees is what the integers stand for.
    fn forward_is_quantize_and_dequantize(seed: u64, a: u8, b: u8, c: u8) -> bool {
        let mut random = Random(seed);
        let case = Case::random(&mut random, [a, b, c].map(|s| usize::from(s) % 7 + 1));
        let (y, mask) = case.forward();
        let quantizer = Quantizer::<i8>::new(case.grouping, &*case.scales, &*case.zeros).levels(case.levels);
        let (mut q, mut back) = (vec![0; y.len()], vec![0.0; y.len()]);
        quantizer.quantize(&case.x, &mut q).unwrap();
        quantizer.dequantize(&q, &mut back).unwrap();
        assert_eq!(y, back);
        let mut dx = vec![7.0; y.len()];
        case.quantizer().backward(&case.dy, &mask, &mut dx).unwrap();
        for i in 0..y.len() {
            let p = case.grouping.index(i);
            let unclamped = (case.x[i] / case.scales[p]).round_ties_even() as i32 + case.zeros[p];
            let inside = (case.levels.min()..=case.levels.max()).contains(&unclamped);
            assert_eq!(mask[i / 8] >> (i % 8) & 1 == 1, inside);
            assert_eq!(dx[i], if inside { case.dy[i] } else { 0.0 });
        }
        // No bits behind the last value.
        y.len().is_multiple_of(8) || mask[y.len() / 8] >> (y.len() % 8) == 0
    }

    /// Derivatives of the loss `sum dy * y` by scales and zero points, with the rounding frozen as the straight-through
    /// estimator has it, taken by central differences in f64.
    fn learnable_gradients_are_differences(seed: u64, a: u8, b: u8, c: u8) -> bool {
        let mut random = Random(seed);
        let case = Case::random(&mut random, [a, b, c].map(|s| usize::from(s) % 7 + 1));
        let groups = case.grouping.count();
        let (mut dx, mut ds, mut dz) = (vec![0.0; case.x.len()], vec![0.0; groups], vec![0.0; groups]);
        let quantizer = case.quantizer().gradient_factor(0.5);
        quantizer.backward_learnable(&case.x, &case.dy, &mut dx, &mut ds, &mut dz).unwrap();
        let (_, mask) = case.forward();
        let mut plain = vec![0.0; case.x.len()];
        case.quantizer().backward(&case.dy, &mask, &mut plain).unwrap();
        assert_eq!(dx, plain);
        let mut scales_only = vec![0.0; groups];
        quantizer.backward_learnable(&case.x, &case.dy, &mut dx, &mut scales_only, &mut []).unwrap();
        assert_eq!((&dx, &ds), (&plain, &scales_only));

        let (low, high) = (f64::from(case.levels.min()), f64::from(case.levels.max()));
        for group in 0..groups {
            let members = || (0..case.x.len()).filter(|&i| case.grouping.index(i) == group);
            let (s0, z0) = (f64::from(case.scales[group]), f64::from(case.zeros[group]));
            let loss = |s: f64, z: f64| -> f64 {
                members().map(|i| {
                    let x = f64::from(case.x[i]);
                    let rounding = (x / s0).round_ties_even() - x / s0;
                    let inside = mask[i / 8] >> (i % 8) & 1 == 1;
                    let q = x / s + rounding + z;
                    let q = if inside { q } else if q < low { low } else { high };
                    f64::from(case.dy[i]) * (q - z) * s
                }).sum()
            };
            let size: f64 = members().map(|i| f64::from(case.dy[i].abs())).sum::<f64>() * 260.0;
            let h = 1e-6;
            let by_scale = 0.5 * (loss(s0 + h, z0) - loss(s0 - h, z0)) / (2.0 * h);
            let by_zero = 0.5 * (loss(s0, z0 + h) - loss(s0, z0 - h)) / (2.0 * h);
            assert!((f64::from(ds[group]) - by_scale).abs() < 1e-5 * size + 1e-6, "{} {by_scale}", ds[group]);
            assert!((f64::from(dz[group]) - by_zero).abs() < 1e-5 * size + 1e-6, "{} {by_zero}", dz[group]);
        }
        true
    }
}

#[test]
fn odd_values() {
    let quantizer = FakeQuantizer::new(Grouping::per_tensor(), 0.5, 3).levels(Levels::signed(4).unwrap());
    let x = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30, 0.0, -0.0, 2.25, -5.75];
    let (mut y, mut mask) = ([9.0; 8], [0; 1]);
    quantizer.forward(&x, &mut y, &mut mask).unwrap();
    assert_eq!((y, mask), ([0.0, 2.0, -5.5, 2.0, 0.0, 0.0, 2.0, -5.5], [0b0111_0001]));
    let (mut dx, mut ds, mut dz) = ([0.0; 8], [0.0; 1], [0.0; 1]);
    quantizer.backward_learnable(&x, &[1.0; 8], &mut dx, &mut ds, &mut dz).unwrap();
    // NaN: 0. Above: 4 steps, twice. Below: -11, and -11 for -5.75, which is 11.5 steps and rounds to 12. 4 - 4.5.
    assert_eq!((ds, dz), ([4.0 - 11.0 + 4.0 - 0.5 - 11.0], [-2.0]));
}

#[test]
fn binary_straight_through() {
    let x = [0.5, -0.5, 0.0, -0.0, 1.0, -1.0, 1.5, f32::NAN];
    let (mut y, mut dx) = ([0.0; 8], [0.0; 8]);
    binary_forward(&x, &mut y).unwrap();
    assert_eq!(y, [1.0, -1.0, 1.0, 1.0, 1.0, -1.0, 1.0, 1.0]);
    binary_backward(&x, &[2.0; 8], &mut dx).unwrap();
    assert_eq!(dx, [2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 0.0, 0.0]);
}

#[test]
fn lsq() {
    assert_eq!(lsq_factor(4, Levels::unsigned(4).unwrap()), 1.0 / (4.0f32 * 15.0).sqrt());
    assert_eq!(lsq_scale(&[1.0, -3.0], Levels::signed(4).unwrap()), Ok((4.0 / 7f64.sqrt()) as f32));
    // No floor but that of normal f32: small weights begin with steps as small.
    assert_eq!(lsq_scale(&[1e-30, -3e-30], Levels::signed(4).unwrap()), Ok((4e-30 / 7f64.sqrt()) as f32));
    assert_eq!(lsq_scale(&[0.0], Levels::I8), Ok(1.0));
    assert_eq!(lsq_scale(&[f32::MAX], Levels::signed(2).unwrap()), Ok(f32::MAX));
    assert_eq!(lsq_scale(&[], Levels::I8), Err(Error::NothingObserved));
}

#[test]
fn mistakes_are_errors_before_anything_is_written() {
    let (mut y, mut mask) = ([9.0; 3], [9; 1]);
    let per_tensor = |scale, zero| FakeQuantizer::new(Grouping::per_tensor(), scale, zero);
    // Its reciprocal is infinite; as a divisor it will do.
    let tiny = per_tensor(1e-39, 0);
    assert!(matches!(
        tiny.reciprocal().forward(&[1.0; 3], &mut y, &mut mask),
        Err(Error::Scale { what: "scale without a finite reciprocal,", .. })
    ));
    assert!(matches!(
        tiny.reciprocal().backward_learnable(&[1.0; 3], &[1.0; 3], &mut [0.0; 3], &mut [0.0], &mut []),
        Err(Error::Scale { what: "scale without a finite reciprocal,", .. })
    ));
    assert!(tiny.forward(&[1.0; 3], &mut y.clone(), &mut mask.clone()).is_ok());
    assert!(matches!(per_tensor(0.0, 0).forward(&[1.0; 3], &mut y, &mut mask), Err(Error::Scale { .. })));
    assert!(matches!(
        per_tensor(1.0, 200).forward(&[1.0; 3], &mut y, &mut mask),
        Err(Error::ZeroPoint { .. })
    ));
    assert!(matches!(per_tensor(1.0, 0).forward(&[1.0; 3], &mut y, &mut []), Err(Error::Length { .. })));
    assert!(matches!(per_tensor(1.0, 0).forward(&[1.0; 2], &mut y, &mut mask), Err(Error::Length { .. })));
    let groups = Grouping::per_channel(&[3], 0).unwrap();
    let short = FakeQuantizer::new(groups, &[1.0, 1.0], 0);
    assert!(matches!(short.forward(&[1.0; 3], &mut y, &mut mask), Err(Error::Length { expected: 3, .. })));
    assert_eq!((y, mask), ([9.0; 3], [9; 1]));
    let (mut dx, mut ds) = ([9.0; 3], [9.0; 3]);
    let each = FakeQuantizer::new(groups, &[1.0; 3], 0);
    let backward = each.backward_learnable(&[1.0; 3], &[1.0; 3], &mut dx, &mut ds, &mut [9.0; 2]);
    assert!(matches!(backward, Err(Error::Length { expected: 3, actual: 2, .. })));
    assert_eq!((dx, ds), ([9.0; 3], [9.0; 3]));
    let mut codes = [9u8; 2];
    let tensor = Grouping::per_tensor();
    assert!(matches!(Codebook::NF4.quantize(tensor, 1.0, &[0.0; 2], &mut codes), Err(Error::Length { .. })));
    assert!(matches!(
        Codebook::NF4.quantize(tensor, f32::NAN, &[0.0; 3], &mut codes),
        Err(Error::Scale { .. })
    ));
    assert_eq!(codes, [9; 2]);
    let mut entries = *Codebook::NF4.entries();
    entries[3] = f32::NAN;
    assert!(matches!(Codebook::new(entries), Err(Error::Codebook { index: 3, .. })));
    entries[3] = -2.0;
    assert!(matches!(Codebook::new(entries), Err(Error::Codebook { index: 3, .. })));
}

quickcheck! {
    fn codes_are_of_the_nearest_entry(seed: u64, shape: (u8, u8), size: u8) -> bool {
        let mut random = Random(seed);
        let shape = [usize::from(shape.0) % 9 + 1, usize::from(shape.1) % 40 + 1];
        let grouping = Grouping::per_group(&shape, random.below(2), usize::from(size) % 17 + 1).unwrap();
        let x: Vec<f32> = (0..shape[0] * shape[1]).map(|_| uniform(&mut random, 3.0)).collect();
        let scales = Codebook::scales(grouping, &x).unwrap();
        let table = Codebook::NF4;
        let (mut codes, mut back) = (vec![0xff; x.len().div_ceil(2)], vec![0.0; x.len()]);
        table.quantize(grouping, &*scales, &x, &mut codes).unwrap();
        table.dequantize(grouping, &*scales, &codes, &mut back).unwrap();
        for (i, (&x, &back)) in x.iter().zip(&back).enumerate() {
            let scale = scales[grouping.index(i)];
            let least = table.entries().iter().map(|e| (e * scale - x).abs()).fold(f32::INFINITY, f32::min);
            assert!((back - x).abs() <= least + 1e-6 * scale, "{x} / {scale}: {back}");
        }
        x.len().is_multiple_of(2) || codes[x.len() / 2] >> 4 == 0
    }
}

/// Sum of squared differences, over that of the values.
fn relative_error(values: &[f32], back: impl Iterator<Item = f32>) -> f64 {
    let squares = |x: f64| x * x;
    let noise: f64 = values.iter().zip(back).map(|(x, y)| squares(f64::from(x - y))).sum();
    noise / values.iter().map(|x| squares(f64::from(*x))).sum::<f64>()
}

#[test]
fn fitted_table_is_better_than_any_fixed_one() {
    let mut random = Random(3);
    let values: Vec<f32> = (0..40_000).map(|_| normal(&mut random)).collect();
    let error = |table: Codebook, scale: f32| {
        let tensor = Grouping::per_tensor();
        let (mut codes, mut back) = (vec![0; values.len() / 2], vec![0.0; values.len()]);
        table.quantize(tensor, scale, &values, &mut codes).unwrap();
        table.dequantize(tensor, scale, &codes, &mut back).unwrap();
        relative_error(&values, back.into_iter())
    };
    let fitted = error(Codebook::fit(&values).unwrap(), 1.0);
    // Lloyd and Max: 0.009497 for 16 values on a normal distribution.
    assert!((fitted - 0.0095).abs() < 0.0004, "{fitted}");
    let absmax = values.iter().fold(0f32, |max, x| max.max(x.abs()));
    assert!(fitted < error(Codebook::NF4, absmax) && fitted < error(Codebook::NF4, 2.5));
    // Fewer values than entries: every one is hit.
    let few = [0.5, -2.0, 7.25];
    let table = Codebook::fit(&few).unwrap();
    assert!(few.iter().all(|x| table.entries()[usize::from(table.code(*x))] == *x));
    // Sixteen values, one of which is nearly all of the data.
    let mut skewed: Vec<f32> = (0..16).map(|i| (i * i) as f32 - 40.0).collect();
    skewed.extend([0.0; 5000].map(|_| -4.0));
    let table = Codebook::fit(&skewed).unwrap();
    assert!(skewed.iter().all(|x| table.entries()[usize::from(table.code(*x))] == *x), "{table:?}");
}

/// Relative squared error on N(0, 1), as known for the methods.
#[test]
fn low_bit_weights_lose_what_they_are_known_to() {
    let mut random = Random(5);
    let weights: Vec<f32> = (0..200_000).map(|_| normal(&mut random)).collect();
    let mut codes = vec![0; weights.len()];
    let mut check = |name: &str, expected: f64, run: &dyn Fn(&mut [i8]) -> f32| {
        let scale = run(&mut codes);
        let error = relative_error(&weights, codes.iter().map(|&q| scale * f32::from(q)));
        assert!((error - expected).abs() < 0.004, "{name}: {error}, {expected} is known");
    };
    check("binary", 0.3633, &|codes| binary_weights(&weights, codes).unwrap());
    check("TWN", 0.1916, &|codes| ternary_weights(Ternary::Twn, &weights, codes).unwrap());
    check("BitNet", 0.2633, &|codes| ternary_weights(Ternary::AbsMean, &weights, codes).unwrap());
    for (size, symmetric, affine) in [(32, 0.0094, 0.0065), (64, 0.0116, 0.0083), (128, 0.0138, 0.0101)] {
        use i8gemm::quant::{ParamList, Scheme};
        let groups = Grouping::per_group(&[weights.len()], 0, size).unwrap();
        let mut check_4_bits = |levels: Levels, scheme: Scheme, expected: f64| {
            let params = ParamList::fit(groups, levels, scheme, &weights).unwrap();
            let quantizer = params.quantizer::<i8>(groups).levels(levels);
            let mut back = vec![0.0; weights.len()];
            quantizer.quantize(&weights, &mut codes).unwrap();
            quantizer.dequantize(&codes, &mut back).unwrap();
            let error = relative_error(&weights, back.into_iter());
            assert!(
                (error / expected - 1.0).abs() < 0.03,
                "{scheme:?}, {size}: {error}, {expected} is known"
            );
        };
        check_4_bits(Levels::signed(4).unwrap().narrow(), Scheme::Symmetric, symmetric);
        check_4_bits(Levels::signed(4).unwrap(), Scheme::Affine, affine);
    }
    let constant = QParams { scale: 1.0, zero_point: 0 };
    assert_eq!(constant.quantize::<i8>(0.5), 0);
}
