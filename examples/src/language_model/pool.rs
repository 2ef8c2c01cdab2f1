//! The executor that layers run on: rayon's, as the feature `rayon` of the crate has it, written out.

use i8gemm::Executor;

/// So many threads of rayon's current pool.
#[derive(Clone, Copy)]
pub struct Pool(pub usize);

impl Executor for Pool {
    fn threads(&self) -> usize {
        self.0
    }

    fn run(&self, count: usize, task: &(dyn Fn() + Sync)) {
        rayon::scope(|scope| {
            (1..count).for_each(|_| scope.spawn(|_| task()));
            task();
        });
    }
}
