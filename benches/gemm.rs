//! Criterion benchmarks: products by every kernel of this CPU. `cargo bench --bench gemm`.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use i8gemm::{Gemm, Kernel, Lhs, MatMut, MatRef, Output, PackedRhs};

/// M, K, N of square products, mobile convolutions, transformer blocks and matrix-vector products.
const SHAPES: [(usize, usize, usize); 6] =
    [(1, 1024, 1024), (8, 1024, 1024), (49, 960, 160), (512, 512, 512), (3136, 64, 64), (37, 213, 1001)];

/// Values that vary and cost nothing to make.
fn values(len: usize) -> Vec<i8> {
    (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 7) as i8).collect()
}

fn products(c: &mut Criterion) {
    for (m, k, n) in SHAPES {
        let mut group = c.benchmark_group(format!("{m}x{k}x{n} i8 x i8 -> i32"));
        group.throughput(Throughput::Elements((m * k * n) as u64));
        let (x, w) = (values(m * k), values(k * n));
        for kernel in Kernel::available() {
            let rhs = MatRef::row_major(&w, k, n).unwrap();
            let weights = PackedRhs::pack_for(kernel, rhs).unwrap();
            let gemm = Gemm::new(&weights, Output::i32()).unwrap();
            let mut scratch = gemm.workspace(m).unwrap();
            let mut out = vec![0i32; m * n];
            group.bench_function(BenchmarkId::from_parameter(kernel), |b| {
                b.iter(|| {
                    let lhs = Lhs::new(MatRef::row_major(&x, m, k).unwrap()).zero_point(3);
                    gemm.run(lhs, MatMut::row_major(&mut out, m, n).unwrap(), &mut scratch).unwrap();
                });
            });
        }
        group.finish();
    }
}

fn packing(c: &mut Criterion) {
    let (k, n) = (1024, 1024);
    let w = values(k * n);
    let mut group = c.benchmark_group("pack 1024x1024");
    group.throughput(Throughput::Bytes((k * n) as u64));
    for kernel in Kernel::available() {
        let rhs = MatRef::row_major(&w, k, n).unwrap();
        group.bench_function(BenchmarkId::new("K x N", kernel), |b| {
            b.iter(|| PackedRhs::pack_for(kernel, rhs).unwrap());
        });
        let transposed = MatRef::row_major(&w, n, k).unwrap().transpose();
        group.bench_function(BenchmarkId::new("N x K", kernel), |b| {
            b.iter(|| PackedRhs::pack_for(kernel, transposed).unwrap());
        });
    }
    group.finish();
}

criterion_group!(benches, products, packing);
criterion_main!(benches);
