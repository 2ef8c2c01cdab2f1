//! What the hardware gives: the multiply instruction alone, and memory.

use std::hint::black_box;

use anyhow::Result;
use bench_support::instruction;
use i8gemm::Kernel;

use crate::pairs::{Clock, Contender};

/// A kernel's multiply instruction in registers, on every thread of the current pool.
pub struct Ceiling {
    kernel: Kernel,
    threads: usize,
}

impl Ceiling {
    /// None where the kernel has no single instruction that could be timed.
    pub fn new(kernel: Kernel, threads: usize) -> Option<Self> {
        instruction::macs(kernel.name()).map(|_| Self { kernel, threads })
    }
}

impl Contender for Ceiling {
    fn work(&self) -> f64 {
        instruction::macs(self.kernel.name()).unwrap_or_default() * self.threads as f64
    }

    fn seconds(&mut self, calls: usize, clock: Clock) -> Result<f64> {
        let calls = || (0..calls).for_each(|_| instruction::run(self.kernel.name()));
        Ok(clock.time(|| match self.threads {
            1 => calls(),
            _ => drop(rayon::broadcast(|_| calls())),
        }))
    }
}

/// A plain sum of as many bytes as the weights have: what memory gives a product of one row, which reads each weight once. On
/// several threads, each sums its part.
pub struct VectorSum<'a> {
    pub bytes: &'a [u8],
    /// Of a call, in the units of what it is beside.
    pub work: f64,
}

impl Contender for VectorSum<'_> {
    fn work(&self) -> f64 {
        self.work
    }

    fn seconds(&mut self, calls: usize, clock: Clock) -> Result<f64> {
        let all = |bytes: &[u8]| {
            for _ in 0..calls {
                black_box(widest_sum(black_box(bytes)));
            }
        };
        Ok(clock.time(|| match clock {
            Clock::Thread => all(self.bytes),
            Clock::Wall => drop(rayon::broadcast(|thread| {
                let part = self.bytes.len().div_ceil(thread.num_threads());
                all(self.bytes.chunks(part).nth(thread.index()).unwrap_or_default());
            })),
        }))
    }
}

/// A sum that reads every byte once: words, for bytes would have to be widened.
#[inline(always)]
fn sum(bytes: &[u8]) -> u32 {
    let (_, words, _) = bytemuck::pod_align_to::<u8, u32>(bytes);
    words.iter().fold(0, |sum, word| sum.wrapping_add(*word))
}

/// [`sum`] with the widest vectors that this CPU has.
fn widest_sum(bytes: &[u8]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f")]
        fn avx512(bytes: &[u8]) -> u32 {
            sum(bytes)
        }
        #[target_feature(enable = "avx2")]
        fn avx2(bytes: &[u8]) -> u32 {
            sum(bytes)
        }
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the CPU has the feature.
            return unsafe { avx512(bytes) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the CPU has the feature.
            return unsafe { avx2(bytes) };
        }
    }
    sum(bytes)
}
