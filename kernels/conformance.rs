//! Every method of every instruction set that this CPU has gives the bits that the plain one gives ([`Isa::Portable`]).
//!
//! [`Lanes`] and [`Narrow`] say what methods promise; values that they promise nothing of are left out here, or compared as loosely as
//! the promise goes. The kernels of this target name the instruction sets, so that a new one is tested as soon as it has a kernel.

use std::{format, vec, vec::Vec};

use quickcheck::quickcheck;

use super::{
    Isa, KERNELS,
    isa::compiled,
    vectors::{lanes::Lanes, narrow::Narrow},
};

/// Values are tried in multiples of so many: of every instruction set's vector, and of four of the widest.
const BLOCK: usize = 64;
/// What memory that no method may write is filled with.
const UNTOUCHED: u8 = 0xa5;

/// Integers at which arithmetic turns.
const INTEGERS: [i32; 16] = [
    0,
    1,
    -1,
    2,
    127,
    -128,
    255,
    -32768,
    32767,
    1 << 16,
    (1 << 24) + 1,
    -(1 << 30),
    1 << 30,
    i32::MAX - 1,
    i32::MAX,
    i32::MIN,
];

/// Reals at which arithmetic turns, NaNs among them: a negative, a signalling one.
fn reals() -> Vec<f32> {
    let mut reals = vec![0.0, 0.5, 1.0, 1.5, 2.5, 126.5, 127.5, 254.5, 255.5, 32767.0, 32768.0, 8_388_608.5];
    reals.extend([2147483520.0, 2147483648.0, 1e30, f32::MAX, f32::MIN_POSITIVE, f32::INFINITY]);
    reals.extend([0.5f32.next_down(), 0.5f32.next_up(), 1.0f32.next_down(), f32::from_bits(1)]);
    reals.extend([f32::NAN, f32::from_bits(0x7f80_0001)]);
    let negative: Vec<f32> = reals.iter().map(|x| -x).collect();
    reals.extend(negative);
    reals
}

/// What methods are tried on; values at the same place meet. Slices of a kind are as long as each other, in blocks.
#[derive(Clone, Debug)]
struct Values {
    integers: [Vec<i32>; 2],
    reals: [Vec<f32>; 2],
    /// Reals in the range of i16.
    small: Vec<f32>,
    bytes: Vec<u8>,
    /// `x`, `m`, `e` of scales in fixed point.
    scaled: [Vec<i32>; 3],
}

impl Values {
    /// All pairs of integers and of reals, all scales of all integers.
    fn edges() -> Self {
        let reals = reals();
        let small = |x: f32| f32::from(i16::MIN) <= x && x <= f32::from(i16::MAX);
        let integers: Vec<_> = pairs(&INTEGERS, &INTEGERS);
        let multipliers = [0, 1, 1 << 30, (1 << 30) + 1, 0x5a82_799a, i32::MAX - 1, i32::MAX];
        let scales = pairs(&multipliers, &(-31..=30).collect::<Vec<_>>());
        let scaled = pairs(&INTEGERS, &scales);
        Self {
            small: reals.iter().copied().filter(|&x| small(x)).collect(),
            bytes: (0..=255).collect(),
            integers: [integers.iter().map(|p| p.0).collect(), integers.iter().map(|p| p.1).collect()],
            reals: {
                let pairs = pairs(&reals, &reals);
                [pairs.iter().map(|p| p.0).collect(), pairs.iter().map(|p| p.1).collect()]
            },
            scaled: [
                scaled.iter().map(|s| s.0).collect(),
                scaled.iter().map(|s| s.1.0).collect(),
                scaled.iter().map(|s| s.1.1).collect(),
            ],
        }
        .in_blocks()
    }

    /// Values made of random words.
    fn random(words: &[(u32, u32)]) -> Self {
        let first = || words.iter().map(|w| w.0 as i32);
        let second = || words.iter().map(|w| w.1 as i32);
        let real = |bits: i32| f32::from_bits(bits as u32);
        Self {
            integers: [first().collect(), second().collect()],
            reals: [first().map(real).collect(), second().map(real).collect()],
            // Halves often, and fractions that are not.
            small: first().map(|x| (x >> 16) as f32 / if x & 1 == 0 { 2.0 } else { 3.0 }).collect(),
            bytes: first().map(|x| x as u8).collect(),
            scaled: [
                first().collect(),
                second().map(|m| m & i32::MAX).collect(),
                second().map(|e| e.rem_euclid(62) - 31).collect(),
            ],
        }
        .in_blocks()
    }

    fn in_blocks(mut self) -> Self {
        fn fill<T: Clone + Default>(values: &mut Vec<T>) {
            values.resize(values.len().next_multiple_of(BLOCK), T::default());
        }
        self.integers.iter_mut().chain(&mut self.scaled).for_each(fill);
        self.reals.iter_mut().for_each(fill);
        fill(&mut self.small);
        fill(&mut self.bytes);
        self
    }
}

fn pairs<A: Copy, B: Copy>(a: &[A], b: &[B]) -> Vec<(A, B)> {
    a.iter().flat_map(|&a| b.iter().map(move |&b| (a, b))).collect()
}

/// What a method made of each value, as bits.
struct Outcome {
    method: &'static str,
    bits: Vec<u32>,
}

/// Applies methods to whole slices of values, a vector at a time. A macro and not a function of closures, which would not be
/// compiled for the features.
macro_rules! apply {
    ($results:ident; $($method:ident $(::<$n:literal>)? ($($load:ident($argument:expr)),*) => $store:ident;)*) => {
        $({
            let mut bits = vec![0; [$($argument.len()),*][0]];
            for at in (0..bits.len()).step_by(V::LANES) {
                let result = V::$method $(::<$n>)? ($(V::$load($argument[at..].as_ptr())),*);
                V::$store(result, bits[at..].as_mut_ptr().cast());
            }
            let method = concat!(stringify!($method) $(, "::<", $n, ">")?);
            $results.push(Outcome { method, bits });
        })*
    };
}

/// The results of all methods of [`Lanes`] that make a vector of others.
///
/// # Safety
/// The CPU has the features of `V`.
#[inline(always)]
unsafe fn results_over<V: Lanes>(values: &Values) -> Vec<Outcome> {
    let mut results = Vec::new();
    let Values { integers: [a, b], reals: [x, y], small, scaled: [s, m, e], .. } = values;
    // SAFETY: the caller's; slices are whole vectors.
    unsafe {
        apply! { results;
            add_i(load_i(a), load_i(b)) => store_i;
            sub_i(load_i(a), load_i(b)) => store_i;
            mul_i(load_i(a), load_i(b)) => store_i;
            min_i(load_i(a), load_i(b)) => store_i;
            max_i(load_i(a), load_i(b)) => store_i;
            and_i(load_i(a), load_i(b)) => store_i;
            xor_i(load_i(a), load_i(b)) => store_i;
            shift_right::<1>(load_i(a)) => store_i;
            shift_right::<8>(load_i(a)) => store_i;
            shift_right::<15>(load_i(a)) => store_i;
            shift_right::<16>(load_i(a)) => store_i;
            shift_right::<31>(load_i(a)) => store_i;
            add_f(load_f(x), load_f(y)) => store_f;
            sub_f(load_f(x), load_f(y)) => store_f;
            mul_f(load_f(x), load_f(y)) => store_f;
            div_f(load_f(x), load_f(y)) => store_f;
            min_f(load_f(x), load_f(y)) => store_f;
            max_f(load_f(x), load_f(y)) => store_f;
            ge_f(load_f(x), load_f(y)) => store_i;
            zero_nan(load_f(x)) => store_f;
            bits(load_f(x)) => store_i;
            from_bits(load_i(a)) => store_f;
            to_f(load_i(a)) => store_f;
            to_i(load_f(small)) => store_i;
            scale_single_rounding(load_i(s), load_i(m), load_i(e)) => store_i;
            scale_double_rounding(load_i(s), load_i(m), load_i(e)) => store_i;
        }
    }
    results
}

/// Whether `bits` may stand for `plain` bits, which the plain method made of a pair of reals or of something else.
fn conforms(method: &str, plain: u32, bits: u32, [x, y]: [f32; 2]) -> bool {
    let signalling = |x: f32| x.is_nan() && x.to_bits() & 1 << 22 == 0;
    let (p, r) = (f32::from_bits(plain), f32::from_bits(bits));
    match method {
        // Which NaN arithmetic makes is nobody's promise.
        "add_f" | "sub_f" | "mul_f" | "div_f" => plain == bits || p.is_nan() && r.is_nan(),
        "min_f" | "max_f" => y.is_nan() || signalling(x) || p == r,
        _ => plain == bits,
    }
}

/// Compares all methods that make a vector of others with the plain ones.
fn compare(values: &Values) {
    let results = |isa| {
        // SAFETY: the CPU has the instruction set.
        unsafe { compiled!(isa; fn(values: &Values) -> Vec<Outcome> = results_over::<Lanes>)(values) }
    };
    let plain = results(Isa::Portable);
    // The first wrong value of each method.
    let mut wrong = Vec::new();
    for isa in instruction_sets() {
        for (plain, result) in plain.iter().zip(results(isa)) {
            let reals = |i| [0, 1].map(|n| values.reals[n].get(i).copied().unwrap_or_default());
            let mut bits = plain.bits.iter().zip(&result.bits).enumerate();
            if let Some((i, (p, r))) = bits.find(|&(i, (&p, &r))| !conforms(plain.method, p, r, reals(i))) {
                wrong.push(format!("{isa:?} {}, value {i}: {r:#x}, not {p:#x}", plain.method));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The instruction sets of the kernels that this CPU runs.
fn instruction_sets() -> Vec<Isa> {
    let mut sets = Vec::new();
    for kernel in KERNELS.iter().filter(|kernel| (kernel.is_available)()) {
        if !sets.contains(&kernel.isa) {
            sets.push(kernel.isa);
        }
    }
    sets
}

/// Memory that a method writes some of: at odd addresses, as methods need no alignment.
struct Room([u8; 8 * BLOCK]);

impl Room {
    const NEW: Self = Self([UNTOUCHED; 8 * BLOCK]);

    /// Where something of `T` that starts `at` bytes behind the first odd address goes.
    fn at<T>(&mut self, at: usize) -> *mut T {
        let odd = self.0.as_ptr().addr() % 2;
        self.0[1 - odd + at..].as_mut_ptr().cast()
    }

    /// Takes what was written from `at` on.
    fn take<const N: usize>(&mut self, at: usize) -> [u8; N] {
        // SAFETY: inside the room: every place ends before it does.
        unsafe { self.at::<[u8; N]>(at).replace([UNTOUCHED; N]) }
    }

    /// Nothing but what was taken had been written.
    fn assert_untouched(&self) {
        assert!(self.0.iter().all(|&byte| byte == UNTOUCHED), "more was written");
    }
}

/// Checks what is said of loads and stores, of rows, of lines to come, and of answers.
///
/// # Safety
/// The CPU has the features of `V`.
#[inline(always)]
unsafe fn memory_over<V: Lanes>(values: &Values) {
    let mut room = Room::NEW;
    let Values { integers: [a, _], reals: [x, _], bytes, .. } = values;
    // SAFETY: the caller's; slices are blocks, and the room is larger than one.
    unsafe {
        for a in a.chunks_exact(4 * V::LANES) {
            let v: [V::I; 4] = core::array::from_fn(|i| V::load_i(a[i * V::LANES..].as_ptr()));
            V::store_i(v[0], room.at(0));
            let v0 = V::load_i(room.at(0));
            for i in 0..V::LANES {
                assert_eq!(i32::from_ne_bytes(room.take(4 * i)), a[i], "store_i, load_i");
            }
            V::store_i(v0, room.at(0));
            for i in 0..V::LANES {
                assert_eq!(i32::from_ne_bytes(room.take(4 * i)), a[i], "load_i at an odd address");
            }
            V::store_low_bytes(v[0], room.at(0));
            for i in 0..V::LANES {
                assert_eq!(room.take(i), [a[i] as u8], "store_low_bytes");
            }
            V::store_low_bytes_of_4(v, room.at(0));
            for i in 0..4 * V::LANES {
                assert_eq!(room.take(i), [a[i] as u8], "store_low_bytes_of_4");
            }
            V::store_i(V::splat_i(a[0]), room.at(0));
            for i in 0..V::LANES {
                assert_eq!(i32::from_ne_bytes(room.take(4 * i)), a[0], "splat_i");
            }
            room.assert_untouched();
        }
        for x in x.chunks_exact(V::LANES) {
            V::store_f(V::load_f(x.as_ptr()), room.at(0));
            V::store_f(V::load_f(room.at(0)), room.at(4 * V::LANES));
            V::store_f(V::splat_f(x[0]), room.at(8 * V::LANES));
            for i in 0..V::LANES {
                let bits = x[i].to_bits();
                assert_eq!(u32::from_ne_bytes(room.take(4 * i)), bits, "store_f, load_f");
                assert_eq!(
                    u32::from_ne_bytes(room.take(4 * (V::LANES + i))),
                    bits,
                    "load_f at an odd address"
                );
                let splat = u32::from_ne_bytes(room.take(4 * (2 * V::LANES + i)));
                assert_eq!(splat, x[0].to_bits(), "splat_f");
            }
            room.assert_untouched();
        }
        for bytes in bytes.chunks_exact(V::LANES) {
            V::store_i(V::load_bytes(bytes.as_ptr()), room.at(0));
            for i in 0..V::LANES {
                assert_eq!(i32::from_ne_bytes(room.take(4 * i)), i32::from(bytes[i]), "load_bytes");
            }
            room.assert_untouched();
        }
        let first = room.at::<i32>(0);
        let mut row = first;
        for r in 0..12 {
            row = V::row(first, row, r, 5);
            assert_eq!(row, first.wrapping_add(5 * r), "row");
        }
        V::prefetch(core::ptr::null());
        V::prefetch(core::ptr::without_provenance(usize::MAX));
        // Each lane may be the one that decides.
        let (mut answers, mut truths) = (Vec::new(), Vec::new());
        for (i, x) in reals().into_iter().enumerate() {
            let mut lanes = [0.5f32; BLOCK];
            lanes[i % V::LANES] = x;
            answers.push(V::all_below(V::load_f(lanes.as_ptr()), V::splat_f(1.0)));
            truths.push(x < 1.0);
        }
        assert!(answers == truths || !answers.contains(&true), "all_below: {answers:?}, not {truths:?}");
    }
}

/// Steps to make bytes of.
struct Steps<'a> {
    steps: &'a [f32],
    zero_point: i32,
    min: i32,
    max: i32,
    in_range: bool,
    /// Limit bytes even where nothing is said to come of it.
    limit: bool,
    /// [`Narrow::store_bytes`]'s.
    together: usize,
    /// Its too: of four vectors, so many are stored.
    count: usize,
}

/// The byte of each step that is stored.
///
/// # Safety
/// The CPU has the features of `V`.
#[inline(always)]
unsafe fn bytes_over<V: Narrow>(job: &Steps) -> Vec<Option<u8>> {
    let mut room = Room::NEW;
    let mut bytes = Vec::new();
    // SAFETY: the caller's; steps are blocks, and the room is larger than one with what is left free in it.
    unsafe {
        let to = V::byte_range(job.zero_point, job.min, job.max);
        for steps in job.steps.chunks_exact(4 * V::LANES) {
            let steps: [V::F; 4] = core::array::from_fn(|i| V::load_f(steps[i * V::LANES..].as_ptr()));
            let mut narrowed = V::narrow(steps, &to, job.in_range);
            if job.limit || V::limits(&to) {
                narrowed = V::limit(narrowed, &to);
            }
            // Vectors that are stored together are adjacent, the next begin some bytes behind.
            let place = |i: usize| i * V::LANES + 3 * (i / job.together);
            let start = room.at::<u8>(0);
            let places = core::array::from_fn(|i| start.add(place(i)));
            match job.together {
                1 => V::store_bytes::<1>(narrowed, &to, places, job.count),
                2 => V::store_bytes::<2>(narrowed, &to, places, job.count),
                _ => V::store_bytes::<4>(narrowed, &to, places, job.count),
            }
            for i in 0..4 * V::LANES {
                let (vector, lane) = (i / V::LANES, i % V::LANES);
                bytes.push((vector < job.count).then(|| room.take::<1>(place(vector) + lane)[0]));
            }
            room.assert_untouched();
        }
    }
    bytes
}

/// Compares the bytes of steps with the plain ones, for many ranges and all ways to store them.
fn compare_bytes(steps: &[f32]) {
    const WAYS: [(usize, usize); 7] = [(1, 1), (1, 2), (1, 3), (1, 4), (2, 2), (2, 4), (4, 4)];
    let ranges = |zeros: &[i32], ranges: &[(i32, i32)]| pairs(zeros, ranges);
    let signed = ranges(&[-128, -1, 0, 5, 127], &[(-128, 127), (-128, 0), (0, 127), (-5, 10), (7, 7)]);
    let unsigned = ranges(&[0, 1, 128, 255], &[(0, 255), (0, 128), (100, 200), (255, 255)]);
    let converts = |x: f32| i32::MIN as f32 <= x && x < -(i32::MIN as f32);
    let numbers: Vec<f32> = steps.iter().map(|&x| if x.is_nan() { 0.0 } else { x }).collect();
    let converted: Vec<f32> = steps.iter().map(|&x| if converts(x) { x } else { 0.0 }).collect();
    for ((zero_point, (min, max)), in_range) in pairs(&[signed, unsigned].concat(), &[false, true]) {
        let steps = if in_range { &converted } else { &numbers };
        let job = |limit, (together, count)| Steps {
            steps,
            zero_point,
            min,
            max,
            in_range,
            limit,
            together,
            count,
        };
        let bytes = |isa, job: &Steps| {
            // SAFETY: the CPU has the instruction set.
            unsafe { compiled!(isa; fn(job: &Steps) -> Vec<Option<u8>> = bytes_over::<Lanes>)(job) }
        };
        let plain = bytes(Isa::Portable, &job(true, (1, 4)));
        for (isa, (limit, way)) in pairs(&instruction_sets(), &pairs(&[false, true], &WAYS)) {
            for (i, (p, b)) in plain.iter().zip(bytes(isa, &job(limit, way))).enumerate() {
                let range = (zero_point, min, max, in_range, limit, way);
                assert!(b.is_none() || b == *p, "{isa:?} {range:?}: {} is {b:?}, not {p:?}", steps[i]);
            }
        }
    }
}

#[test]
fn methods_at_edges() {
    let values = Values::edges();
    compare(&values);
    for isa in instruction_sets() {
        // SAFETY: the CPU has the instruction set.
        unsafe { compiled!(isa; fn(values: &Values) = memory_over::<Lanes>)(&values) }
    }
}

#[test]
fn bytes_at_edges() {
    let mut steps = reals();
    // Around all bytes and their zero points, halves among them.
    steps.extend((-1200..=1200).map(|x| x as f32 / 4.0));
    steps.resize(steps.len().next_multiple_of(BLOCK), -0.5);
    compare_bytes(&steps);
}

quickcheck! {
    fn methods_of_random_values(words: Vec<(u32, u32)>) -> bool {
        compare(&Values::random(&words));
        true
    }

    fn bytes_of_random_steps(words: Vec<(u32, u32)>) -> bool {
        let values = Values::random(&words);
        compare_bytes(&[&values.reals[0][..], &values.small].concat());
        true
    }
}
