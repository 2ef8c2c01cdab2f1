//! Criterion benchmarks of every kernel of this CPU: products of all shapes, types and epilogues, and packing.
//!
//! `cargo bench --bench gemm` runs all of it; a name chooses, `cargo bench --bench gemm -- "1x1024x1024/.*avx2"`.

mod macs;

use std::time::Duration;

use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use i8gemm::{FixedPoint, Gemm, Kernel, Lhs, MatMut, MatRef, Operand, Output, OutputElement, PackedRhs, Rhs};
use macs::MacTime;

/// M, K, N: a square product, a transformer's, mobile convolutions', matrix-vector products.
const SHAPES: [(usize, usize, usize); 13] = [
    (1, 64, 64),
    (1, 1024, 1024),
    (1, 4096, 4096),
    (8, 1024, 1024),
    (49, 960, 160),
    (196, 512, 512),
    (128, 768, 768),
    (128, 768, 3072),
    (512, 512, 512),
    (1024, 1024, 1024),
    (3136, 64, 64),
    (784, 1152, 128),
    (37, 213, 1001),
];

/// Rows of thin products: every tile height of every kernel is among them.
const ROWS: [usize; 10] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32];

/// Depth and columns of thin products: multiples of nothing.
const RAGGED: (usize, usize) = (1019, 509);

type Group<'a> = BenchmarkGroup<'a, MacTime>;

/// Values that vary and cost nothing to make.
fn values(len: usize) -> Vec<i8> {
    (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 7) as i8).collect()
}

fn products(c: &mut Criterion<MacTime>) {
    let thin = ROWS.map(|m| (m, RAGGED.0, RAGGED.1));
    for shape in SHAPES.into_iter().chain(thin) {
        let (m, k, n) = shape;
        let mut group = c.benchmark_group(format!("{m}x{k}x{n}"));
        group.throughput(Throughput::Elements((m * k * n) as u64));
        for kernel in Kernel::available() {
            let mut product = Product { group: &mut group, kernel, shape };
            product.signs();
            product.epilogues();
        }
        group.finish();
    }
}

/// The benchmarks of one shape and kernel.
struct Product<'a, 'b> {
    group: &'a mut Group<'b>,
    kernel: Kernel,
    shape: (usize, usize, usize),
}

impl Product<'_, '_> {
    fn signs(&mut self) {
        self.bench::<i8, i8, i32>("i8 x i8 -> i32", Output::i32());
        self.bench::<u8, i8, i32>("u8 x i8 -> i32", Output::i32());
        self.bench::<i8, u8, i32>("i8 x u8 -> i32", Output::i32());
        self.bench::<u8, u8, i32>("u8 x u8 -> i32", Output::i32());
    }

    fn epilogues(&mut self) {
        let n = self.shape.2;
        let scales: Vec<f32> = (0..n).map(|j| 1e-4 * (1 + j % 7) as f32).collect();
        let fixed: Vec<FixedPoint> =
            scales.iter().map(|&scale| FixedPoint::from_scale(scale.into()).unwrap()).collect();
        let bias: Vec<i32> = (0..n as i32).collect();
        let bias_f32: Vec<f32> = bias.iter().map(|&b| b as f32).collect();
        self.bench::<i8, i8, i32>("i8 x i8 -> i32, added", Output::i32().accumulate());
        self.bench::<i8, i8, f32>("i8 x i8 -> f32", Output::f32(&scales).bias_f32(&bias_f32));
        let row_scales: Vec<f32> = (0..self.shape.0).map(|i| 1e-2 * (1 + i % 5) as f32).collect();
        self.bench_with::<i8, i8, f32>("i8 x i8 -> f32, row scales", Output::f32(&scales), None, &row_scales);
        self.bench::<i8, i8, i8>("i8 x i8 -> i8", Output::requantize(&scales, 3).bias(&bias));
        self.bench::<i8, i8, u8>(
            "i8 x i8 -> u8, f32 bias",
            Output::<u8>::requantize(&scales, 3).bias_f32(&bias_f32),
        );
        for (name, rounding) in
            [("single", i8gemm::FixedRounding::Single), ("double", i8gemm::FixedRounding::Double)]
        {
            let output = Output::requantize_fixed(&fixed, rounding, 3).bias(&bias);
            self.bench::<i8, i8, i8>(&format!("i8 x i8 -> i8, {name} rounding"), output);
        }
        let zeros: Vec<i32> = (0..n).map(|j| (j % 50) as i32 - 20).collect();
        self.bench_with::<i8, i8, i32>("i8 x i8 -> i32, rhs zero points", Output::i32(), Some(&zeros), &[]);
    }

    fn bench<A: Operand, W: Operand, T: OutputElement + Default>(&mut self, name: &str, output: Output<T>) {
        self.bench_with::<A, W, T>(name, output, None, &[]);
    }

    fn bench_with<A: Operand, W: Operand, T: OutputElement + Default>(
        &mut self,
        name: &str,
        output: Output<T>,
        rhs_zeros: Option<&[i32]>,
        row_scales: &[f32],
    ) {
        let (m, k, n) = self.shape;
        let (x, w) = (values(m * k), values(k * n));
        let mut rhs = Rhs::new(MatRef::<W>::row_major(bytemuck::cast_slice(&w), k, n).unwrap());
        if let Some(zeros) = rhs_zeros {
            rhs = rhs.zero_points(zeros);
        }
        let weights = PackedRhs::pack_for(self.kernel, rhs).unwrap();
        let gemm = Gemm::new(&weights, output).unwrap();
        let mut scratch = gemm.workspace(m).unwrap();
        let mut out = vec![T::default(); m * n];
        let lhs = Lhs::new(MatRef::<A>::row_major(bytemuck::cast_slice(&x), m, k).unwrap()).zero_point(3);
        let lhs = if row_scales.is_empty() { lhs } else { lhs.scales(row_scales) };
        self.group.bench_function(BenchmarkId::new(name, self.kernel), |b| {
            b.iter(|| gemm.run(lhs, MatMut::row_major(&mut out, m, n).unwrap(), &mut scratch).unwrap());
        });
    }
}

fn packing(c: &mut Criterion<MacTime>) {
    for (k, n) in [(1024, 1024), RAGGED] {
        let w = values(k * n);
        let mut group = c.benchmark_group(format!("pack {k}x{n}"));
        group.throughput(Throughput::Bytes((k * n) as u64));
        for kernel in Kernel::available() {
            let views = [
                ("K x N", MatRef::row_major(&w, k, n).unwrap()),
                ("N x K", MatRef::row_major(&w, n, k).unwrap().transpose()),
            ];
            for (name, view) in views {
                let rhs = Rhs::new(view);
                let mut buffer = vec![0; PackedRhs::size(kernel, &rhs).unwrap()];
                group.bench_function(BenchmarkId::new(name, kernel), |b| {
                    b.iter(|| PackedRhs::pack_into(kernel, &rhs, &mut buffer).unwrap().bytes());
                });
            }
        }
        group.finish();
    }
}

/// Hundreds of benchmarks: each short.
fn short() -> Criterion<MacTime> {
    let criterion = Criterion::default().with_measurement(MacTime).sample_size(20);
    criterion.warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_millis(600))
}

criterion_group! {
    name = benches;
    config = short();
    targets = products, packing
}
criterion_main!(benches);
