//! Quantizing, dequantizing and requantizing slices: every kernel against the scalar reference, bit for bit.

mod common;

use common::{Random, kernels};
use i8gemm::{
    Broadcast, Error, FixedPoint, FixedRounding, Kernel, MatRef, Operand,
    quant::{
        DynamicBuffers, DynamicQuantizer, Grouping, Integer, Levels, QParams, Quantizer, Real, Requantizer,
        Rounding, Scheme,
    },
    reference,
};
use quickcheck::quickcheck;

const ROUNDINGS: [Rounding; 7] = [
    Rounding::HalfEven,
    Rounding::HalfAway,
    Rounding::HalfUp,
    Rounding::Floor,
    Rounding::Ceil,
    Rounding::Trunc,
    Rounding::Stochastic { seed: 7 },
];

/// Lengths around every vector and block of every kernel.
const LENGTHS: [usize; 16] = [0, 1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 259];

/// Reals of every kind: ordinary, ties, next to ties, tiny, huge, infinite, NaN.
fn reals(random: &mut Random, len: usize, scale: f32) -> Vec<f32> {
    let odd = [0.0, -0.0, 1e-40, -1e-40, 1e30, -1e30, f32::MAX, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
    (0..len)
        .map(|_| {
            let tie = random.range(-600, 600) as f32 * 0.5 * scale;
            match random.below(8) {
                0 => odd[random.below(odd.len())],
                1 => tie,
                2 => f32::from_bits(tie.to_bits().wrapping_add(1)),
                3 => f32::from_bits(tie.to_bits().wrapping_sub(1)),
                4 => f32::from_bits(random.next() as u32),
                _ => (random.below(1 << 20) as f32 / (1 << 20) as f32 - 0.5) * 400.0 * scale,
            }
        })
        .collect()
}

fn params<T: Operand>(random: &mut Random) -> QParams {
    QParams { scale: random.scale(), zero_point: random.range(T::MIN, T::MAX) }
}

/// Levels that `T` can hold, of 2 to 8 bits, full or narrow.
fn levels<T: Operand>(random: &mut Random) -> Levels {
    let bits = random.range(2, 8) as u32;
    let full = if T::MIN == 0 { Levels::unsigned(bits) } else { Levels::signed(bits) }.unwrap();
    if random.below(2) == 0 { full } else { full.narrow() }
}

/// Quantizes behind and before guards, which must stay as they are.
fn guarded<T: Operand>(len: usize, run: impl FnOnce(&mut [T])) -> Vec<i32> {
    const GUARD: usize = 67;
    let guard: T = bytemuck::cast(0x5au8);
    let mut out = vec![guard; len + 2 * GUARD];
    run(&mut out[GUARD..GUARD + len]);
    let untouched = |part: &[T]| part.iter().all(|&x| x.widen() == guard.widen());
    assert!(untouched(&out[..GUARD]) && untouched(&out[GUARD + len..]), "wrote outside the slice");
    out[GUARD..GUARD + len].iter().map(|q| q.widen()).collect()
}

fn check_quantize<T: Operand>(kernel: Kernel, random: &mut Random, grouping: Grouping, len: usize) {
    let params: Vec<QParams> = (0..grouping.count()).map(|_| params::<T>(random)).collect();
    let scales: Vec<f32> = params.iter().map(|p| p.scale).collect();
    let zeros: Vec<i32> = params.iter().map(|p| p.zero_point).collect();
    let levels = levels::<T>(random);
    let x = reals(random, len, scales.first().copied().unwrap_or(1.0));
    for rounding in ROUNDINGS {
        for reciprocal in [false, true] {
            let quantizer = Quantizer::<T>::new(grouping, each(&scales), each(&zeros));
            let quantizer = quantizer.levels(levels).rounding(rounding).kernel(kernel);
            let quantizer = if reciprocal { quantizer.reciprocal() } else { quantizer };
            let actual = guarded::<T>(len, |out| quantizer.quantize(&x, out).unwrap());
            for (i, (&q, &x)) in actual.iter().zip(&x).enumerate() {
                let p = params[grouping.index(i)];
                let expected = reference::quantize(x, p, levels, rounding, reciprocal, i);
                assert_eq!(
                    q, expected,
                    "{kernel}: value {i} of {len}, {x:e}, {p:?}, {levels:?}, {rounding:?}"
                );
            }
        }
    }
    let quantized: Vec<T> = (0..len).map(|_| bytemuck::cast(random.next() as u8)).collect();
    let mut back = vec![0.0; len + 1];
    back[len] = 77.0;
    let quantizer = Quantizer::<T>::new(grouping, each(&scales), each(&zeros));
    quantizer.kernel(kernel).dequantize(&quantized, &mut back[..len]).unwrap();
    for (i, (&q, r)) in quantized.iter().zip(&back).enumerate() {
        let p = params[grouping.index(i)];
        assert_eq!(r.to_bits(), p.dequantize(q).to_bits(), "{kernel}: value {i}, {p:?}");
    }
    assert_eq!(back[len], 77.0);
}

#[test]
fn every_length() {
    let mut random = Random(1);
    for kernel in kernels() {
        for len in LENGTHS {
            check_quantize::<i8>(kernel, &mut random, Grouping::per_tensor(), len);
            check_quantize::<u8>(kernel, &mut random, Grouping::per_tensor(), len);
            // A scale for each value.
            check_quantize::<i8>(kernel, &mut random, Grouping::per_channel(&[len], 0).unwrap(), len);
            check_quantize::<u8>(kernel, &mut random, Grouping::per_channel(&[3, len], 1).unwrap(), 3 * len);
        }
    }
}

quickcheck! {
    fn every_grouping(seed: u64, shape: (u8, u8, u8), size: u8) -> bool {
        let mut random = Random(seed);
        let shape = [shape.0, shape.1, shape.2].map(|s| usize::from(s) % 9 + 1);
        let len = shape.iter().product();
        for kernel in kernels() {
            for axis in 0..3 {
                let channels = Grouping::per_channel(&shape, axis).unwrap();
                let groups = Grouping::per_group(&shape, axis, usize::from(size) % 5 + 1).unwrap();
                check_quantize::<i8>(kernel, &mut random, channels, len);
                check_quantize::<u8>(kernel, &mut random, groups, len);
            }
        }
        true
    }
}

#[test]
fn stochastic_rounding_is_right_on_average() {
    let x = vec![2.3f32; 200_000];
    let mut draws = Vec::new();
    for seed in [1, 2] {
        let quantizer = Quantizer::<i8>::per_tensor(QParams { scale: 1.0, zero_point: 0 })
            .rounding(Rounding::Stochastic { seed });
        let mut q = vec![0; x.len()];
        quantizer.quantize(&x, &mut q).unwrap();
        let mean = q.iter().map(|&q| f64::from(q)).sum::<f64>() / q.len() as f64;
        // The deviation of the mean is 0.001.
        assert!((mean - 2.3).abs() < 0.006, "{mean}");
        // Neighbours are independent: two in a row go up in 0.09 of the cases.
        let pairs = q.windows(2).filter(|pair| pair == &[3, 3]).count() as f64 / q.len() as f64;
        assert!((pairs - 0.09).abs() < 0.006, "{pairs}");
        draws.push(q);
    }
    let same = draws[0].iter().zip(&draws[1]).filter(|(a, b)| a == b).count() as f64 / x.len() as f64;
    assert!((same - 0.58).abs() < 0.01, "seeds are independent: {same}");
}

/// One value for all if there is one only.
fn each<T: Copy>(values: &[T]) -> Broadcast<'_, T> {
    if values.len() == 1 { Broadcast::All(values[0]) } else { Broadcast::Each(values) }
}

fn check_requantize<S: Integer, T: Operand>(kernel: Kernel, random: &mut Random, values: &[S], from: i32) {
    let len = values.len();
    for grouping in [Grouping::per_tensor(), Grouping::per_channel(&[len], 0).unwrap()] {
        let count = grouping.count();
        let scales: Vec<f32> = (0..count).map(|_| random.scale() / 64.0).collect();
        let fixed: Vec<FixedPoint> =
            scales.iter().map(|&s| FixedPoint::from_scale(s.into()).unwrap()).collect();
        let levels = levels::<T>(random);
        let zero = random.range(T::MIN, T::MAX);
        for rounding in ROUNDINGS {
            let requantizer = Requantizer::new(grouping, each(&scales), zero)
                .rounding(rounding)
                .from_zero_point(from)
                .levels(levels)
                .kernel(kernel);
            let actual = guarded::<T>(len, |out| requantizer.requantize(values, out).unwrap());
            for (i, (&q, x)) in actual.iter().zip(values).enumerate() {
                let scale = scales[grouping.index(i)];
                let expected = reference::requantize(x.to_i32(), from, scale, zero, levels, rounding, i);
                assert_eq!(q, expected, "{kernel}: {} * {scale}, {rounding:?}", x.to_i32());
            }
        }
        for (mode, scaled) in [
            (FixedRounding::Single, reference::single_rounding as fn(i32, FixedPoint) -> i32),
            (FixedRounding::Double, reference::double_rounding),
        ] {
            let requantizer = Requantizer::fixed(grouping, each(&fixed), mode, zero)
                .from_zero_point(from)
                .levels(levels)
                .kernel(kernel);
            let actual = guarded::<T>(len, |out| requantizer.requantize(values, out).unwrap());
            for (i, (&q, x)) in actual.iter().zip(values).enumerate() {
                let scaled = scaled(x.to_i32() - from, fixed[grouping.index(i)]);
                let expected = scaled.saturating_add(zero).clamp(levels.min(), levels.max());
                assert_eq!(q, expected, "{kernel}: {}, {mode:?}", x.to_i32());
            }
        }
    }
}

#[test]
fn requantize_every_length() {
    let mut random = Random(3);
    for kernel in kernels() {
        for len in LENGTHS {
            let sums: Vec<i32> = (0..len)
                .map(|_| match random.below(4) {
                    0 => random.next() as i32,
                    1 => [i32::MIN, i32::MAX, 0, -1, 1 << 24, (1 << 24) + 1][random.below(6)],
                    _ => random.range(-100_000, 100_000),
                })
                .collect();
            check_requantize::<i32, i8>(kernel, &mut random, &sums, 0);
            check_requantize::<i32, u8>(kernel, &mut random, &sums, 0);
            let bytes: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
            let signed: &[i8] = bytemuck::cast_slice(&bytes);
            let (from, from_signed) = (random.range(0, 255), random.range(-128, 127));
            check_requantize::<u8, i8>(kernel, &mut random, &bytes, from);
            check_requantize::<i8, u8>(kernel, &mut random, signed, from_signed);
        }
    }
}

#[test]
fn ties_of_the_three_modes() {
    // Scale 2^-4; QUANT's table of -8, -24, 8, 24.
    let sums = [-8, -24, 8, 24];
    let fixed = FixedPoint::from_scale(1.0 / 16.0).unwrap();
    let tensor = Grouping::per_tensor();
    for kernel in kernels() {
        let run = |requantizer: Requantizer<i8>| {
            let mut q = [0i8; 4];
            requantizer.kernel(kernel).requantize(&sums, &mut q).unwrap();
            q
        };
        assert_eq!(run(Requantizer::new(tensor, 1.0 / 16.0, 0)), [0, -2, 0, 2]);
        assert_eq!(run(Requantizer::fixed(tensor, fixed, FixedRounding::Single, 0)), [0, -1, 1, 2]);
        assert_eq!(run(Requantizer::fixed(tensor, fixed, FixedRounding::Double, 0)), [-1, -2, 1, 2]);
    }
}

/// Dynamic quantization by its definition.
fn check_dynamic<R: Real, T: Operand>(quantizer: DynamicQuantizer, per_row: bool, x: MatRef<R>) {
    let (m, k) = (x.rows(), x.cols());
    let (mut values, mut sums) = (vec![bytemuck::cast::<u8, T>(0); m * k], vec![0; m]);
    let (mut scales, mut zeros) = (vec![0.0; quantizer.params(m)], vec![0; quantizer.params(m)]);
    quantizer.quantize_into(x, &mut values, &mut scales, &mut zeros, &mut sums).unwrap();
    let row = |i: usize| (0..k).map(move |j| x.get(i, j).unwrap().to_f32());
    let fit = |values: &mut dyn Iterator<Item = f32>| {
        let (min, max) =
            values.filter(|v| v.is_finite()).fold((0f32, 0f32), |(a, b), v| (a.min(v), b.max(v)));
        // Scales have no floor here; a range too narrow for a scale gets 1.
        let levels = Levels::of::<T>();
        let scale = (max - min) / levels.steps() as f32;
        let scale = if scale < f32::MIN_POSITIVE { 1.0 } else { scale };
        let zero_point = levels.min() - (min / scale).round_ties_even() as i32;
        QParams { scale, zero_point: zero_point.clamp(levels.min(), levels.max()) }
    };
    let whole = fit(&mut (0..m).flat_map(row));
    for i in 0..m {
        let params = if per_row { fit(&mut row(i)) } else { whole };
        let at = if per_row { i } else { 0 };
        assert_eq!((scales[at], zeros[at]), (params.scale, params.zero_point));
        let expected: Vec<i32> = row(i)
            .map(|r| reference::quantize(r, params, Levels::of::<T>(), Rounding::HalfEven, false, 0))
            .collect();
        let actual: Vec<i32> = values[i * k..][..k].iter().map(|q| q.widen()).collect();
        assert_eq!(actual, expected);
        assert_eq!(sums[i], expected.iter().sum::<i32>());
    }
}

#[test]
fn dynamic_is_its_definition() {
    let mut random = Random(5);
    for kernel in kernels() {
        for (m, k) in [(1, 1), (3, 5), (2, 64), (5, 100), (3, 1030), (0, 4), (4, 0)] {
            let mut x = reals(&mut random, 2 * m * k + 2 * k, 0.1);
            x.iter_mut().for_each(|v| *v = if v.abs() < 1e20 { *v } else { 1.5 });
            for (per_row, quantizer) in
                [(false, DynamicQuantizer::per_tensor()), (true, DynamicQuantizer::per_row())]
            {
                let quantizer = quantizer.kernel(kernel);
                for (row, col) in [(k, 1), (k + 1, 1), (1, m), (2 * k, 2)] {
                    let view = MatRef::new(&x, m, k, row, col).unwrap();
                    check_dynamic::<f32, u8>(quantizer, per_row, view);
                    check_dynamic::<f32, i8>(quantizer, per_row, view);
                }
            }
            // What is not finite is left out if asked for, and refused otherwise.
            if m * k > 2 {
                let mut x = x[..m * k].to_vec();
                (x[1], x[2]) = (f32::NAN, f32::INFINITY);
                let view = MatRef::row_major(&x, m, k).unwrap();
                let quantizer = DynamicQuantizer::per_row().kernel(kernel);
                check_dynamic::<f32, u8>(quantizer.ignore_non_finite(), true, view);
                let whole = DynamicQuantizer::per_tensor().kernel(kernel).ignore_non_finite();
                check_dynamic::<f32, u8>(whole, false, view);
                let mut buffers = DynamicBuffers::<i8>::default();
                let refused = quantizer.quantize(view, &mut buffers);
                assert!(matches!(refused, Err(Error::NonFinite { index: 1, .. })));
            }
        }
    }
}

/// Activations of a range however small keep their 8 bits; such that are all 0 get scale 1, as in ONNX Runtime.
#[test]
fn dynamic_scales_have_no_floor() -> Result<(), Error> {
    for size in [1e-6f32, 1e-20, 1e-35] {
        let x = [size, -size, 0.5 * size];
        let mut buffers = DynamicBuffers::<u8>::default();
        let lhs = DynamicQuantizer::per_tensor().quantize(MatRef::row_major(&x, 1, 3)?, &mut buffers)?;
        let weights = i8gemm::PackedRhs::pack(MatRef::row_major(&[1i8, -1, 1], 3, 1)?)?;
        let mut y = [0.0];
        let gemm = i8gemm::Gemm::new(&weights, i8gemm::Output::f32(1.0))?;
        gemm.apply(lhs, i8gemm::MatMut::row_major(&mut y, 1, 1)?)?;
        assert!((y[0] - 2.5 * size).abs() <= 0.02 * size, "{size}: {}", y[0]);
    }
    let (mut values, mut scale, mut zero, mut sums) = ([9u8; 2], [0.0], [9], [9]);
    let x = MatRef::row_major(&[0.0f32, -0.0], 1, 2)?;
    DynamicQuantizer::per_tensor().quantize_into(x, &mut values, &mut scale, &mut zero, &mut sums)?;
    assert_eq!((values, scale, zero, sums), ([0; 2], [1.0], [0], [0]));
    Ok(())
}

/// The scheme and levels of the caller's choice reach the parameters.
#[test]
fn dynamic_symmetric_nibbles() -> Result<(), Error> {
    let x = [1.0f32, -7.0, 3.4];
    let mut buffers = DynamicBuffers::<i8>::default();
    let quantizer = DynamicQuantizer::per_row().scheme(Scheme::Symmetric).levels(Levels::signed(4)?.narrow());
    let weights = i8gemm::PackedRhs::pack(MatRef::row_major(&[1i8, 1, 1], 3, 1)?)?;
    let gemm = i8gemm::Gemm::new(&weights, i8gemm::Output::f32(1.0))?;
    let mut y = [0.0];
    let lhs = quantizer.quantize(MatRef::row_major(&x, 1, 3)?, &mut buffers)?;
    gemm.apply(lhs, i8gemm::MatMut::row_major(&mut y, 1, 1)?)?;
    assert_eq!(y, [1.0 - 7.0 + 3.0]);
    Ok(())
}

/// Row sums that come with dynamic activations stand in for those that the product would take.
#[test]
fn dynamic_feeds_products_with_zero_points() -> Result<(), Error> {
    let mut random = Random(11);
    let (m, k, n) = (37, 71, 19);
    let x: Vec<f32> = (0..m * k).map(|_| random.range(-1000, 1000) as f32 * 0.01).collect();
    let w: Vec<u8> = (0..k * n).map(|_| random.next() as u8).collect();
    let zeros: Vec<i32> = (0..n).map(|_| random.range(0, 255)).collect();
    let rhs = i8gemm::Rhs::new(MatRef::row_major(&w, k, n)?).zero_points(&zeros);
    for kernel in kernels() {
        let weights = i8gemm::PackedRhs::pack_for(kernel, rhs)?;
        let output = i8gemm::Output::f32(0.5);
        let (mut signed, mut unsigned) = (DynamicBuffers::<i8>::default(), DynamicBuffers::<u8>::default());
        let x = MatRef::row_major(&x, m, k)?;
        let (mut actual, mut expected) = (vec![0.0; m * n], vec![0.0; m * n]);
        let gemm = i8gemm::Gemm::new(&weights, output)?;
        let lhs = DynamicQuantizer::per_row().kernel(kernel).quantize(x, &mut signed)?;
        gemm.apply(lhs, i8gemm::MatMut::row_major(&mut actual, m, n)?)?;
        reference::gemm(lhs, rhs, &output, i8gemm::MatMut::row_major(&mut expected, m, n)?)?;
        assert_eq!(actual, expected, "{kernel}");
        let lhs = DynamicQuantizer::per_tensor().kernel(kernel).quantize(x, &mut unsigned)?;
        gemm.apply(lhs, i8gemm::MatMut::row_major(&mut actual, m, n)?)?;
        reference::gemm(lhs, rhs, &output, i8gemm::MatMut::row_major(&mut expected, m, n)?)?;
        assert_eq!(actual, expected, "{kernel}");
    }
    Ok(())
}

#[cfg(feature = "half")]
#[test]
fn halves_are_quantized_as_the_reals_they_are() {
    use half::{bf16, f16};
    let mut random = Random(13);
    let params = QParams { scale: 0.037, zero_point: -3 };
    for kernel in kernels() {
        for len in [0, 1, 5, 511, 512, 513, 1500] {
            let bits: Vec<u16> = (0..len).map(|_| random.next() as u16).collect();
            let (f16s, bf16s): (Vec<f16>, Vec<bf16>) =
                bits.iter().map(|&b| (f16::from_bits(b), bf16::from_bits(b))).unzip();
            for rounding in ROUNDINGS {
                let quantizer = Quantizer::<i8>::per_tensor(params).rounding(rounding).kernel(kernel);
                let expected = |x: f32, i| reference::quantize(x, params, Levels::I8, rounding, false, i);
                let actual = guarded::<i8>(len, |out| quantizer.quantize(&f16s, out).unwrap());
                assert!(
                    actual.iter().zip(&f16s).enumerate().all(|(i, (&q, x))| q == expected(x.to_f32(), i))
                );
                let actual = guarded::<i8>(len, |out| quantizer.quantize(&bf16s, out).unwrap());
                assert!(
                    actual.iter().zip(&bf16s).enumerate().all(|(i, (&q, x))| q == expected(x.to_f32(), i))
                );
            }
            if len == 1500 {
                let finite: Vec<f16> = bits.iter().map(|b| f16::from_bits(b & 0xbfff)).collect();
                let view = MatRef::row_major(&finite, 2, 750).unwrap();
                check_dynamic::<f16, u8>(DynamicQuantizer::per_row().kernel(kernel), true, view);
            }
        }
    }
}

#[test]
fn mistakes_are_errors_before_anything_is_written() {
    let good = QParams { scale: 1.0, zero_point: 0 };
    let mut out = [9i8; 3];
    let mut refused = |quantizer: Quantizer<i8>, x: &[f32]| {
        let error = quantizer.quantize(x, &mut out).unwrap_err();
        assert_eq!(out, [9; 3]);
        error
    };
    let x = [1.0, 2.0, 3.0];
    assert!(matches!(refused(Quantizer::per_tensor(good), &x[..2]), Error::Length { expected: 2, .. }));
    for scale in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let bad = QParams { scale, ..good };
        assert!(matches!(refused(Quantizer::per_tensor(bad), &x), Error::Scale { .. }));
    }
    let tiny = Quantizer::per_tensor(QParams { scale: 1e-40, ..good });
    assert!(matches!(refused(tiny.reciprocal(), &x), Error::Scale { .. }));
    let bad = QParams { zero_point: 128, ..good };
    assert!(matches!(refused(Quantizer::per_tensor(bad), &x), Error::ZeroPoint { value: 128, .. }));
    assert!(matches!(refused(Quantizer::per_tensor(good).levels(Levels::U8), &x), Error::Levels { .. }));
    let channels = Grouping::per_channel(&[3], 0).unwrap();
    assert!(matches!(
        refused(Quantizer::new(channels, &[1.0, 2.0], 0), &x),
        Error::Length { expected: 3, .. }
    ));
    let longer = Grouping::per_channel(&[4], 0).unwrap();
    assert!(matches!(refused(Quantizer::new(longer, 1.0, 0), &x), Error::Length { expected: 4, .. }));
    let sums = Requantizer::<i8>::new(Grouping::per_tensor(), 1.0, 0).from_zero_point(1);
    assert!(matches!(sums.requantize(&[1, 2, 3], &mut out), Err(Error::ZeroPoint { value: 1, .. })));
    assert!(matches!(Levels::signed(9), Err(Error::Bits { bits: 9 })));
    assert!(matches!(Levels::unsigned(1), Err(Error::Bits { bits: 1 })));
}
