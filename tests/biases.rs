//! Biases of static layers beside weights of 0: what is left of a channel that was pruned, and of a layer behind an activation that
//! is always 0, is its bias, and no quantization of weights or inputs may cost it anything.

mod common;

use common::kernels;
use i8gemm::{
    Error, MatMut, MatRef, Operand, OutputElement,
    nn::{
        Activation, Conv2d, DepthwiseConv2d, Filters, Images, Layer, Network, NetworkConfig, Nhwc, Node,
        StaticConfig, StaticLinear, Weights, Window,
    },
    quant::{MinMax, QParams},
};

const SCALES: [f32; 7] = [0.01, 0.1, 0.5, 1.0, 3.0, 20.0, 100.0];

/// One weight for each channel: none, too small for a scale, too small for f32 sums, and one that counts.
const WEIGHTS: [f32; 5] = [0.0, 1e-40, 1e-37, 1.0, -0.0];
const BIAS: [f32; 5] = [0.3, -0.7, 0.1234, 0.55, 1.2345e-3];

/// What the layers give for inputs of 0: the biases.
fn outputs<A: Operand, T: OutputElement + Default>(
    config: StaticConfig<T>,
    zero: A,
) -> Result<[(&'static str, [T; 5]); 3], Error> {
    let mut all = ["StaticLinear", "Conv2d", "DepthwiseConv2d"].map(|layer| (layer, [T::default(); 5]));
    let [(_, y), (_, z), (_, depthwise)] = &mut all;
    let linear = StaticLinear::<A, T>::new(MatRef::row_major(&WEIGHTS, 5, 1)?, Some(&BIAS), config)?;
    let x = [zero];
    let (x, out) = (MatRef::row_major(&x, 1, 1)?, MatMut::row_major(y, 1, 5)?);
    linear.apply(x, out)?;
    let pixel = Window::new(1, 1);
    let (one, five) = (Nhwc::new(1, 1, 1, 1), Nhwc::new(1, 1, 1, 5));
    let conv = Conv2d::<A, T>::new(Filters::new(1, 5, pixel), &WEIGHTS, Some(&BIAS), config)?;
    conv.apply(Images::new(&[zero], one)?, z)?;
    let conv = DepthwiseConv2d::<A, T>::new(Filters::depthwise(5, pixel), &WEIGHTS, Some(&BIAS), config)?;
    conv.apply(Images::new(&[zero; 5], five)?, depthwise)?;
    Ok(all)
}

/// The ways to quantize, which all have to do it.
fn ways<T: Copy>(config: StaticConfig<'static, T>) -> [(&'static str, StaticConfig<'static, T>); 4] {
    [
        ("per channel", config),
        ("per tensor", config.per_tensor_weights()),
        // So coarse that no weight is anything.
        ("scales that are given", config.weight_scales(&[1e3; 5])),
        ("f32 biases", config.float_bias()),
    ]
}

fn check_bytes<A: Operand, T: Operand + OutputElement + Default>(input: QParams, output: QParams, zero: A) {
    for kernel in kernels() {
        for (how, config) in ways(StaticConfig::<T>::new(input, output).kernel(kernel)) {
            for (layer, y) in outputs(config, zero).unwrap() {
                for (y, b) in y.iter().zip(BIAS) {
                    let off = (output.dequantize(*y) - b).abs();
                    // Rounding of the output, and 1/32 of a step of it.
                    assert!(
                        off <= (0.5 + 1.0 / 32.0 + 1e-4) * output.scale,
                        "{layer}, {how}, {kernel}, input scale {}: {} for {b}",
                        input.scale,
                        output.dequantize(*y)
                    );
                }
            }
        }
    }
}

#[test]
fn bytes_keep_biases_of_pruned_channels() {
    for scale in SCALES {
        for output in [0.01, 0.3] {
            let signed = QParams { scale: output, zero_point: -3 };
            let unsigned = QParams { scale: output, zero_point: 128 };
            check_bytes::<u8, u8>(QParams { scale, zero_point: 7 }, unsigned, 7);
            check_bytes::<i8, i8>(QParams { scale, zero_point: -7 }, signed, -7);
            check_bytes::<u8, i8>(QParams { scale, zero_point: 0 }, signed, 0);
        }
    }
}

/// f32 keeps the biases of pruned channels to the bit, and those of others to 2^-12 of the largest.
#[test]
fn f32_keeps_biases_of_pruned_channels() {
    for scale in SCALES {
        for kernel in kernels() {
            let config = StaticConfig::<f32>::real(QParams { scale, zero_point: 7 }).kernel(kernel);
            for (how, config) in ways(config) {
                for (layer, y) in outputs(config, 7u8).unwrap() {
                    for (channel, (y, b)) in y.iter().zip(BIAS).enumerate() {
                        let pruned = channel != 3 && how != "per tensor";
                        let most = if pruned { 0.0 } else { 0.7 / 4096.0 };
                        assert!((y - b).abs() <= most, "{layer}, {how}, {kernel}, {scale}: {y} for {b}");
                    }
                }
            }
        }
    }
}

/// Biases at the ends of f32, alone in a layer of zeros.
#[test]
fn biases_of_any_magnitude() -> Result<(), Error> {
    for bias in [1e-45f32, 1e-38, 3e-32, 1e-20, -1e20, f32::MAX] {
        for kernel in kernels() {
            let config = StaticConfig::real(QParams { scale: 1.0, zero_point: 0 }).kernel(kernel);
            let zeros = MatRef::row_major(&[0.0, 0.0], 1, 2)?;
            let linear = StaticLinear::<u8, f32>::new(zeros, Some(&[bias]), config)?;
            let mut y = [0.0];
            let x = MatRef::row_major(&[255, 1], 1, 2)?;
            linear.apply(x, MatMut::row_major(&mut y, 1, 1)?)?;
            // Scales stay normal.
            assert!((y[0] - bias).abs() < f32::MIN_POSITIVE, "{kernel}: {} for {bias:e}", y[0]);
        }
    }
    Ok(())
}

/// Sums are in units of input scale * weight scale, and weights of 0 have scale 1: so are biases.
#[test]
fn sums_of_pruned_channels_are_in_units_of_the_input() -> Result<(), Error> {
    let bias = [0.3, 0.6, 7.0];
    let config = StaticConfig::<i32>::sums(QParams { scale: 2.0, zero_point: 0 });
    let linear = StaticLinear::<u8, i32>::new(MatRef::row_major(&[0.0; 3], 3, 1)?, Some(&bias), config)?;
    let mut y = [9; 3];
    let x = MatRef::row_major(&[200], 1, 1)?;
    linear.apply(x, MatMut::row_major(&mut y, 1, 3)?)?;
    assert_eq!(y, [0, 0, 4]);
    Ok(())
}

/// What a network of two outputs gives for inputs that it was calibrated with, on every kernel: off by so much at most.
fn check_network(network: &Network, x: &[f32], most: [f32; 2]) -> Result<(), Error> {
    let exact = network.forward(x)?;
    for kernel in kernels() {
        for per_tensor in [false, true] {
            let config = NetworkConfig::default().kernel(kernel);
            let config = if per_tensor { config.per_tensor_weights() } else { config };
            let mut calibration = network.calibrate(&MinMax::new())?;
            calibration.observe(x)?;
            let quantized = calibration.convert(config)?;
            let mut y = vec![f32::NAN; exact.len()];
            quantized.apply(x, &mut y)?;
            for ((y, exact), most) in y.iter().zip(&exact).zip(most.iter().cycle()) {
                assert!((y - exact).abs() <= *most, "{kernel}, per tensor: {per_tensor}: {y}, not {exact}");
            }
        }
    }
    Ok(())
}

/// An activation that is always 0 has a scale that says nothing; the layer behind it gives its biases.
#[test]
fn networks_behind_a_dead_activation() -> Result<(), Error> {
    let (weights, bias) = ([1.0, 0.7], [0.3, -0.1234]);
    let mut last = Network::new(1, 1, 1)?;
    let dead = last.linear(Node::INPUT, 1, Weights::new(&[-1.0]), Activation::Relu)?;
    last.linear(dead, 2, Weights::new(&weights).bias(&bias), Activation::None)?;
    check_network(&last, &[1.0, 0.5], [0.3 / 4096.0; 2])?;

    // Bytes in between: 0.4234 / 255 wide, and rounded once more in the last layer.
    let mut between = Network::new(1, 1, 1)?;
    let dead = between.linear(Node::INPUT, 1, Weights::new(&[-1.0]), Activation::Relu)?;
    let biased = between.conv2d(
        dead,
        Filters::new(1, 2, Window::new(1, 1)),
        Weights::new(&weights).bias(&bias),
        Activation::None,
    )?;
    between.linear(biased, 2, Weights::new(&[1.0, 0.0, 0.0, 1.0]), Activation::None)?;
    check_network(&between, &[1.0, 0.5], [0.6 * 0.4234 / 255.0; 2])
}

/// Inputs to 100 make for coarse steps of the sums; a channel without weights has none of them.
#[test]
fn networks_with_pruned_channels() -> Result<(), Error> {
    let mut network = Network::new(1, 1, 1)?;
    network.linear(Node::INPUT, 2, Weights::new(&[1.0, 0.0]).bias(&[0.3, 0.3]), Activation::None)?;
    check_network(&network, &[0.0, 100.0], [0.3 / 4096.0 + 1e-4, 0.3 / 4096.0])
}
