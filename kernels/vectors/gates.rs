//! The gates of recurrent cells, fused: both products' sums, sigmoid and tanh, the new state. Written once over [`Lanes`],
//! looked up by instruction set.
//!
//! tanh is a quotient of two polynomials, x * P(x^2) / Q(x^2), of degree 13 and 6 (the coefficients that Eigen uses), clamped
//! to where it reaches 1; sigmoid(x) = 0.5 + 0.5 tanh(x / 2). Additions, multiplications and one division, each rounded:
//! nothing is contracted into a fused multiply-add, so every kernel gives the same bits.

use super::super::{Isa, isa::compiled};
use super::{buffer::MAX_LANES, lanes::Lanes};

/// Beyond this tanh is 1 to f32.
pub(crate) const TANH_CLAMP: f32 = 7.905_311;
/// Coefficients of x^13, x^11 ... x.
pub(crate) const TANH_P: [f32; 7] = [
    -2.760_768_5e-16,
    2.000_188e-13,
    -8.604_672e-11,
    5.122_297e-8,
    1.485_722_4e-5,
    6.372_619e-4,
    4.893_524_6e-3,
];
/// Coefficients of x^6, x^4, x^2 and 1.
pub(crate) const TANH_Q: [f32; 4] = [1.198_258_4e-6, 1.185_347_1e-4, 2.268_434_6e-3, 4.893_525e-3];

/// One row of a batch: `len` units, their gates one after the other at multiples of `stride`.
///
/// Safety contract of [`lstm`] (4 gates) and [`gru`] (3): `input` and `recurrent` are readable for `len` values at
/// every multiple of `stride` up to the last gate, `h` is readable and writable for `len` values, and so is `c` for an LSTM.
/// None of them overlap.
#[derive(Clone, Copy)]
pub(crate) struct CellJob {
    /// Product of the step's input and its weights, with its bias.
    pub input: *const f32,
    /// Product of the hidden state and its weights, with its bias.
    pub recurrent: *const f32,
    pub stride: usize,
    pub h: *mut f32,
    pub c: *mut f32,
    pub len: usize,
}

/// One step of an LSTM. Safety: as [`CellJob`]; the CPU has the instruction set.
pub(crate) fn lstm(isa: Isa) -> unsafe fn(&CellJob) {
    compiled!(isa; fn(job: &CellJob) = lstm_over::<Lanes>)
}

/// One step of a GRU. Safety: as [`CellJob`]; the CPU has the instruction set.
pub(crate) fn gru(isa: Isa) -> unsafe fn(&CellJob) {
    compiled!(isa; fn(job: &CellJob) = gru_over::<Lanes>)
}

/// # Safety
/// The CPU has the features of `V`.
#[inline(always)]
unsafe fn tanh<V: Lanes>(x: V::F) -> V::F {
    // SAFETY: the CPU has the features of `V`.
    unsafe {
        let x = V::min_f(V::max_f(V::zero_nan(x), V::splat_f(-TANH_CLAMP)), V::splat_f(TANH_CLAMP));
        let square = V::mul_f(x, x);
        let mut p = V::splat_f(TANH_P[0]);
        for &coefficient in &TANH_P[1..] {
            p = V::add_f(V::mul_f(p, square), V::splat_f(coefficient));
        }
        let mut q = V::splat_f(TANH_Q[0]);
        for &coefficient in &TANH_Q[1..] {
            q = V::add_f(V::mul_f(q, square), V::splat_f(coefficient));
        }
        let y = V::div_f(V::mul_f(x, p), q);
        V::min_f(V::max_f(y, V::splat_f(-1.0)), V::splat_f(1.0))
    }
}

/// # Safety
/// The CPU has the features of `V`.
#[inline(always)]
unsafe fn sigmoid<V: Lanes>(x: V::F) -> V::F {
    // SAFETY: the CPU has the features of `V`.
    unsafe {
        let half = V::splat_f(0.5);
        V::add_f(V::mul_f(tanh::<V>(V::mul_f(x, half)), half), half)
    }
}

/// A kind of cell: how a vector of its units takes a step.
trait Cell<V: Lanes> {
    const GATES: usize;
    /// # Safety
    /// As [`CellJob`]; the vector from `at` lies inside the job.
    unsafe fn at(job: &CellJob, at: usize);
}

struct Lstm;

impl<V: Lanes> Cell<V> for Lstm {
    const GATES: usize = 4;
    #[inline(always)]
    unsafe fn at(job: &CellJob, at: usize) {
        // SAFETY: the vector from `at` lies inside every gate and state that is read or written.
        unsafe {
            let i = sigmoid::<V>(sum::<V>(job, 0, at));
            let f = sigmoid::<V>(sum::<V>(job, 1, at));
            let g = tanh::<V>(sum::<V>(job, 2, at));
            let o = sigmoid::<V>(sum::<V>(job, 3, at));
            let c = V::add_f(V::mul_f(f, V::load_f(job.c.add(at))), V::mul_f(i, g));
            V::store_f(c, job.c.add(at));
            V::store_f(V::mul_f(o, tanh::<V>(c)), job.h.add(at));
        }
    }
}

struct Gru;

impl<V: Lanes> Cell<V> for Gru {
    const GATES: usize = 3;
    #[inline(always)]
    unsafe fn at(job: &CellJob, at: usize) {
        // SAFETY: the vector from `at` lies inside every gate and state that is read or written.
        unsafe {
            let r = sigmoid::<V>(sum::<V>(job, 0, at));
            let z = sigmoid::<V>(sum::<V>(job, 1, at));
            let gate = 2 * job.stride + at;
            let recurrent = V::mul_f(r, V::load_f(job.recurrent.add(gate)));
            let n = tanh::<V>(V::add_f(V::load_f(job.input.add(gate)), recurrent));
            let kept = V::mul_f(z, V::load_f(job.h.add(at)));
            let new = V::mul_f(V::sub_f(V::splat_f(1.0), z), n);
            V::store_f(V::add_f(new, kept), job.h.add(at));
        }
    }
}

/// What both products say of a gate, added.
///
/// # Safety
/// As [`Cell::at`].
#[inline(always)]
unsafe fn sum<V: Lanes>(job: &CellJob, gate: usize, at: usize) -> V::F {
    let at = gate * job.stride + at;
    // SAFETY: the gate's vectors from `at` lie inside both products.
    unsafe { V::add_f(V::load_f(job.input.add(at)), V::load_f(job.recurrent.add(at))) }
}

/// # Safety
/// As [`CellJob`]; the CPU has the features of `V`.
#[inline(always)]
unsafe fn lstm_over<V: Lanes>(job: &CellJob) {
    // SAFETY: the job has 4 gates and both states.
    unsafe { run::<V, Lstm>(job) }
}

/// # Safety
/// As [`CellJob`]; the CPU has the features of `V`.
#[inline(always)]
unsafe fn gru_over<V: Lanes>(job: &CellJob) {
    // SAFETY: the job has 3 gates and one state.
    unsafe { run::<V, Gru>(job) }
}

/// Runs over the units. The last few go through padded buffers.
///
/// # Safety
/// As [`CellJob`]; the CPU has the features of `V`.
#[inline(always)]
unsafe fn run<V: Lanes, C: Cell<V>>(job: &CellJob) {
    let mut at = 0;
    // SAFETY: whole vectors inside the job; the tail's are inside buffers, and its copies inside both.
    unsafe {
        while at + V::LANES <= job.len {
            C::at(job, at);
            at += V::LANES;
        }
        let count = job.len - at;
        if count == 0 {
            return;
        }
        let (mut input, mut recurrent) = ([[0.0f32; MAX_LANES]; 4], [[0.0f32; MAX_LANES]; 4]);
        for gate in 0..C::GATES {
            let from = gate * job.stride + at;
            job.input.add(from).copy_to_nonoverlapping(input[gate].as_mut_ptr(), count);
            job.recurrent.add(from).copy_to_nonoverlapping(recurrent[gate].as_mut_ptr(), count);
        }
        // A GRU has no second state.
        let states = if C::GATES == 4 { 2 } else { 1 };
        let from = [job.h, job.c];
        let mut state = [[0.0f32; MAX_LANES]; 2];
        for s in 0..states {
            from[s].add(at).copy_to_nonoverlapping(state[s].as_mut_ptr(), count);
        }
        let [h, c] = &mut state;
        let padded = CellJob {
            input: input.as_ptr().cast(),
            recurrent: recurrent.as_ptr().cast(),
            stride: MAX_LANES,
            h: h.as_mut_ptr(),
            c: c.as_mut_ptr(),
            len: V::LANES,
        };
        C::at(&padded, 0);
        for s in 0..states {
            from[s].add(at).copy_from_nonoverlapping(state[s].as_ptr(), count);
        }
    }
}
