//! Answers of other implementations, read from `tests/golden/` when the tests run: other files of the same form may be put
//! in their place.

mod common;
#[path = "common/golden.rs"]
mod file;

use common::kernels;
use file::cases;
use i8gemm::{
    FixedPoint, FixedRounding, Gemm, Lhs, MatMut, MatRef, Operand, Output, OutputElement, PackedRhs, Rhs,
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
