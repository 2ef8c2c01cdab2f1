//! Bytes to reals.

use super::super::{Isa, Param, isa::compiled};
use super::{
    buffer::Buffer,
    lanes::Lanes,
    quantize::{Source, floats, integers},
};

/// Bytes to dequantize: `(value - zero_points) * scales`, values as in [`Source::Bytes`].
///
/// Safety contract of [`dequantize`]: `src` is readable, `dst` writable and every parameter valid for `len` values.
#[derive(Clone, Copy)]
pub(crate) struct DequantizeJob {
    pub src: *const u8,
    pub flip: u8,
    pub scales: Param<f32>,
    pub zero_points: Param<i32>,
    pub dst: *mut f32,
    pub len: usize,
}

/// Safety: as [`DequantizeJob`].
pub(crate) fn dequantize(isa: Isa) -> unsafe fn(&DequantizeJob) {
    compiled!(isa; fn(job: &DequantizeJob) = dequantize_over::<Lanes>)
}

/// # Safety
/// As [`DequantizeJob`]; the CPU has the features of `V`.
#[inline(always)]
unsafe fn dequantize_over<V: Lanes>(job: &DequantizeJob) {
    // SAFETY: whole vectors inside the job; the tail reads and writes buffers.
    unsafe {
        let mut at = 0;
        while at + V::LANES <= job.len {
            V::store_f(real::<V>(job, at), job.dst.add(at));
            at += V::LANES;
        }
        if at < job.len {
            let count = job.len - at;
            let (mut bytes, mut reals) = (Buffer::<u8>::NEW, Buffer::<f32>::NEW);
            let (mut scales, mut zeros) = (Buffer::<f32>::NEW, Buffer::<i32>::NEW);
            let padded = DequantizeJob {
                src: bytes.fill(job.src.add(at), count, 0),
                scales: scales.param(job.scales, at, count, 1.0),
                zero_points: zeros.param(job.zero_points, at, count, 0),
                ..*job
            };
            V::store_f(real::<V>(&padded, 0), reals.as_mut_ptr());
            core::ptr::copy_nonoverlapping(reals.as_mut_ptr(), job.dst.add(at), count);
        }
    }
}

/// # Safety
/// As [`dequantize`]; a vector from `at` lies inside the job.
#[inline(always)]
unsafe fn real<V: Lanes>(job: &DequantizeJob, at: usize) -> V::F {
    let source = Source::Bytes { ptr: job.src, flip: job.flip, zero_points: job.zero_points };
    // SAFETY: a vector of bytes and of each parameter from `at` is readable.
    unsafe { V::mul_f(V::to_f(integers::<V>(source, at)), floats::<V>(job.scales, at)) }
}
