//! Static layers: every kernel against the scalar definition, bit for bit; PyTorch's answers; every mistake.

mod answers;
mod common;
mod layers {
    pub mod pytorch;
}

use answers::cases;
use common::{FILLS, Random, bytes, keeps_f32, kernels};
use i8gemm::{
    Error, Kernel, Lhs, MatMut, MatRef, Operand, Output, OutputElement, Rhs,
    nn::{
        Add, AveragePool, Conv2d, DepthwiseConv2d, Filters, Images, Layer, MaxPool, Nhwc, StaticConfig,
        StaticLinear, Window,
    },
    quant::{Levels, QParams, Rounding},
    reference,
};
use serde::Deserialize;

fn params<T: Operand>(random: &mut Random) -> QParams {
    QParams { scale: random.scale(), zero_point: random.range(T::MIN, T::MAX) }
}

/// Fewer cases where an emulator runs them.
fn count() -> usize {
    if std::env::var_os("I8GEMM_KERNEL").is_some() || cfg!(not(target_arch = "x86_64")) { 20 } else { 100 }
}

fn check_add<A: Operand, T: Operand + OutputElement + PartialEq + std::fmt::Debug>(
    kernel: Kernel,
    seed: u64,
    with_relu: fn(StaticConfig<'static, T>) -> StaticConfig<'static, T>,
) {
    let mut random = Random(seed);
    // Two steps of a vector of 16 lanes at a time, single vectors, and what is left.
    let len = random.below(160);
    let fill = FILLS[random.below(FILLS.len())];
    let [a, b]: [Vec<A>; 2] = [bytes(&mut random, fill, len), bytes(&mut random, FILLS[0], len)];
    let inputs = [params::<A>(&mut random), params::<A>(&mut random)];
    // Of a size at which sums use the whole range.
    let output = QParams { scale: inputs[0].scale * random.scale() * 4.0, ..params::<T>(&mut random) };
    let relu = random.below(2) == 0;
    let config = StaticConfig::<T>::new(inputs[0], output).kernel(kernel);
    let add = Add::<A, T>::new(inputs[1], if relu { with_relu(config) } else { config }).unwrap();
    let mut actual = vec![T::from_i32(99); len];
    add.forward(&a, &b, &mut actual).unwrap();
    let low = if relu { output.zero_point } else { T::MIN };
    for i in 0..len {
        let values = [a[i].widen(), b[i].widen()];
        let expected = T::from_i32(reference::add(values, inputs, output, Levels::of::<T>()).max(low));
        assert_eq!(actual[i], expected, "{kernel}: {values:?} {inputs:?} {output:?}, value {i} of {len}");
    }
}

#[test]
fn sums_on_every_kernel() {
    let mut random = Random(31);
    for _ in 0..count() {
        let seed = random.next();
        for kernel in kernels() {
            check_add::<u8, u8>(kernel, seed, StaticConfig::relu);
            check_add::<i8, i8>(kernel, seed, StaticConfig::relu);
            check_add::<u8, i8>(kernel, seed, StaticConfig::relu);
            check_add::<i8, u8>(kernel, seed, StaticConfig::relu);
        }
    }
}

/// What no sum of finite scales should meet, but may: infinities of both signs.
#[test]
fn sums_beyond_f32() {
    let wide = QParams { scale: 3e38, zero_point: 128 };
    for kernel in kernels() {
        let config = StaticConfig::<u8>::new(wide, QParams { scale: 1.0, zero_point: 7 }).kernel(kernel);
        let add = Add::<u8, u8>::new(wide, config).unwrap();
        let mut y = [0; 3];
        add.forward(&[255, 0, 255], &[0, 0, 255], &mut y).unwrap();
        assert_eq!(y, [7, 0, 255], "{kernel}");
    }
}

fn check_pools<A: Operand + OutputElement + PartialEq + std::fmt::Debug>(kernel: Kernel, seed: u64) {
    let mut random = Random(seed);
    let mut pair = |n: usize, min: usize| [random.below(n) + min, random.below(n) + min];
    let ([kh, kw], [sh, sw], [dh, dw]) = (pair(4, 1), pair(3, 1), pair(2, 1));
    let ([top, left], [height, width]) = (pair(2, 0), pair(8, 1));
    let window = Window::new(kh, kw).stride(sh, sw).dilation(dh, dw).padding(top, left);
    let shape = Nhwc::new(1 + random.below(2), height, width, 1 + random.below(70));
    let fill = FILLS[random.below(FILLS.len())];
    let x: Vec<A> = bytes(&mut random, fill, shape.elements().unwrap());
    let input = params::<A>(&mut random);
    let output =
        QParams { scale: input.scale * (0.5 + random.below(8) as f32 / 8.0), ..params::<A>(&mut random) };
    let config = StaticConfig::<A>::new(input, output).kernel(kernel);
    let include = random.below(2) == 0;
    let pool = AveragePool::<A, A>::new(window, config).unwrap();
    let pool = if include { pool } else { pool.exclude_padding() };
    let Ok(out) = pool.output_shape(shape) else {
        assert!(MaxPool::<A>::new(window).unwrap().output_shape(shape).is_err());
        return;
    };
    let len = out.elements().unwrap();
    let blank = vec![A::from_i32(99); len];
    let (mut expected, mut actual) = (blank.clone(), blank.clone());
    reference::average_pool(&x, shape, &window, include, [input, output], &mut expected).unwrap();
    let mut scratch = vec![0xA5; pool.workspace_size(shape).unwrap()];
    assert_eq!(pool.forward(Images::new(&x, shape).unwrap(), &mut actual, &mut scratch).unwrap(), out);
    assert_eq!(actual, expected, "{kernel}: {window:?} of {shape:?}, {input:?}, {output:?}, {include}");

    let (mut expected, mut actual) = (blank.clone(), blank);
    reference::max_pool(&x, shape, &window, &mut expected).unwrap();
    assert_eq!(
        MaxPool::new(window).unwrap().forward(Images::new(&x, shape).unwrap(), &mut actual, &mut []).unwrap(),
        out
    );
    assert_eq!(actual, expected, "{window:?} of {shape:?}");

    let whole = Window::new(height, width);
    let (mut expected, mut actual) = (
        vec![A::from_i32(1); shape.batch * shape.channels],
        vec![A::from_i32(2); shape.batch * shape.channels],
    );
    reference::average_pool(&x, shape, &whole, true, [input, output], &mut expected).unwrap();
    let global = AveragePool::<A, A>::global(config).unwrap();
    global.forward(Images::new(&x, shape).unwrap(), &mut actual, &mut scratch).unwrap();
    assert_eq!(actual, expected, "{kernel}: all of {shape:?}, {input:?}, {output:?}");
}

#[test]
fn pools_on_every_kernel() {
    let mut random = Random(5);
    for _ in 0..count() {
        let seed = random.next();
        for kernel in kernels() {
            check_pools::<u8>(kernel, seed);
            check_pools::<i8>(kernel, seed);
        }
    }
}

fn check_linear<A: Operand, T: OutputElement + PartialEq + std::fmt::Debug>(
    kernel: Kernel,
    seed: u64,
    config: impl Fn(QParams) -> StaticConfig<'static, T>,
    // With an f32 bias, if there is one.
    output: impl for<'a> Fn(&'a [f32], Option<&'a [f32]>) -> Output<'a, T>,
    output_scale: Option<f32>,
) {
    let mut random = Random(seed);
    let (m, k, n) = (1 + random.below(5), 1 + random.below(70), 1 + random.below(40));
    let fill = FILLS[random.below(FILLS.len())];
    let x: Vec<A> = bytes(&mut random, fill, m * k);
    // None is 0: tests/biases.rs has channels without weights.
    let w: Vec<f32> = (0..n * k).map(|_| random.range(-1000, 1000) as f32 * 1e-3 + 1e-4).collect();
    let bias: Vec<f32> = (0..n).map(|_| random.range(-1000, 1000) as f32 * 1e-3).collect();
    let input = QParams { scale: 0.02, zero_point: random.range(A::MIN, A::MAX) };
    let levels = Levels::signed([8, 4, 2][random.below(3)]).unwrap();
    let linear = StaticLinear::<A, T>::new(
        MatRef::row_major(&w, n, k).unwrap(),
        Some(&bias),
        config(input).levels(levels).kernel(kernel),
    )
    .unwrap();

    // By hand: symmetric narrow weights of each channel, i32 biases where their steps are fine enough.
    let narrow = levels.narrow();
    let scales: Vec<f32> = w
        .chunks(k)
        .map(|row| {
            let most = row.iter().fold(0.0f32, |most, w| most.max(w.abs()));
            most / narrow.max() as f32
        })
        .collect();
    let quantized: Vec<i8> = w
        .iter()
        .enumerate()
        .map(|(i, &w)| {
            let params = QParams { scale: scales[i / k], zero_point: 0 };
            reference::quantize(w, params, narrow, Rounding::HalfEven, false, 0) as i8
        })
        .collect();
    let sums: Vec<f32> = scales.iter().map(|s| input.scale * s).collect();
    let steps: Vec<i32> =
        (0..n).map(|i| (f64::from(bias[i]) / f64::from(sums[i])).round_ties_even() as i32).collect();
    let scale = output_scale.unwrap_or(1.0);
    let combined: Vec<f32> = sums.iter().map(|s| s / scale).collect();
    let real: Vec<f32> = bias.iter().map(|&b| (f64::from(b) / f64::from(scale)) as f32).collect();
    let (mut expected, mut actual) = (vec![T::from_i32(1); m * n], vec![T::from_i32(2); m * n]);
    let mut run = |linear: &StaticLinear<A, T>, float: bool| {
        let output =
            if float { output(&combined, Some(&real)) } else { output(&combined, None).bias(&steps) };
        reference::gemm(
            Lhs::new(MatRef::row_major(&x, m, k).unwrap()).zero_point(input.zero_point),
            Rhs::new(MatRef::col_major(&quantized, k, n).unwrap()),
            &output,
            MatMut::row_major(&mut expected, m, n).unwrap(),
        )
        .unwrap();
        let mut scratch = vec![0xA5; linear.workspace_size(m).unwrap()];
        let out = MatMut::row_major(&mut actual, m, n).unwrap();
        linear.forward(MatRef::row_major(&x, m, k).unwrap(), out, &mut scratch).unwrap();
        assert_eq!(actual, expected, "{kernel}: {m} x {k} x {n}, {levels:?}");
        actual.fill(T::from_i32(3));
    };
    run(&linear, keeps_f32(&bias, &sums, output_scale));
    let weights = MatRef::row_major(&quantized, n, k).unwrap();
    let config = config(input).kernel(kernel);
    run(&StaticLinear::from_quantized(weights, &scales, Some(&steps), config).unwrap(), false);
}

#[test]
fn linear_on_every_kernel() {
    let mut random = Random(88);
    for _ in 0..count() / 4 {
        let seed = random.next();
        let (scale, zero) = (random.scale(), random.range(0, 127));
        let y = QParams { scale, zero_point: zero };
        for kernel in kernels() {
            check_linear::<u8, u8>(
                kernel,
                seed,
                |x| StaticConfig::new(x, y).relu(),
                |s, bias| {
                    let output = Output::<u8>::requantize(s, zero).clamp(zero, 255);
                    bias.map_or(output, |bias| output.bias_f32(bias))
                },
                Some(scale),
            );
            check_linear::<i8, i8>(
                kernel,
                seed,
                |x| StaticConfig::new(x, y),
                |s, bias| {
                    let output = Output::requantize(s, zero);
                    bias.map_or(output, |bias| output.bias_f32(bias))
                },
                Some(scale),
            );
            check_linear::<u8, f32>(
                kernel,
                seed,
                StaticConfig::real,
                |s, bias| bias.map_or(Output::f32(s), |bias| Output::f32(s).bias_f32(bias)),
                None,
            );
        }
    }
}

#[test]
fn mistakes_are_errors() {
    let unit = QParams { scale: 1.0, zero_point: 0 };
    let config = StaticConfig::<u8>::new(unit, unit);
    let bad = |scale| QParams { scale, zero_point: 0 };
    assert!(matches!(Add::<u8, u8>::new(bad(f32::NAN), config), Err(Error::Scale { .. })));
    assert!(matches!(
        Add::<u8, u8>::new(QParams { scale: 1.0, zero_point: -1 }, config),
        Err(Error::ZeroPoint { what: "second input's zero point", value: -1, .. })
    ));
    let tiny = StaticConfig::<u8>::new(unit, bad(1e-39));
    assert!(matches!(Add::<u8, u8>::new(bad(3e38), tiny), Err(Error::Scale { .. })));
    let add = Add::<u8, u8>::new(unit, config).unwrap();
    let mut y = [7u8; 2];
    assert!(matches!(add.forward(&[1, 2], &[1], &mut y), Err(Error::Length { what: "second input", .. })));
    assert!(matches!(add.forward(&[1], &[1], &mut y), Err(Error::Length { what: "sums", .. })));
    assert_eq!(y, [7, 7]);

    let image = Nhwc::new(1, 2, 2, 1);
    // A column of padding is all that the first place sees.
    let padded = Window::new(1, 1).padding(0, 1);
    let empty = Error::EmptyWindow { what: "columns", pixels: 2 };
    assert_eq!(MaxPool::<u8>::new(padded).unwrap().output_shape(image), Err(empty));
    // Taps on both sides of the image.
    let around = Window::new(2, 1).dilation(3, 1).padding(1, 0);
    assert_eq!(
        AveragePool::<u8, u8>::new(around, config).unwrap().output_shape(Nhwc::new(1, 1, 2, 1)),
        Err(Error::Window { what: "rows", extent: 4, padded: 3 })
    );
    let around = around.padding(2, 0);
    assert!(matches!(
        AveragePool::<u8, u8>::new(around, config).unwrap().output_shape(Nhwc::new(1, 1, 2, 1)),
        Err(Error::EmptyWindow { what: "rows", .. })
    ));
    assert!(matches!(MaxPool::<u8>::new(Window::new(0, 1)), Err(Error::Zero { .. })));
    let huge = Window::new(1 << 12, 1 << 12);
    let error = AveragePool::<u8, u8>::new(huge, config).unwrap_err();
    assert_eq!(error, Error::WindowTooLarge { rows: 1 << 12, cols: 1 << 12, max: 8_421_504 });
    assert_eq!(
        error.to_string(),
        "an average over 4096 x 4096 pixels could overflow its i32 sum: at most 8421504 pixels are safe"
    );
    // The largest is no sum.
    let (padded, mut y) = (huge.padding_each([2048, 2047], [2048, 2047]), [0u8; 4]);
    assert_eq!(
        MaxPool::new(padded).unwrap().forward(Images::new(&[9, 2, 3, 4], image).unwrap(), &mut y, &mut []),
        Ok(image)
    );
    assert_eq!(y, [9; 4]);
    let global = AveragePool::<u8, u8>::global(config).unwrap();
    assert!(matches!(global.output_shape(Nhwc::new(1, 0, 2, 1)), Err(Error::Zero { .. })));
    let mut y = [7u8; 1];
    let small = global.forward(Images::new(&[1; 4], image).unwrap(), &mut y, &mut []);
    assert!(matches!(small, Err(Error::BufferTooSmall { .. })));
    assert!(matches!(Images::new(&[1; 3], image), Err(Error::Shape { .. })));
    assert_eq!(y, [7]);

    let weights = MatRef::row_major(&[1.0f32, 2.0], 1, 2).unwrap();
    let linear =
        |bias: Option<&[f32]>, config| StaticLinear::<u8, u8>::new(weights, bias, config).map(|_| ());
    assert!(matches!(linear(Some(&[f32::NAN]), config), Err(Error::Bias { .. })));
    assert!(matches!(linear(Some(&[0.0; 2]), config), Err(Error::Length { .. })));
    assert!(matches!(linear(None, config.weight_scales(-1.0)), Err(Error::Scale { .. })));
    let nan = MatRef::row_major(&[1.0, f32::NAN], 1, 2).unwrap();
    let error = StaticLinear::<u8, u8>::new(nan, None, config).unwrap_err();
    assert!(matches!(error, Error::NonFinite { what: "weight", index: 1, .. }));
    let layer = StaticLinear::<u8, u8>::new(weights, None, config).unwrap();
    let x = MatRef::row_major(&[1u8, 2, 3], 1, 3).unwrap();
    let out = MatMut::row_major(&mut y, 1, 1).unwrap();
    assert!(matches!(layer.forward(x, out, &mut [0; 4096]), Err(Error::Shape { .. })));
    assert_eq!(y, [7]);
}

/// Channels that pruning or a folded normalization left next to nothing still have their bias.
#[test]
fn a_bias_beside_tiny_weights() -> Result<(), Error> {
    let (input, output) =
        (QParams { scale: 1.0 / 255.0, zero_point: 0 }, QParams { scale: 0.02, zero_point: 0 });
    let weights = [1e-6, 0.0, 0.5, -0.25];
    let (bias, x) = ([3.0, 0.5], [255u8, 255]);
    let config = StaticConfig::<u8>::new(input, output).relu();
    let layer = StaticLinear::<u8, u8>::new(MatRef::row_major(&weights, 2, 2)?, Some(&bias), config)?;
    let mut y = [0; 2];
    let mut scratch = layer.workspace(1)?;
    layer.forward(MatRef::row_major(&x, 1, 2)?, MatMut::row_major(&mut y, 1, 2)?, &mut scratch)?;
    // 3.0 is 150 steps; 0.5 + 0.5 - 0.25 is 37.5, less what rounding takes from -0.25 of +-0.5.
    assert_eq!(y, [150, 37]);
    // Sums are integers: there is no other place for the bias.
    let sums = StaticConfig::<i32>::sums(input);
    let layer = StaticLinear::<u8, i32>::new(MatRef::row_major(&weights, 2, 2)?, Some(&bias), sums);
    let error = layer.unwrap_err();
    assert_eq!(error, Error::Bias { index: 0, value: 3.0 });
    assert_eq!(error.to_string(), "bias 3 at index 0 could leave i32 together with the sums it is added to");
    Ok(())
}

/// A quantized bias is refused as soon as one input could make its sum leave i32, and not before: the sum is then that of the
/// reference, at both ends of i32.
#[test]
fn quantized_biases_beside_their_sums() -> Result<(), Error> {
    fn check<A: Operand>(kernel: Kernel, weights: &[i8], zero_point: i32) -> Result<(), Error> {
        let k = weights.len();
        let at = |most: bool| -> Vec<A> {
            // The input that makes the sum largest, or smallest.
            let end = |w: i8| if (w > 0) == most { A::MAX } else { A::MIN };
            weights.iter().map(|&w| bytemuck::cast(end(w) as u8)).collect()
        };
        let sum = |x: &[A]| -> i64 {
            let products =
                x.iter().zip(weights).map(|(x, &w)| i64::from(x.widen() - zero_point) * i64::from(w));
            products.sum()
        };
        let (most, least) = (at(true), at(false));
        let config = StaticConfig::<i32>::sums(QParams { scale: 1.0, zero_point }).kernel(kernel);
        let linear = |bias: i64| {
            let matrix = MatRef::row_major(weights, 1, k)?;
            let bias = [i32::try_from(bias).unwrap()];
            StaticLinear::<A, i32>::from_quantized(matrix, 1.0, Some(&bias), config)
        };
        let one_channel = |bias: i64| {
            // Pixels that are rows, one beside the other.
            let filters = Filters::new(1, 1, Window::new(1, k));
            let bias = [i32::try_from(bias).unwrap()];
            let conv = Conv2d::<A, i32>::from_quantized(filters, weights, 1.0, Some(&bias), config);
            let depthwise =
                DepthwiseConv2d::<A, i32>::from_quantized(filters, weights, 1.0, Some(&bias), config);
            assert_eq!(conv.as_ref().err(), depthwise.as_ref().err());
            Ok((conv?, depthwise?))
        };
        for (x, bias, beyond) in [(most, i64::from(i32::MAX), 1i64), (least, i64::from(i32::MIN), -1)] {
            let (end, bias) = (bias, bias - sum(&x));
            if i32::try_from(bias + beyond).is_ok() {
                let refused = Error::Bias { index: 0, value: (bias + beyond) as f64 };
                assert_eq!(linear(bias + beyond).err(), Some(refused), "{kernel}: {k}, {zero_point}");
                assert_eq!(one_channel(bias + beyond).err(), Some(refused), "{kernel}: {k}, {zero_point}");
            }
            let mut y = [0; 1];
            let layer = linear(bias)?;
            let (x, mut scratch) = (MatRef::row_major(&x, 1, k)?, layer.workspace(1)?);
            layer.forward(x, MatMut::row_major(&mut y, 1, 1)?, &mut scratch)?;
            assert_eq!(i64::from(y[0]), end, "{kernel}: {k}, {zero_point}");
            let (conv, depthwise) = one_channel(bias)?;
            let (image, x) = (Nhwc::new(1, 1, k, 1), x.row_slice(0).unwrap());
            conv.apply(Images::new(x, image)?, &mut y)?;
            assert_eq!(i64::from(y[0]), end, "{kernel}: {k}, {zero_point}");
            depthwise.apply(Images::new(x, image)?, &mut y)?;
            assert_eq!(i64::from(y[0]), end, "{kernel}: {k}, {zero_point}");
        }
        Ok(())
    }
    let mut random = Random(47);
    for kernel in kernels() {
        for k in [1, 2, 9, 70, 1000] {
            for fill in FILLS {
                let weights: Vec<i8> = bytes(&mut random, fill, k);
                check::<i8>(kernel, &weights, random.range(-128, 127))?;
                check::<u8>(kernel, &weights, random.range(0, 255))?;
            }
        }
    }
    Ok(())
}

/// The channel at fault is named, also where channels are put in another order, and nothing wraps in an 8-bit output either.
#[test]
fn a_quantized_bias_that_leaves_i32_is_named() -> Result<(), Error> {
    let unit = QParams { scale: 1.0, zero_point: 0 };
    let config = StaticConfig::<i8>::new(unit, unit);
    let (weights, bias) = ([1i8; 6], [0, 1 << 30, 0, 0, i32::MAX - 254, -i32::MAX]);
    let error = Error::Bias { index: 4, value: f64::from(i32::MAX - 254) };
    assert_eq!(
        error.to_string(),
        "bias 2147483393 at index 4 could leave i32 together with the sums it is added to"
    );
    let matrix = MatRef::row_major(&weights, 6, 1)?;
    assert_eq!(StaticLinear::<u8, i8>::from_quantized(matrix, 1.0, Some(&bias), config).err(), Some(error));
    let dense = Filters::new(2, 6, Window::new(1, 1)).groups(2);
    assert_eq!(
        Conv2d::<u8, i8>::from_quantized(dense, &weights, 1.0, Some(&bias), config).err(),
        Some(error)
    );
    let twice = Filters::new(3, 6, Window::new(1, 1)).groups(3);
    let layer = DepthwiseConv2d::<u8, i8>::from_quantized(twice, &weights, 1.0, Some(&bias), config);
    assert_eq!(layer.err(), Some(error));
    Ok(())
}
