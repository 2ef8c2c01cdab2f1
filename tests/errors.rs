//! Every wrong argument is an error that says what was wrong, and leaves the output as it was.

use i8gemm::{
    Error, FixedPoint, FixedRounding, Gemm, Kernel, Lhs, MAX_SAFE_K, MatMut, MatRef, Output, PackedRhs, Rhs,
    nn::{Conv2d, DepthwiseConv2d, Filters, Linear, StaticConfig, StaticLinear, Window},
    quant::{Levels, QParams},
};

fn weights() -> PackedRhs<'static> {
    let w: Vec<i8> = (0..12).collect();
    PackedRhs::pack(MatRef::row_major(&w, 4, 3).unwrap()).unwrap()
}

/// The error of a run of 2 x 4 by 4 x 3 whose lhs is changed by `with`; the output must be untouched.
fn run_error(with: impl for<'a> Fn(Lhs<'a, u8>) -> Lhs<'a, u8>) -> Error {
    let weights = weights();
    let gemm = Gemm::new(&weights, Output::i32()).unwrap();
    let x = [1u8; 8];
    let mut y = [77i32; 6];
    let lhs = with(Lhs::new(MatRef::row_major(&x, 2, 4).unwrap()));
    let error = gemm.apply(lhs, MatMut::row_major(&mut y, 2, 3).unwrap()).unwrap_err();
    assert_eq!(y, [77; 6]);
    error
}

fn gemm_error<T: i8gemm::OutputElement>(output: Output<T>) -> Error {
    Gemm::new(&weights(), output).map(drop).unwrap_err()
}

#[test]
fn lengths() {
    assert_eq!(
        MatRef::row_major(&[0i8; 5], 2, 3).unwrap_err(),
        Error::Length { what: "matrix", expected: 6, actual: 5 }
    );
    assert!(matches!(MatRef::row_major(&[0i8; 7], 2, 3), Err(Error::Length { .. })));
    // Rows of 4 with a stride of 10: the last element is number 13.
    assert!(MatRef::new(&[0i8; 14], 2, 4, 10, 1).is_ok());
    assert!(matches!(MatRef::new(&[0i8; 13], 2, 4, 10, 1), Err(Error::Length { expected: 14, .. })));
    assert!(matches!(
        gemm_error(Output::i32().bias(&[1, 2])),
        Error::Length { what: "bias", expected: 3, actual: 2 }
    ));
    assert!(matches!(gemm_error(Output::f32(&[1.0; 4])), Error::Length { what: "output scale", .. }));
    let multipliers = [FixedPoint::from_scale(0.1).unwrap(); 2];
    let fixed = Output::<i8>::requantize_fixed(&multipliers, FixedRounding::Single, 0);
    assert!(matches!(gemm_error(fixed), Error::Length { what: "output multipliers", .. }));
    assert!(matches!(run_error(|lhs| lhs.zero_points(&[1])), Error::Length { what: "lhs zero point", .. }));
}

#[test]
fn overflowing_sizes() {
    let huge = usize::MAX / 2 + 1;
    for error in [
        MatRef::<i8>::row_major(&[], huge, 2).unwrap_err(),
        MatRef::<i8>::new(&[], 3, 1, huge, 1).unwrap_err(),
        MatRef::<i8>::new(&[], 2, 2, huge, huge).unwrap_err(),
        MatMut::<i8>::new(&mut [], 3, 1, huge, 1).unwrap_err(),
    ] {
        assert!(matches!(error, Error::SizeOverflow { what: "matrix", .. }), "{error}");
    }
    // A view of stride 0 is as large as it likes; what is packed from it is not.
    let wide = MatRef::new(&[1i8], 1 << 10, usize::MAX >> 8, 0, 0).unwrap();
    assert!(matches!(PackedRhs::pack(wide), Err(Error::SizeOverflow { what: "packed rhs", .. })));
    let weights = weights();
    let gemm = Gemm::new(&weights, Output::i32()).unwrap();
    // The workspace is bounded, so even absurd heights have one.
    assert!(gemm.workspace_size(usize::MAX).unwrap() < 1 << 24);
}

#[test]
fn overlapping_outputs() {
    let mut data = [0i32; 20];
    for (rows, cols, row_stride, col_stride) in
        [(2, 3, 2, 1), (2, 3, 0, 1), (3, 2, 1, 2), (1, 2, 5, 0), (2, 2, 1, 1)]
    {
        let error = MatMut::new(&mut data, rows, cols, row_stride, col_stride).unwrap_err();
        assert!(matches!(error, Error::Overlap { .. }), "{rows}x{cols}: {error}");
    }
    assert!(MatMut::new(&mut data, 2, 3, 1, 2).is_ok());
    assert!(MatMut::new(&mut data, 1, 3, 0, 1).is_ok());
}

#[test]
fn sub_matrices() {
    let a = MatRef::row_major(&[1i8, 2, 3, 4], 2, 2).unwrap();
    assert_eq!(
        a.submatrix(0..3, 0..1).unwrap_err(),
        Error::SubMatrix { what: "rows", start: 0, end: 3, len: 2 }
    );
    #[allow(clippy::reversed_empty_ranges)]
    let reversed = a.submatrix(0..1, 2..1);
    assert!(matches!(reversed, Err(Error::SubMatrix { what: "columns", .. })));
    assert_eq!(a.submatrix(2..2, 0..2).unwrap().rows(), 0);
}

#[test]
fn shapes() {
    let weights = weights();
    let gemm = Gemm::new(&weights, Output::i32()).unwrap();
    let x = [1u8; 10];
    let mut y = [77i32; 9];
    let mut shape = |(m, k), (rows, cols)| {
        let lhs = MatRef::row_major(&x[..m * k], m, k).unwrap();
        let error =
            gemm.apply(lhs, MatMut::row_major(&mut y[..rows * cols], rows, cols).unwrap()).unwrap_err();
        assert_eq!(y, [77; 9]);
        error
    };
    assert_eq!(shape((2, 5), (2, 3)), Error::Shape { what: "columns of lhs (K)", expected: 4, actual: 5 });
    assert!(matches!(shape((2, 4), (3, 3)), Error::Shape { what: "rows of out (M)", .. }));
    assert!(matches!(shape((2, 4), (2, 2)), Error::Shape { what: "columns of out (N)", .. }));
}

#[test]
fn zero_points() {
    assert_eq!(
        run_error(|lhs| lhs.zero_point(256)),
        Error::ZeroPoint { what: "lhs zero point", index: 0, value: 256, min: 0, max: 255 }
    );
    assert!(matches!(run_error(|lhs| lhs.zero_points(&[3, -1])), Error::ZeroPoint { index: 1, .. }));
    let rhs = Rhs::new(MatRef::row_major(&[1i8, 2], 1, 2).unwrap());
    let error = PackedRhs::pack(rhs.zero_points(&[127, 128])).unwrap_err();
    assert!(matches!(error, Error::ZeroPoint { what: "rhs zero point", index: 1, value: 128, .. }));
    let error = gemm_error(Output::<u8>::requantize(1.0, -1));
    assert!(matches!(error, Error::ZeroPoint { what: "output zero point", .. }));
}

#[test]
fn scales() {
    for bad in [f32::NAN, f32::INFINITY, 0.0, -1.0, -0.0, f32::NEG_INFINITY] {
        assert!(matches!(gemm_error(Output::f32(bad)), Error::Scale { what: "output scale", .. }), "{bad}");
        let error = gemm_error(Output::<i8>::requantize(&[1.0, bad, 1.0], 0));
        assert!(matches!(error, Error::Scale { index: 1, .. }), "{bad}");
        assert!(matches!(FixedPoint::from_scale(bad.into()), Err(Error::Scale { .. })), "{bad}");

        let weights = weights();
        let gemm = Gemm::new(&weights, Output::f32(1.0)).unwrap();
        let mut y = [77.0f32; 3];
        let lhs = Lhs::new(MatRef::row_major(&[1u8; 4], 1, 4).unwrap()).scales(std::slice::from_ref(&bad));
        let error = gemm.apply(lhs, MatMut::row_major(&mut y, 1, 3).unwrap()).unwrap_err();
        assert!(matches!(error, Error::Scale { what: "lhs scale", .. }), "{bad}");
        assert_eq!(y, [77.0; 3]);
    }
    assert_eq!(run_error(|lhs| lhs.scale(0.5)), Error::UnusedLhsScale);
}

#[test]
fn fixed_points() {
    assert!(matches!(FixedPoint::new((1 << 30) - 1, 0), Err(Error::FixedPoint { .. })));
    assert!(matches!(FixedPoint::new(-1, 0), Err(Error::FixedPoint { .. })));
    assert!(matches!(FixedPoint::new(1 << 30, 31), Err(Error::FixedPoint { shift: 31, .. })));
    assert!(matches!(FixedPoint::new(1 << 30, -32), Err(Error::FixedPoint { .. })));
    assert!(matches!(FixedPoint::from_scale(1e10), Err(Error::FixedPointScale { .. })));
    assert_eq!(FixedPoint::from_scale(1e-20).unwrap().multiplier(), 0);
}

#[test]
fn biases() {
    let error = gemm_error(Output::<u8>::requantize(1.0, 0).bias_f32(&[0.0, f32::NAN, 0.0]));
    assert!(matches!(error, Error::Bias { index: 1, .. }));
    assert!(matches!(
        gemm_error(Output::f32(1.0).bias_f32(&[f32::INFINITY; 3])),
        Error::Bias { index: 0, .. }
    ));
    let half = FixedPoint::from_scale(0.5).unwrap();
    let fixed = Output::<u8>::requantize_fixed(half, FixedRounding::Double, 0);
    assert_eq!(gemm_error(fixed.bias_f32(&[0.0; 3])), Error::BiasType);
}

#[test]
fn clamps() {
    let requantize = Output::<i8>::requantize(1.0, 0);
    for (min, max) in [(1, 0), (-129, 0), (0, 128)] {
        assert!(matches!(gemm_error(requantize.clamp(min, max)), Error::Clamp { .. }), "{min}..={max}");
    }
    for (min, max) in [(1.0, 0.0), (f32::NAN, 0.0), (0.0, f32::NAN)] {
        assert!(matches!(gemm_error(Output::f32(1.0).clamp(min, max)), Error::Clamp { .. }), "{min}..={max}");
    }
}

#[test]
fn long_k() {
    let view = |k| MatRef::new(&[-128i8], k, 1, 0, 0).unwrap();
    assert!(PackedRhs::pack(view(MAX_SAFE_K)).is_ok());
    let error = PackedRhs::pack(view(MAX_SAFE_K + 1)).unwrap_err();
    assert_eq!(error, Error::KTooLong { k: 33_026, max: 33_025 });

    // Layers look at K before they copy a single weight: of these, no memory could hold a row.
    let k = 1 << 60;
    let long = Some(Error::KTooLong { k, max: MAX_SAFE_K });
    let (real, bytes) =
        (MatRef::new(&[0.5f32], 2, k, 0, 0).unwrap(), MatRef::new(&[1i8], 2, k, 0, 0).unwrap());
    let config = StaticConfig::<f32>::real(QParams { scale: 1.0, zero_point: 0 });
    assert_eq!(Linear::new(real, None).err(), long);
    assert_eq!(StaticLinear::<u8, f32>::new(real, None, config).err(), long);
    assert_eq!(StaticLinear::<u8, f32>::from_quantized(bytes, 1.0, None, config).err(), long);
    // And before they look at one.
    let (k, nan) = (MAX_SAFE_K + 1, [f32::NAN; MAX_SAFE_K + 1]);
    let long = Some(Error::KTooLong { k, max: MAX_SAFE_K });
    let filters = Filters::new(k, 1, Window::new(1, 1));
    assert_eq!(Conv2d::<u8, f32>::new(filters, &nan, None, config).err(), long);
    assert_eq!(
        Conv2d::<u8, f32>::from_quantized(filters, &[1; MAX_SAFE_K + 1], 0.0, None, config).err(),
        long
    );
    let filters = Filters::depthwise(1, Window::new(1, k));
    assert_eq!(DepthwiseConv2d::<u8, f32>::new(filters, &nan, None, config).err(), long);

    // Asked for, the sum wraps: 2^18 * -128 * -128 = 2^32.
    let k = (1 << 18) + 1;
    let weights = PackedRhs::pack(Rhs::new(view(k)).allow_wrapping()).unwrap();
    let mut y = [0i32];
    let lhs = MatRef::new(&[-128i8], 1, k, 0, 0).unwrap();
    Gemm::new(&weights, Output::i32()).unwrap().apply(lhs, MatMut::row_major(&mut y, 1, 1).unwrap()).unwrap();
    assert_eq!(y, [128 * 128]);
}

#[test]
fn small_buffers() {
    let rhs = Rhs::new(MatRef::row_major(&[1i8; 12], 4, 3).unwrap());
    let kernel = Kernel::best().unwrap();
    let size = PackedRhs::size(kernel, &rhs).unwrap();
    let mut buffer = vec![0u8; size];
    let error = PackedRhs::pack_into(kernel, &rhs, &mut buffer[..size - 64]).unwrap_err();
    assert!(matches!(error, Error::BufferTooSmall { what: "packed rhs", .. }));
    // Whatever the buffer's alignment, the size that was asked for is enough.
    for start in 0..64 {
        let mut buffer = vec![0u8; start + size];
        PackedRhs::pack_into(kernel, &rhs, &mut buffer[start..]).unwrap();
    }

    let weights = weights();
    let gemm = Gemm::new(&weights, Output::i32()).unwrap();
    let x = [1u8; 8];
    let mut y = [77i32; 6];
    let out = MatMut::row_major(&mut y, 2, 3).unwrap();
    let error = gemm.run(MatRef::row_major(&x, 2, 4).unwrap(), out, &mut []).unwrap_err();
    assert!(matches!(error, Error::BufferTooSmall { what: "workspace", actual: 0, .. }));
    assert_eq!(y, [77; 6]);
}

#[test]
fn ranges() {
    assert!(matches!(QParams::affine(Levels::I8, 1.0, 0.0), Err(Error::Range { .. })));
    assert!(matches!(QParams::affine(Levels::U8, f32::NAN, 0.0), Err(Error::Range { .. })));
    assert!(matches!(QParams::symmetric(Levels::I8, f32::INFINITY), Err(Error::Range { .. })));
}

#[test]
fn kernel_names() {
    let error = Kernel::by_name("abacus").unwrap_err();
    assert!(matches!(error, Error::UnknownKernel { from_environment: false, .. }));
    let message = error.to_string();
    assert!(message.contains("abacus") && message.contains("portable"), "{message}");
    // However long the name, however odd: the message is cut, not the program.
    assert!(Kernel::by_name(&"é".repeat(100)).unwrap_err().to_string().contains("é"));

    let mut catalog = Kernel::catalog().iter();
    let elsewhere =
        catalog.find(|info| info.arch.is_some_and(|arch| arch != std::env::consts::ARCH)).unwrap();
    let error = Kernel::by_name(elsewhere.name).unwrap_err();
    assert!(matches!(error, Error::KernelUnavailable { reason: "it belongs to another target", .. }));
    let message = error.to_string();
    for kernel in Kernel::available() {
        assert!(message.contains(kernel.name()), "{message}");
    }
    for kernel in Kernel::all().filter(|kernel| !kernel.is_available()) {
        let error = Kernel::by_name(kernel.name()).unwrap_err();
        assert!(matches!(error, Error::KernelUnavailable { reason: "this CPU lacks its instructions", .. }));
        let rhs = Rhs::new(MatRef::row_major(&[1i8; 12], 4, 3).unwrap());
        assert!(matches!(PackedRhs::pack_for(kernel, rhs), Err(Error::KernelUnavailable { .. })));
        assert!(matches!(PackedRhs::size(kernel, &rhs), Err(Error::KernelUnavailable { .. })));
    }
}
