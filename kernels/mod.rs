//! Hand-written micro-kernels, one file per instruction set, and the contract they meet.
//!
//! A [`Kernel`] is a table entry: the shape of its panels, and functions that pack `lhs` rows and multiply a
//! [`Job`] (some rows of `lhs` by some panels of `rhs`, through the epilogue, into `out`). Nothing here allocates,
//! starts a thread, checks arguments or knows of the crate above it.
//!
//! # Panels of `rhs`
//!
//! Weights are stored as i8 (a u8 weight `w` as `w ^ 0x80`, that is `w - 128`, its zero point shifted alike) in
//! panels of `nr` columns, K padded with zeros to a multiple of `kr`:
//!
//! ```text
//! value(k, n) at ((n / nr) * (K_padded / kr) + k / kr) * nr * kr  +  (n % nr) * kr  +  k % kr
//! ```
//!
//! One layout serves every tile of a kernel, from one row to `mr`.
//!
//! # What a kernel sees of `lhs`
//!
//! See [`LhsFormat`]. Either way the rows of a job start `lhs_stride` bytes apart: a panel of `h` rows takes
//! `h * lhs_stride` bytes, so the tile that starts at row `i` starts at `i * lhs_stride`.

#![allow(clippy::needless_range_loop, reason = "register tiles are indexed by row and vector")]

use core::ffi::c_void;

#[cfg_attr(not(feature = "alloc"), allow(dead_code, reason = "for layers, which need it"))]
pub(crate) mod add;
#[cfg_attr(not(feature = "alloc"), allow(dead_code, reason = "for layers, which need it"))]
pub(crate) mod depthwise;
#[cfg_attr(
    not(all(feature = "alloc", i8gemm_x86_64)),
    allow(dead_code, reason = "for layers, which need it, and no other target has pairs")
)]
pub(crate) mod depthwise3x3;
mod drive;
mod epilogue;
#[cfg_attr(not(feature = "alloc"), allow(dead_code, reason = "for layers, which need it"))]
pub(crate) mod gates;
mod isa;
mod lanes;
pub(crate) mod layout;
pub(crate) mod portable;
pub(crate) mod slices;

pub(crate) use epilogue::{End, EndByte, EndF32, EndFixed, EndI32};
pub(crate) use isa::Isa;

/// The kernels of this target, best first: the order is by measurement, not by age of the instruction set. Each has a table entry and
/// a product.
macro_rules! kernels {
    ($($id:ident: $table:expr, $($multiply:ident)::+;)*) => {
        /// One of the kernels of this target.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(crate) enum Id {
            $(#[allow(missing_docs, reason = "the table entry says")] $id,)*
        }

        /// The table entries.
        pub(crate) static KERNELS: &[&Kernel] = &[$(&$table),*];

        /// The product of a kernel with one end: looked up where an output is described, so that no other end is linked.
        pub(crate) fn multiply<E: End>(id: Id) -> Multiply {
            match id {
                $(Id::$id => $($multiply)::+::<E>,)*
            }
        }
    };
}

cfg_if::cfg_if! {
    if #[cfg(i8gemm_x86_64)] {
        pub(crate) mod x86;
        kernels! {
            Avx512Vnni: x86::avx512_vnni::KERNEL, x86::avx512_vnni::multiply;
            AvxVnni: x86::avx_vnni::KERNEL, x86::avx_vnni::multiply;
            Avx2: x86::avx2::KERNEL, x86::avx2::multiply;
            Portable: portable::KERNEL, portable::multiply;
        }
    } else if #[cfg(i8gemm_aarch64)] {
        pub(crate) mod aarch64;
        use aarch64::{dotprod, i8mm, neon};
        kernels! {
            NeonI8mm: i8mm::KERNEL, i8mm::multiply;
            NeonDotprod: dotprod::KERNEL, dotprod::multiply;
            NeonDotprodA55: dotprod::KERNEL_A55, dotprod::multiply_a55;
            Neon: neon::KERNEL, neon::multiply;
            NeonA53: neon::KERNEL_A53, neon::multiply_a53;
            Portable: portable::KERNEL, portable::multiply;
        }

        /// The same for machines whose cores are all of those that the in-order schedules are made for.
        static KERNELS_IN_ORDER: &[&Kernel] = &[
            &i8mm::KERNEL,
            &dotprod::KERNEL_A55,
            &dotprod::KERNEL,
            &neon::KERNEL_A53,
            &neon::KERNEL,
            &portable::KERNEL,
        ];
    } else if #[cfg(i8gemm_arm)] {
        pub(crate) mod arm;
        kernels! {
            ArmV7Neon: arm::neon::KERNEL, arm::neon::multiply;
            Portable: portable::KERNEL, portable::multiply;
        }
    } else {
        kernels! {
            Portable: portable::KERNEL, portable::multiply;
        }
    }
}

/// The kernels of this target, best first, for a machine whose cores are all of those that in-order schedules are made for, or for another.
pub(crate) fn kernels(in_order: bool) -> &'static [&'static Kernel] {
    #[cfg(i8gemm_aarch64)]
    if in_order {
        return KERNELS_IN_ORDER;
    }
    let _ = in_order;
    KERNELS
}

/// Every kernel name of every target, so that a pin can tell "unknown" from "not on this target".
pub(crate) static ALL_NAMES: &[&str] = &[
    "avx512_vnni",
    "avx_vnni",
    "avx2",
    "neon_i8mm",
    "neon_dotprod",
    "neon_dotprod_a55",
    "neon",
    "neon_a53",
    "armv7_neon",
    "portable",
];

/// One micro-kernel family on one instruction set.
pub(crate) struct Kernel {
    /// The name that users read and pin.
    pub name: &'static str,
    /// Which of them.
    pub id: Id,
    /// What everything but products is compiled for on the same CPUs.
    pub isa: Isa,
    /// The instruction the kernel is built on, for tables.
    pub instruction: &'static str,
    /// Whether this CPU has every feature the kernel's functions are compiled for.
    pub is_available: fn() -> bool,
    /// Rows of the largest tile.
    pub mr: usize,
    /// Columns of a panel of `rhs`.
    pub nr: usize,
    /// Depth of one step; panels are padded to a multiple of it.
    pub kr: usize,
    /// What the kernel reads as `lhs`.
    pub lhs: LhsFormat,
    /// Whether this CPU loses nothing when the kernel turns rows of bytes of the other signedness into its own as it reads them
    /// ([`Job::flip_lhs`]), so that they need no copy.
    pub flips_lhs: fn() -> bool,
    /// Whether the sum that the kernel computes lacks a per-column constant, which it takes from
    /// [`Epilogue::sum_offset`].
    pub offset: SumOffset,
    /// Bytes of scratch that a product needs for a depth of `k`; a multiple of 64.
    pub scratch: fn(k: usize) -> usize,
    /// Bytes from one prepared row of `lhs` to the next.
    pub lhs_stride: fn(k: usize) -> usize,
    /// Packs the panel of weights that starts at a column, a multiple of `nr`, and adds up its `nr` columns, those beyond N being zeros:
    /// the sums of their packed values, and of those of the second half of each step if there is room for them. Safety: see
    /// [`layout::RhsBytes`].
    pub pack_rhs: unsafe fn(
        src: &layout::RhsBytes,
        first: usize,
        panel: &mut [i8],
        sums: &mut [i32],
        late_sums: &mut [i32],
    ),
    /// Brings rows of bytes to the kernel's format. Safety: see [`LhsRows`]; `dst` has room for
    /// `rows * lhs_stride(k)` bytes; the CPU has the kernel's features.
    pub pack_lhs: unsafe fn(src: &LhsRows, dst: *mut u8),
    /// Sums of the rows as the kernel sees their values. Safety: as `pack_lhs`; `dst` has room for `rows` sums.
    pub row_sums: unsafe fn(src: &LhsRows, dst: *mut i32),
}

/// What a kernel reads as `lhs`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(dead_code, reason = "no target's kernels use every format")]
pub(crate) enum LhsFormat {
    /// Rows of bytes of one signedness; rows that have it already are read where they lie, those of the other too if
    /// [`Kernel::flips_lhs`].
    Bytes {
        /// u8 rather than i8.
        unsigned: bool,
    },
    /// A format of the kernel's own that keeps i8 and u8 values as they are.
    PackedAsIs,
    /// A format of the kernel's own, of i8 values.
    PackedSigned,
}

impl LhsFormat {
    /// What is added to a value of `lhs` (and to its zero point) to get the value that the kernel multiplies.
    pub fn shift(self, lhs_unsigned: bool) -> i32 {
        match (self, lhs_unsigned) {
            (Self::Bytes { unsigned: true }, false) => 128,
            (Self::Bytes { unsigned: false } | Self::PackedSigned, true) => -128,
            _ => 0,
        }
    }
}

/// The per-column constant that a kernel's sum lacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(dead_code, reason = "not every target has a kernel with an offset")]
pub(crate) enum SumOffset {
    /// None: the sum is the dot product.
    None,
    /// The sum is too large by the weights of the second half of every step of `kr`.
    SecondHalves,
}

/// Rows of `lhs` as bytes, each contiguous.
///
/// Safety contract of the functions that take it: `ptr + i * row_stride .. + k` is readable for every `i < rows`.
pub(crate) struct LhsRows {
    /// First byte of the first row.
    pub ptr: *const u8,
    /// Bytes from one row to the next.
    pub row_stride: usize,
    /// Rows.
    pub rows: usize,
    /// Bytes of each row that are values.
    pub k: usize,
    /// The bytes are u8 values rather than i8.
    pub unsigned: bool,
}

/// Some rows of `lhs` times some columns of `rhs`, through the epilogue, into `out`.
///
/// Safety contract of [`Multiply`]:
/// - `lhs + i * lhs_stride` is the prepared row `i < rows` (format of the kernel but for `flip_lhs`, depth `k`); the rows of panels are
///   those that `pack_lhs` makes of exactly these `rows` rows;
/// - `rhs` is the first of `ceil(cols / nr)` adjacent panels of depth `k`;
/// - `scratch` has `Kernel::scratch(k)` bytes, aligned to 64;
/// - every pointer of the epilogue is valid for the rows or columns of the product, among which this job's begin at `first_row`
///   and `first_col`; `row_sums` is valid for `rows` elements if the epilogue has an `rhs_zero`;
/// - `out` is writable at `i * out_row_stride + j * out_col_stride` for `i < rows`, `j < cols`, and nothing else
///   touches those elements during the call.
pub(crate) struct Job<'a> {
    pub rows: usize,
    pub cols: usize,
    pub k: usize,
    pub lhs: *const u8,
    /// Bytes.
    pub lhs_stride: usize,
    /// The rows are bytes of the other signedness than the kernel's: never set unless [`Kernel::flips_lhs`].
    pub flip_lhs: bool,
    pub rhs: *const i8,
    pub scratch: *mut u8,
    pub epilogue: &'a Epilogue,
    pub first_row: usize,
    pub first_col: usize,
    /// Sum of each of the job's rows, as the kernel sees its values.
    pub row_sums: *const i32,
    pub out: *mut c_void,
    /// Elements of the output type.
    pub out_row_stride: usize,
    /// Elements of the output type.
    pub out_col_stride: usize,
}

/// Computes a job. Safety: see [`Job`]; its store is the end's; the CPU has the kernel's features.
pub(crate) type Multiply = unsafe fn(job: &Job);

/// What turns the kernel's sums into outputs.
///
/// With `a`, `b` the values that the kernel multiplies and `za`, `zb` their zero points, both shifted alike:
///
/// ```text
/// sum (a - za)(b - zb) = sum ab + sum_offset[n] + za[m] * zero_factor[n] - row_sums[m] * rhs_zero[n]
/// zero_factor[n] = K * zb[n] - sum over k of b[k, n]
/// ```
pub(crate) struct Epilogue {
    /// A value for each column, or null.
    pub sum_offset: *const i32,
    /// A value for each column.
    pub zero_factor: *const i32,
    /// A value for each column, or null when every one is 0.
    pub rhs_zero: *const i32,
    /// Zero point of each row as the user gave it.
    pub lhs_zero: Param<i32>,
    /// Added to each `lhs_zero`.
    pub lhs_shift: i32,
    /// Added to the sum, a value for each column, or null.
    pub bias: *const i32,
    /// What is done with the sum.
    pub store: Store,
}

impl Epilogue {
    /// Sums lack something that depends on both their row and their column.
    pub fn corrects(&self) -> bool {
        self.lhs_zero.step != 0 || !self.rhs_zero.is_null()
    }
}

/// Where the corrected sum `s` goes.
#[derive(Clone, Copy)]
pub(crate) enum Store {
    /// `out = s`, or `out += s` (wrapping).
    I32 { accumulate: bool },
    /// `out = clamp(f32(s) * (row_scale * col_scale) + bias)`.
    F32 { row_scales: Param<f32>, col_scales: Param<f32>, bias: *const f32, min: f32, max: f32 },
    /// `out = clamp(rint(f32(s) * scale + bias) + zero_point)` to 8 bits; half to even.
    HalfEven { scales: Param<f32>, bias: *const f32, zero_point: i32, min: i32, max: i32 },
    /// `out = clamp(s * multiplier * 2^(shift - 31) + zero_point)` to 8 bits, in integers.
    Fixed { multipliers: Param<FixedPoint>, double_rounding: bool, zero_point: i32, min: i32, max: i32 },
}

/// One value for all (`step` 0) or one for each row or column (`step` 1).
pub(crate) struct Param<T> {
    pub ptr: *const T,
    pub step: usize,
}

impl<T> Clone for Param<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Param<T> {}

impl<T: Copy> Param<T> {
    pub fn new(values: &[T]) -> Self {
        Self { ptr: values.as_ptr(), step: usize::from(values.len() != 1) }
    }

    /// Value of a row or column.
    ///
    /// # Safety
    /// `index` lies inside what the parameter was made for.
    #[inline(always)]
    pub unsafe fn get(self, index: usize) -> T {
        // SAFETY: promised by the caller; a single value is read at offset 0.
        unsafe { *self.ptr.add(index * self.step) }
    }

    /// The parameter of the rows or columns from `start`.
    ///
    /// # Safety
    /// `start` is at most the number of rows or columns the parameter was made for.
    pub unsafe fn from(self, start: usize) -> Self {
        // SAFETY: promised by the caller.
        Self { ptr: unsafe { self.ptr.add(start * self.step) }, ..self }
    }
}

/// A scale as integers: `multiplier * 2^(shift - 31)`.
///
/// The multiplier is 0 or lies in `2^30 ..= 2^31 - 1`, the shift in `-31..=30`: the form of gemmlowp and TFLite.
/// ```
/// use i8gemm::FixedPoint;
/// let half = FixedPoint::from_scale(0.5)?;
/// assert_eq!((half.multiplier(), half.shift()), (1 << 30, 0));
/// assert!(FixedPoint::new(5, 0).is_err());
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct FixedPoint {
    pub(crate) multiplier: i32,
    pub(crate) shift: i32,
}
