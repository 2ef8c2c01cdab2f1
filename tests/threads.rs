//! The same bits for every number of threads, and executors that misbehave.

mod common;

use common::{Fill, Matrix, Order, Random, kernels};
use i8gemm::{Executor, Gemm, Lhs, MatMut, Output, PackedRhs, Rhs, Sequential};

/// As many threads as it says, each call on one of its own.
struct Threads(usize);

impl Executor for Threads {
    fn threads(&self) -> usize {
        self.0
    }

    fn run(&self, count: usize, task: &(dyn Fn() + Sync)) {
        std::thread::scope(|scope| (0..count).for_each(|_| drop(scope.spawn(task))));
    }
}

/// Calls once, or too often: all outputs must be right all the same.
struct Careless {
    threads: usize,
    calls: usize,
}

impl Executor for Careless {
    fn threads(&self) -> usize {
        self.threads
    }

    fn run(&self, _count: usize, task: &(dyn Fn() + Sync)) {
        std::thread::scope(|scope| (0..self.calls).for_each(|_| drop(scope.spawn(task))));
    }
}

#[test]
fn the_same_bits_for_every_number_of_threads() {
    let mut random = Random(3);
    for kernel in kernels() {
        for (m, k, n) in [(1, 600, 500), (2, 900, 333), (65, 300, 70), (301, 129, 47), (5, 70, 1000)] {
            let x = Matrix::<u8>::random(&mut random, Fill::Uniform, m, k, Order::RowMajor);
            let w = Matrix::<i8>::random(&mut random, Fill::Uniform, k, n, Order::ColMajor);
            let scales: Vec<f32> = (0..n).map(|_| random.scale()).collect();
            let zeros: Vec<i32> = (0..n).map(|_| random.range(-128, 127)).collect();
            let row_zeros: Vec<i32> = (0..m).map(|_| random.range(0, 255)).collect();
            let row_scales: Vec<f32> = (0..m).map(|_| random.scale()).collect();
            let weights = PackedRhs::pack_for(kernel, Rhs::new(w.view()).zero_points(&zeros)).unwrap();
            let gemm = Gemm::new(&weights, Output::f32(&scales)).unwrap();
            let lhs = Lhs::new(x.view()).zero_points(&row_zeros).scales(&row_scales);

            let run = |executor: &dyn Fn(Lhs<u8>, MatMut<f32>)| {
                let mut y = vec![f32::NAN; m * n];
                executor(lhs, MatMut::row_major(&mut y, m, n).unwrap());
                y.into_iter().map(f32::to_bits).collect::<Vec<_>>()
            };
            macro_rules! on {
                ($executor:expr) => {
                    run(&|lhs, out| {
                        let size = gemm.workspace_size_with(m, &$executor).unwrap();
                        gemm.run_with(&$executor, lhs, out, &mut vec![0; size]).unwrap();
                    })
                };
            }
            let expected = on!(Sequential);
            for threads in [0, 1, 2, 3, 4, 7, 16] {
                assert_eq!(on!(Threads(threads)), expected, "{kernel}: {m}x{k}x{n} on {threads} threads");
            }
            for calls in [0, 1, 9] {
                assert_eq!(on!(Careless { threads: 4, calls }), expected, "{kernel}: {calls} calls");
            }
            #[cfg(feature = "rayon")]
            assert_eq!(on!(i8gemm::Rayon), expected, "{kernel}: rayon");
        }
    }
}
