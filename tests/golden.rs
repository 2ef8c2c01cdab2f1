//! Answers of other implementations, read from `tests/golden/` when the tests run: other files of the same form may be put
//! in their place.

mod answers;
mod common;

use answers::cases;
use common::kernels;
use i8gemm::{
    Error, FixedPoint, FixedRounding, Gemm, Lhs, MatMut, MatRef, Operand, Output, OutputElement, PackedRhs,
    Rhs,
    nn::{Conv2d, DepthwiseConv2d, Filters, Images, Layer, Nhwc, StaticConfig, Window},
    quant::{Levels, QParams},
    reference,
};
use serde::Deserialize;

/// A number, or one for each column.
#[derive(Deserialize, Clone)]
#[serde(untagged)]
enum OneOrEach<T> {
    One(T),
    Each(Vec<T>),
}

impl<T: Copy> OneOrEach<T> {
    fn values(&self, n: usize) -> Vec<T> {
        match self {
            Self::One(value) => vec![*value; n],
            // A list of one is a number for all, as in ONNX.
            Self::Each(values) if values.len() == 1 => vec![values[0]; n],
            Self::Each(values) => values.clone(),
        }
    }
}

#[derive(Deserialize)]
struct MatMul {
    m: usize,
    k: usize,
    n: usize,
    lhs: String,
    rhs: String,
    a: Vec<i32>,
    b: Vec<i32>,
    a_zero: i32,
    b_zero: OneOrEach<i32>,
    a_scale: f32,
    b_scale: OneOrEach<f32>,
    y_scale: f32,
    y_zero: i32,
    matmul_integer: Vec<i32>,
    qlinear_matmul: Vec<i32>,
}

/// The values as elements of type `T`, which must hold them.
fn elements<T: Operand>(values: &[i32]) -> Vec<T> {
    let element = |&value: &i32| -> T {
        assert!((T::MIN..=T::MAX).contains(&value), "{value} is not of the case's type");
        bytemuck::cast(value as u8)
    };
    values.iter().map(element).collect()
}

fn check_matmul<A: Operand + OutputElement, B: Operand>(case: &MatMul) {
    let &MatMul { m, k, n, .. } = case;
    let (a, b) = (elements::<A>(&case.a), elements::<B>(&case.b));
    let (rhs_zero, rhs_scale) = (case.b_zero.values(n), case.b_scale.values(n));
    let scales: Vec<f32> = rhs_scale.iter().map(|s| case.a_scale * s / case.y_scale).collect();
    let lhs = Lhs::new(MatRef::row_major(&a, m, k).unwrap()).zero_point(case.a_zero);
    let rhs = Rhs::new(MatRef::row_major(&b, k, n).unwrap()).zero_points(&rhs_zero);
    let requantize = Output::<A>::requantize(&scales, case.y_zero);

    let mut sums = vec![0; m * n];
    let mut bytes = vec![A::from_i32(0); m * n];
    let check = |sums: &[i32], bytes: &[A], by: &str| {
        assert_eq!(sums, case.matmul_integer, "{by}: {m}x{k}x{n}");
        let bytes: Vec<i32> = bytes.iter().map(|y| y.to_i32()).collect();
        assert_eq!(bytes, case.qlinear_matmul, "{by}: {m}x{k}x{n}");
    };
    reference::gemm(lhs, rhs, &Output::i32(), MatMut::row_major(&mut sums, m, n).unwrap()).unwrap();
    reference::gemm(lhs, rhs, &requantize, MatMut::row_major(&mut bytes, m, n).unwrap()).unwrap();
    check(&sums, &bytes, "reference");
    for kernel in kernels() {
        let weights = PackedRhs::pack_for(kernel, rhs).unwrap();
        let gemm = Gemm::new(&weights, Output::i32()).unwrap();
        gemm.apply(lhs, MatMut::row_major(&mut sums, m, n).unwrap()).unwrap();
        let gemm = Gemm::new(&weights, requantize).unwrap();
        gemm.apply(lhs, MatMut::row_major(&mut bytes, m, n).unwrap()).unwrap();
        check(&sums, &bytes, kernel.name());
    }
}

#[test]
fn golden_onnx_matmul() {
    for case in cases::<MatMul>("onnx_matmul.json") {
        match (&*case.lhs, &*case.rhs) {
            ("i8", "i8") => check_matmul::<i8, i8>(&case),
            ("u8", "i8") => check_matmul::<u8, i8>(&case),
            ("i8", "u8") => check_matmul::<i8, u8>(&case),
            ("u8", "u8") => check_matmul::<u8, u8>(&case),
            types => panic!("unknown types {types:?}"),
        }
    }
}

#[derive(Deserialize)]
struct Requantize {
    scale: f64,
    multiplier: i32,
    shift: i32,
    x: Vec<i32>,
    double_rounding: Vec<i32>,
    single_rounding: Vec<i32>,
}

#[test]
fn golden_requant_fixed_point() {
    for case in cases::<Requantize>("requant_fixed_point.json") {
        let scale = FixedPoint::from_scale(case.scale).unwrap();
        assert_eq!(
            (scale.multiplier(), scale.shift()),
            (case.multiplier, case.shift),
            "scale {}",
            case.scale
        );
        for (i, &x) in case.x.iter().enumerate() {
            assert_eq!(reference::double_rounding(x, scale), case.double_rounding[i], "double, x = {x}");
            assert_eq!(reference::single_rounding(x, scale), case.single_rounding[i], "single, x = {x}");
        }
        check_kernels(&case, scale, FixedRounding::Double, &case.double_rounding);
        check_kernels(&case, scale, FixedRounding::Single, &case.single_rounding);
    }
}

/// The epilogues of the kernels on exactly these numbers: x is the bias of a product of depth 0. An answer beyond 8 bits
/// shows as the end of the range that it is clamped to.
fn check_kernels(case: &Requantize, scale: FixedPoint, rounding: FixedRounding, answers: &[i32]) {
    let n = case.x.len();
    for kernel in kernels() {
        let weights =
            PackedRhs::pack_for(kernel, Rhs::new(MatRef::<i8>::row_major(&[], 0, n).unwrap())).unwrap();
        for zero in [-128, -5, 0, 127] {
            let output = Output::<i8>::requantize_fixed(scale, rounding, zero).bias(&case.x);
            let mut out = vec![0i8; n];
            let lhs = Lhs::new(MatRef::<u8>::row_major(&[], 1, 0).unwrap());
            let gemm = Gemm::new(&weights, output).unwrap();
            gemm.apply(lhs, MatMut::row_major(&mut out, 1, n).unwrap()).unwrap();
            let expected: Vec<i8> =
                answers.iter().map(|&y| y.saturating_add(zero).clamp(-128, 127) as i8).collect();
            assert_eq!(out, expected, "{kernel}, {rounding:?}, scale {}", case.scale);
        }
    }
}

/// NHWC images; weights outputs x (inputs / groups) x height x width.
#[derive(Deserialize)]
struct Conv {
    inputs: usize,
    outputs: usize,
    groups: usize,
    height: usize,
    width: usize,
    kernel: [usize; 2],
    stride: [usize; 2],
    /// Top, left, bottom, right.
    padding: [usize; 4],
    dilation: [usize; 2],
    quantized: QuantizedConv,
    real: RealConv,
}

#[derive(Deserialize)]
struct QuantizedConv {
    x: Vec<i32>,
    x_scale: f32,
    x_zero: i32,
    w: Vec<i32>,
    w_scales: Vec<f32>,
    bias: Vec<i32>,
    y_scale: f32,
    y_zero: i32,
    y: Vec<i32>,
}

#[derive(Deserialize)]
struct RealConv {
    x: Vec<f32>,
    w: Vec<f32>,
    bias: Vec<f32>,
    y: Vec<f32>,
}

impl Conv {
    fn filters(&self) -> Filters {
        let &Self { kernel, stride, padding: [top, left, bottom, right], dilation, .. } = self;
        let window = Window::new(kernel[0], kernel[1])
            .stride(stride[0], stride[1])
            .padding_each([top, bottom], [left, right])
            .dilation(dilation[0], dilation[1]);
        Filters::new(self.inputs, self.outputs, window).groups(self.groups)
    }

    fn shape(&self) -> Nhwc {
        Nhwc::new(1, self.height, self.width, self.inputs)
    }
}

/// Both layers, if both can do it.
fn forward<A: Operand, T: OutputElement>(
    make: impl Fn() -> (Result<Conv2d<A, T>, Error>, Result<DepthwiseConv2d<A, T>, Error>),
    x: &[A],
    shape: Nhwc,
    len: usize,
) -> Vec<Vec<T>> {
    let (conv, depthwise) = make();
    let mut y = vec![T::from_i32(0); len];
    let conv = conv.unwrap();
    conv.apply(Images::new(x, shape).unwrap(), &mut y).unwrap();
    let mut all = vec![y.clone()];
    if let Ok(layer) = depthwise {
        layer.apply(Images::new(x, shape).unwrap(), &mut y).unwrap();
        all.push(y);
    }
    all
}

/// The type of the file is u8; as i8 every value and zero point is 128 less.
fn check_qlinear_conv<A: Operand + OutputElement + PartialEq>(case: &Conv) {
    let (filters, shape, q) = (case.filters(), case.shape(), &case.quantized);
    let lower = |values: &[i32]| values.iter().map(|v| v + A::MIN).collect::<Vec<i32>>();
    let x = elements::<A>(&lower(&q.x));
    let w: Vec<i8> = elements(&q.w);
    let input = QParams { scale: q.x_scale, zero_point: q.x_zero + A::MIN };
    let output = QParams { scale: q.y_scale, zero_point: q.y_zero + A::MIN };
    let expected = elements::<A>(&lower(&q.y));

    let scales: Vec<f32> = q.w_scales.iter().map(|s| q.x_scale * s / q.y_scale).collect();
    let requantize = Output::<A>::requantize(&scales, output.zero_point).bias(&q.bias);
    let mut y = vec![A::from_i32(0); expected.len()];
    reference::conv2d(&x, shape, input.zero_point, &w, &filters, &requantize, &mut y).unwrap();
    assert!(y == expected, "reference: {filters:?}");
    for kernel in kernels() {
        let config = StaticConfig::<A>::new(input, output).kernel(kernel);
        let make = || {
            let (scales, bias) = (&q.w_scales[..], Some(&q.bias[..]));
            (
                Conv2d::<A, A>::from_quantized(filters, &w, scales, bias, config),
                DepthwiseConv2d::from_quantized(filters, &w, scales, bias, config),
            )
        };
        let all = forward(make, &x, shape, expected.len());
        assert_eq!(all.len(), 1 + usize::from(case.groups == case.inputs), "{filters:?}");
        assert!(all.iter().all(|y| *y == expected), "{kernel}: {filters:?}");
    }
}

#[test]
fn onnx_qlinear_conv() {
    for case in cases::<Conv>("qlinear_conv.json") {
        check_qlinear_conv::<u8>(&case);
        check_qlinear_conv::<i8>(&case);
    }
}

/// Quantizing real weights and images, per channel and to the range they have, costs what 8 bits cost and no more.
#[test]
fn torch_conv2d() {
    for case in cases::<Conv>("qlinear_conv.json") {
        let (filters, shape, real) = (case.filters(), case.shape(), &case.real);
        let range = |values: &[f32]| values.iter().fold((0f32, 0f32), |(a, b), &v| (a.min(v), b.max(v)));
        let (min, max) = range(&real.x);
        let input = QParams::affine(Levels::U8, min, max).unwrap();
        let x: Vec<u8> = real.x.iter().map(|&x| input.quantize(x)).collect();
        let (min, max) = range(&real.y);
        let output = QParams::affine(Levels::I8, min, max).unwrap();
        for kernel in kernels() {
            for float_bias in [false, true] {
                let mut to_i8 = StaticConfig::<i8>::new(input, output).kernel(kernel);
                let mut to_f32 = StaticConfig::real(input).kernel(kernel);
                if float_bias {
                    (to_i8, to_f32) = (to_i8.float_bias(), to_f32.float_bias());
                }
                let (w, bias) = (&real.w[..], Some(&real.bias[..]));
                let bytes = forward::<u8, i8>(
                    || (Conv2d::new(filters, w, bias, to_i8), DepthwiseConv2d::new(filters, w, bias, to_i8)),
                    &x,
                    shape,
                    real.y.len(),
                );
                let reals = forward::<u8, f32>(
                    || {
                        (
                            Conv2d::new(filters, w, bias, to_f32),
                            DepthwiseConv2d::new(filters, w, bias, to_f32),
                        )
                    },
                    &x,
                    shape,
                    real.y.len(),
                );
                let bytes = bytes.iter().map(|y| y.iter().map(|&q| output.dequantize(q)).collect());
                for y in bytes.chain(reals) {
                    let y: Vec<f32> = y;
                    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|v| v * v).sum::<f32>();
                    let error = square(&mut y.iter().zip(&real.y).map(|(a, b)| a - b));
                    let relative = (error / square(&mut real.y.iter().copied())).sqrt();
                    assert!(relative < 0.02, "{kernel}: {filters:?}: {relative}");
                }
            }
        }
    }
}
