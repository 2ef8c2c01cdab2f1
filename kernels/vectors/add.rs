//! The sum of two quantized slices: what joins the branches of a residual network. Written once over [`Lanes`], looked up
//! by instruction set.
//!
//! Both terms become f32 steps of the output, `f32(q - zero_point) * scale`, are added, clamped to integers, and rounded half to
//! even. Two multiplications and one addition, each rounded: nothing is contracted into a fused multiply-add, so every kernel gives
//! the same bits. Three bytes move for each value; memory is the limit.

use super::super::{Isa, isa::compiled};
use super::{buffer::Buffer, lanes::Lanes};

/// Two slices of bytes to add.
///
/// Safety contract of [`add`]: both sources are readable and `dst` is writable for `len` values, `min - zero_point` and
/// `max - zero_point` lie in -511..=511.
#[derive(Clone, Copy)]
pub(crate) struct AddJob {
    pub src: [*const u8; 2],
    /// 0 for u8 sources, 0x80 for i8.
    pub flip: u8,
    pub zero_points: [i32; 2],
    /// Scales of the sources, in steps of the output.
    pub scales: [f32; 2],
    pub zero_point: i32,
    pub min: i32,
    pub max: i32,
    pub dst: *mut u8,
    pub len: usize,
}

/// Safety: as [`AddJob`]; the CPU has the instruction set.
pub(crate) fn add(isa: Isa) -> unsafe fn(&AddJob) {
    compiled!(isa; fn(job: &AddJob) = add_over::<Lanes>)
}

/// What is the same for every vector.
struct Common<V: Lanes> {
    flip: V::I,
    /// Zero points, and the weight of a flipped sign.
    zeros: [V::I; 2],
    scales: [V::F; 2],
    low: V::F,
    high: V::F,
    zero: V::I,
}

impl<V: Lanes> Common<V> {
    /// # Safety
    /// The CPU has the features of `V`.
    #[inline(always)]
    unsafe fn new(job: &AddJob) -> Self {
        let flip = i32::from(job.flip);
        // SAFETY: the CPU has the features of `V`.
        unsafe {
            Self {
                flip: V::splat_i(flip),
                zeros: [V::splat_i(flip + job.zero_points[0]), V::splat_i(flip + job.zero_points[1])],
                scales: [V::splat_f(job.scales[0]), V::splat_f(job.scales[1])],
                low: V::splat_f((job.min - job.zero_point) as f32),
                high: V::splat_f((job.max - job.zero_point) as f32),
                zero: V::splat_i(job.zero_point),
            }
        }
    }

    /// # Safety
    /// As [`Common::new`]; a vector at each pointer is readable.
    #[inline(always)]
    unsafe fn sum(&self, a: *const u8, b: *const u8) -> V::I {
        // SAFETY: both vectors of bytes are readable, and the CPU has the features of `V`.
        unsafe {
            let a = V::to_f(V::sub_i(V::xor_i(V::load_bytes(a), self.flip), self.zeros[0]));
            let b = V::to_f(V::sub_i(V::xor_i(V::load_bytes(b), self.flip), self.zeros[1]));
            let steps = V::add_f(V::mul_f(a, self.scales[0]), V::mul_f(b, self.scales[1]));
            let clamped = V::min_f(V::max_f(V::zero_nan(steps), self.low), self.high);
            V::add_i(V::to_i(clamped), self.zero)
        }
    }
}

/// # Safety
/// As [`AddJob`]; the CPU has the features of `V`.
#[inline(always)]
unsafe fn add_over<V: Lanes>(job: &AddJob) {
    let [a, b] = job.src;
    // SAFETY: whole vectors inside the job; the tail reads and writes buffers.
    unsafe {
        let common = Common::<V>::new(job);
        let mut at = 0;
        while at + 4 * V::LANES <= job.len {
            let v = [
                common.sum(a.add(at), b.add(at)),
                common.sum(a.add(at + V::LANES), b.add(at + V::LANES)),
                common.sum(a.add(at + 2 * V::LANES), b.add(at + 2 * V::LANES)),
                common.sum(a.add(at + 3 * V::LANES), b.add(at + 3 * V::LANES)),
            ];
            V::store_low_bytes_of_4(v, job.dst.add(at));
            at += 4 * V::LANES;
        }
        while at < job.len {
            let count = (job.len - at).min(V::LANES);
            if count == V::LANES {
                V::store_low_bytes(common.sum(a.add(at), b.add(at)), job.dst.add(at));
            } else {
                let (mut left, mut right, mut out) =
                    (Buffer::<u8>::NEW, Buffer::<u8>::NEW, Buffer::<u8>::NEW);
                let sum = common.sum(left.fill(a.add(at), count, 0), right.fill(b.add(at), count, 0));
                V::store_low_bytes(sum, out.as_mut_ptr());
                core::ptr::copy_nonoverlapping(out.as_mut_ptr(), job.dst.add(at), count);
            }
            at += count;
        }
    }
}
