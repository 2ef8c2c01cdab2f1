//! Owned products: the same bits as borrowed ones, from anywhere, and views of the wrong type refused.

mod common;

use common::{Fill, Matrix, ORDERS, Order, Random, Threads, bits, kernels, strides};
use i8gemm::{
    ElementType, Error, FixedPoint, FixedRounding, Gemm, Kernel, Lhs, MatMut, MatRef, Operand, Output,
    OutputElement, PackedRhs, Product, Rhs,
};

const SHAPES: [(usize, usize, usize); 7] =
    [(1, 1, 1), (1, 64, 33), (3, 70, 21), (0, 5, 4), (4, 0, 9), (37, 129, 50), (2, 900, 333)];

/// Weights and parameters that are gone when this returns.
fn owned<A: Operand, T: OutputElement>(
    kernel: Kernel,
    rhs: Rhs<A>,
    output: Output<T>,
) -> Result<Product, Error> {
    Product::new(PackedRhs::pack_for(kernel, rhs)?, output)
}

/// Both products, on one thread and on several, into outputs with gaps.
fn compare<T: OutputElement>(
    kernel: Kernel,
    lhs: Lhs<u8>,
    m: usize,
    rhs: Rhs<i8>,
    output: Output<T>,
    order: Order,
) -> Result<(), Error> {
    let product = owned(kernel, rhs, output)?;
    assert_eq!(product.output_type(), T::TYPE);
    let weights = PackedRhs::pack_for(kernel, rhs)?;
    let gemm = Gemm::new(&weights, output)?;
    let n = weights.n();
    let (row, col, len) = strides(order, m, n);
    let filled: Vec<T> = (0..len).map(|i| T::from_i32((i % 113) as i32)).collect();
    let mut expected = filled.clone();
    gemm.apply(lhs, MatMut::new(&mut expected, m, n, row, col)?)?;
    let check = |name: &str, run: &dyn Fn(MatMut<T>) -> Result<(), Error>| -> Result<(), Error> {
        let mut actual = filled.clone();
        run(MatMut::new(&mut actual, m, n, row, col)?)?;
        let differs = (0..len).find(|&i| bits(&expected[i]) != bits(&actual[i]));
        assert_eq!(differs, None, "{kernel}: {name}, {m} x {} x {n} to {}, {order:?}", weights.k(), T::TYPE);
        Ok(())
    };
    check("apply", &|out| product.apply(lhs, out))?;
    check("run", &|out| product.run(lhs, out, &mut product.workspace(m)?))?;
    for threads in [1, 3] {
        let executor = Threads(threads);
        let size = product.workspace_size_with(m, &executor)?;
        assert_eq!(size, gemm.workspace_size_with(m, &executor)?);
        check("run_with", &|out| product.run_with(&executor, lhs, out, &mut vec![0; size]))?;
    }
    check("a clone", &|out| product.clone().apply(lhs, out))
}

#[test]
fn the_same_bits_as_a_borrowed_product() -> Result<(), Error> {
    let mut random = Random(21);
    for kernel in kernels() {
        for (at, (m, k, n)) in SHAPES.into_iter().enumerate() {
            let x = Matrix::<u8>::random(&mut random, Fill::Uniform, m, k, ORDERS[at % 4]);
            let w = Matrix::<i8>::random(&mut random, Fill::Extremes, k, n, Order::ColMajor);
            let zeros: Vec<i32> = (0..n).map(|_| random.range(-128, 127)).collect();
            let bias: Vec<i32> = (0..n).map(|_| random.range(-5000, 5000)).collect();
            let real_bias: Vec<f32> = bias.iter().map(|&b| b as f32 * 1e-3).collect();
            let scales: Vec<f32> = (0..n).map(|_| random.scale() * 1e-3).collect();
            let fixed: Vec<FixedPoint> =
                scales.iter().map(|&s| FixedPoint::from_scale(s.into())).collect::<Result<_, _>>()?;
            let row_scales: Vec<f32> = (0..m).map(|_| random.scale()).collect();
            let lhs = Lhs::new(x.view()).zero_point(117);
            for rhs in [Rhs::new(w.view()), Rhs::new(w.view()).zero_points(&zeros)] {
                for order in ORDERS {
                    compare(kernel, lhs, m, rhs, Output::i32(), order)?;
                    compare(kernel, lhs, m, rhs, Output::i32().bias(&bias).accumulate(), order)?;
                    let real = Output::f32(&scales).bias_f32(&real_bias).clamp(-1.0, 6.0);
                    compare(kernel, lhs.scales(&row_scales), m, rhs, real, order)?;
                    compare(kernel, lhs, m, rhs, Output::f32(0.01).bias(&bias), order)?;
                    let bytes = Output::<u8>::requantize(&scales, 10).bias(&bias).clamp(10, 200);
                    compare(kernel, lhs, m, rhs, bytes, order)?;
                    let bytes = Output::<i8>::requantize(1e-3, -7).bias_f32(&real_bias);
                    compare(kernel, lhs, m, rhs, bytes, order)?;
                    for rounding in [FixedRounding::Single, FixedRounding::Double] {
                        let bytes = Output::<i8>::requantize_fixed(&fixed, rounding, 3).bias(&bias);
                        compare(kernel, lhs, m, rhs, bytes, order)?;
                        let bytes =
                            Output::<u8>::requantize_fixed(FixedPoint::from_scale(1e-3)?, rounding, 3);
                        compare(kernel, lhs, m, rhs, bytes, order)?;
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn they_go_anywhere() {
    fn anywhere<T: Send + Sync + Clone + std::fmt::Debug + 'static>() {}
    anywhere::<Product>();
}

/// An operator of a runtime: what it keeps has no lifetime.
struct Operator {
    name: String,
    product: Product,
}

fn load(name: &str) -> Result<Operator, Error> {
    let weights: Vec<i8> = (0..600).map(|i| (i * 37) as i8).collect();
    let scales: Vec<f32> = (0..20).map(|i| 1e-3 + i as f32 * 1e-4).collect();
    let bias: Vec<i32> = (0..20).map(|i| 100 * i - 1000).collect();
    let weights = PackedRhs::pack(MatRef::row_major(&weights, 30, 20)?)?;
    let output = Output::<u8>::requantize(&scales, 9).bias(&bias);
    Ok(Operator { name: name.into(), product: Product::new(weights, output)? })
}

#[test]
fn several_threads_run_one_product() -> Result<(), Error> {
    let operator = load("fc1")?;
    let product = &operator.product;
    assert_eq!((product.weights().k(), product.weights().n()), (30, 20), "{}", operator.name);
    let row = |thread: usize| -> Vec<i8> { (0..30).map(|i| (i * 11 + thread * 59) as i8).collect() };
    let compute = |product: &Product, x: &[i8]| -> Result<Vec<u8>, Error> {
        let (mut y, mut scratch) = (vec![0; 20], product.workspace(1)?);
        for _ in 0..100 {
            product.run(MatRef::row_major(x, 1, 30)?, MatMut::row_major(&mut y, 1, 20)?, &mut scratch)?;
        }
        Ok(y)
    };
    let expected: Vec<_> = (0..4).map(|thread| compute(product, &row(thread))).collect::<Result<_, _>>()?;
    assert!(expected.windows(2).all(|pair| pair[0] != pair[1]));
    // Two threads on the same one, two on clones that outlive it.
    let clones = [product.clone(), product.clone()];
    std::thread::scope(|scope| -> Result<(), Error> {
        let threads: Vec<_> =
            (0..2).map(|thread| scope.spawn(move || compute(product, &row(thread)))).collect();
        for (thread, handle) in threads.into_iter().enumerate() {
            assert_eq!(handle.join().unwrap()?, expected[thread]);
        }
        Ok(())
    })?;
    drop(operator);
    let threads = clones.into_iter().zip([2, 3]);
    let threads = threads.map(|(clone, thread)| std::thread::spawn(move || compute(&clone, &row(thread))));
    for (handle, thread) in threads.collect::<Vec<_>>().into_iter().zip([2, 3]) {
        assert_eq!(handle.join().unwrap()?, expected[thread]);
    }
    Ok(())
}

/// Every described type with views of every other: an error, and nothing is written, whichever way it is called.
#[test]
fn views_of_another_type_are_refused() -> Result<(), Error> {
    fn refused<T: OutputElement + PartialEq + std::fmt::Debug>(product: &Product) -> Result<(), Error> {
        let x = [1i8; 6];
        let lhs = || MatRef::row_major(&x, 2, 3);
        let expected = product.output_type();
        let before = [T::from_i32(77); 4];
        let mut scratch = product.workspace(2)?;
        for call in 0..3 {
            let mut y = before;
            let out = MatMut::row_major(&mut y, 2, 2)?;
            let result = match call {
                0 => product.run(lhs()?, out, &mut scratch),
                1 => product.run_with(&Threads(2), lhs()?, out, &mut scratch),
                _ => product.apply(lhs()?, out),
            };
            if T::TYPE == expected {
                result?;
                assert_ne!(y, before);
            } else {
                let error = result.unwrap_err();
                assert_eq!(error, Error::OutputType { expected, actual: T::TYPE });
                let text = error.to_string();
                assert!(
                    text.contains(&expected.to_string()) && text.contains(&T::TYPE.to_string()),
                    "{text}"
                );
                assert_eq!(y, before);
            }
        }
        Ok(())
    }
    let weights = PackedRhs::pack(MatRef::row_major(&[1i8, 2, 3, 4, 5, 6], 3, 2)?)?;
    let sums = Product::new(weights, Output::i32())?;
    let products = [
        sums.with_output(Output::<i8>::requantize(0.5, 0))?,
        sums.with_output(Output::<u8>::requantize_fixed(
            FixedPoint::from_scale(0.5)?,
            FixedRounding::Single,
            0,
        ))?,
        sums.with_output(Output::f32(0.5))?,
        sums,
    ];
    let types = [ElementType::I8, ElementType::U8, ElementType::F32, ElementType::I32];
    assert_eq!(products.each_ref().map(Product::output_type), types);
    for product in &products {
        refused::<i8>(product)?;
        refused::<u8>(product)?;
        refused::<i32>(product)?;
        refused::<f32>(product)?;
    }
    Ok(())
}

#[test]
fn outputs_share_weights() -> Result<(), Error> {
    let weights = PackedRhs::pack(MatRef::row_major(&[1i8, 2, 3, 4, 5, 6], 3, 2)?)?;
    let packed = weights.bytes();
    let sums = Product::new(weights, Output::i32())?;
    let real = sums.with_output(Output::f32(&[0.5, 0.25]).bias(&[1, 2]))?;
    assert!(std::ptr::eq(sums.weights(), real.weights()));
    assert!(std::ptr::eq(sums.weights(), sums.clone().weights()));
    assert_eq!([sums.bytes(), real.bytes()], [packed, packed + 4 * 4]);
    drop(sums);
    let mut y = [0.0; 2];
    real.apply(MatRef::row_major(&[1i8, 1, 1], 1, 3)?, MatMut::row_major(&mut y, 1, 2)?)?;
    assert_eq!(y, [5.0, 3.5]);
    Ok(())
}

/// What a borrowed product refuses.
#[test]
fn bad_parameters_are_refused() -> Result<(), Error> {
    let weights = PackedRhs::pack(MatRef::row_major(&[1i8, 2, 3, 4, 5, 6], 3, 2)?)?;
    let sums = Product::new(weights.clone(), Output::i32())?;
    fn check<T: OutputElement>(
        weights: &PackedRhs<'static>,
        sums: &Product,
        output: Output<T>,
    ) -> Option<Error> {
        let expected = Gemm::new(weights, output).err();
        assert_eq!(Product::new(weights.clone(), output).err(), expected);
        assert_eq!(sums.with_output(output).err(), expected);
        expected
    }
    let scales = check(&weights, &sums, Output::f32(&[1.0, -1.0]));
    assert!(matches!(scales, Some(Error::Scale { index: 1, .. })), "{scales:?}");
    let length = check(&weights, &sums, Output::<u8>::requantize(&[1.0; 3], 0));
    assert!(matches!(length, Some(Error::Length { expected: 2, actual: 3, .. })), "{length:?}");
    let bias = check(&weights, &sums, Output::i32().bias(&[1]));
    assert!(matches!(bias, Some(Error::Length { what: "bias", .. })), "{bias:?}");
    let clamp = check(&weights, &sums, Output::<i8>::requantize(1.0, 0).clamp(5, 4));
    assert!(matches!(clamp, Some(Error::Clamp { .. })), "{clamp:?}");
    let zero = check(&weights, &sums, Output::<u8>::requantize(1.0, -1));
    assert!(matches!(zero, Some(Error::ZeroPoint { .. })), "{zero:?}");

    // And what a run refuses.
    let mut y = [7; 2];
    let out = MatMut::row_major(&mut y, 1, 2)?;
    let short = sums.run(MatRef::row_major(&[1i8, 2], 1, 2)?, out, &mut sums.workspace(1)?);
    assert!(matches!(short, Err(Error::Shape { expected: 3, actual: 2, .. })), "{short:?}");
    let scaled = Lhs::new(MatRef::row_major(&[1i8, 2, 3], 1, 3)?).scale(0.5);
    let out = MatMut::row_major(&mut y, 1, 2)?;
    assert_eq!(sums.apply(scaled, out), Err(Error::UnusedLhsScale));
    // From row sums or copies of rows to none: with strides, every kernel has some scratch.
    let strided = MatRef::new(&[1i8; 5], 1, 3, 5, 2)?;
    let out = MatMut::row_major(&mut y, 1, 2)?;
    let small = sums.run(strided, out, &mut []);
    assert!(matches!(small, Err(Error::BufferTooSmall { actual: 0, .. })), "{small:?}");
    assert_eq!(y, [7; 2]);
    Ok(())
}
