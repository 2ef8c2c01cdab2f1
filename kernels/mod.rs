//! Hand-written micro-kernels, one file per instruction set, and the contract they meet.
//!
//! A [`Kernel`] is a table entry: the shape of its panels, and functions that pack `lhs` rows and multiply a
//! [`Job`] (some rows of `lhs` by some panels of `rhs`, through the epilogue, into `out`). Nothing here allocates,
//! starts a thread, checks arguments or knows of the crate above it.
//!
//! # What a kernel sees of `rhs`
//!
//! Panels of `nr` columns of i8, or panels of a narrower [`Format`](weights::Format) that are unpacked to such: see [`weights`].
//!
//! # What a kernel sees of `lhs`
//!
//! See [`LhsFormat`]. Either way the rows of a job start `lhs_stride` bytes apart: a panel of `h` rows takes
//! `h * lhs_stride` bytes, so the tile that starts at row `i` starts at `i * lhs_stride`.

#![allow(clippy::needless_range_loop, reason = "register tiles are indexed by row and vector")]

use core::ffi::c_void;

#[cfg(all(test, feature = "std"))]
mod conformance;
#[cfg_attr(not(feature = "alloc"), allow(dead_code, reason = "for layers, which need it"))]
pub(crate) mod depthwise;
mod isa;
pub(crate) mod portable;
mod product;
pub(crate) mod vectors;
pub(crate) mod weights;

cfg_if::cfg_if! {
    if #[cfg(i8gemm_x86_64)] {
        pub(crate) mod x86;
    } else if #[cfg(i8gemm_aarch64)] {
        pub(crate) mod aarch64;
    } else if #[cfg(i8gemm_arm)] {
        pub(crate) mod arm;
    }
}

pub(crate) use isa::Isa;
pub(crate) use product::{EndByte, EndGroups, GroupPlace, ends::*, layout};

/// The one list of kernels, of every target, those of each best first: the order is by measurement, not by age of the instruction set.
/// Each has a table entry, a product, and what is known of it where it is not compiled in.
macro_rules! kernels {
    ($($(#[$cfg:meta])? $id:ident: $table:expr, $($multiply:ident)::+, $info:expr;)*) => {
        /// One of the kernels of this target.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub(crate) enum Id {
            $($(#[$cfg])? #[allow(missing_docs, reason = "the list says")] $id,)*
        }

        impl Id {
            /// What the list says of it.
            pub const fn info(self) -> &'static KernelInfo {
                match self {
                    $($(#[$cfg])? Self::$id => const { &$info },)*
                }
            }
        }

        /// Every kernel of every target.
        pub(crate) static CATALOG: &[KernelInfo] = &[$($info),*];

        /// How many this target has.
        const COUNT: usize = [$($(#[$cfg])? Id::$id),*].len();

        /// Table entries, best first.
        static KERNELS: [&Kernel; COUNT] = [$($(#[$cfg])? &$table),*];

        /// The product of a kernel with one end: looked up where an output is described, so that no other end is linked.
        pub(crate) fn multiply<E: End>(id: Id) -> Multiply {
            match id {
                $($(#[$cfg])? Id::$id => $($multiply)::+::<E>,)*
            }
        }
    };
}

kernels! {
    #[cfg(i8gemm_x86_64)]
    Avx512Vnni: x86::avx512_vnni::KERNEL, x86::avx512_vnni::multiply,
        KernelInfo::new("avx512_vnni", "vpdpbusd, zmm").on("x86_64", &["avx512f", "avx512bw", "avx512vnni"])
            .panels(16, 4);
    #[cfg(i8gemm_x86_64)]
    AvxVnni: x86::avx_vnni::KERNEL, x86::avx_vnni::multiply,
        KernelInfo::new("avx_vnni", "vpdpbusd, ymm").on("x86_64", &["avx2", "avxvnni"]).panels(16, 4);
    #[cfg(i8gemm_x86_64)]
    Avx2: x86::avx2::KERNEL, x86::avx2::multiply,
        KernelInfo::new("avx2", "vpmaddwd + vpaddd, ymm").on("x86_64", &["avx2"]).panels(8, 2);
    #[cfg(i8gemm_aarch64)]
    NeonI8mm: aarch64::i8mm::KERNEL, aarch64::i8mm::multiply,
        KernelInfo::new("neon_i8mm", "smmla").on("aarch64", &["neon", "i8mm"]).panels(8, 8);
    #[cfg(i8gemm_aarch64)]
    NeonDotprod: aarch64::dotprod::KERNEL, aarch64::dotprod::multiply,
        KernelInfo::new("neon_dotprod", "sdot by lane").on("aarch64", &["neon", "dotprod"]).panels(8, 4);
    #[cfg(i8gemm_aarch64)]
    NeonDotprodA55: aarch64::dotprod::KERNEL_A55, aarch64::dotprod::multiply_a55,
        KernelInfo::new("neon_dotprod_a55", "sdot by lane").on("aarch64", &["neon", "dotprod"])
            .panels(8, 4)
            .in_order_of("neon_dotprod");
    #[cfg(i8gemm_aarch64)]
    Neon: aarch64::neon::KERNEL, aarch64::neon::multiply,
        KernelInfo::new("neon", "smull + smlsl2 + sadalp").on("aarch64", &["neon"]).panels(4, 16).late_sums();
    #[cfg(i8gemm_aarch64)]
    NeonA53: aarch64::neon::KERNEL_A53, aarch64::neon::multiply_a53,
        KernelInfo::new("neon_a53", "smull + smlsl2 + sadalp").on("aarch64", &["neon"])
            .panels(4, 16)
            .late_sums()
            .in_order_of("neon");
    #[cfg(i8gemm_arm)]
    ArmV7Neon: arm::neon::KERNEL, arm::neon::multiply,
        KernelInfo::new("armv7_neon", "vmull + vmlsl + vpadal").on("arm", &["neon"]).panels(4, 16).late_sums();
    Portable: portable::KERNEL, portable::multiply,
        KernelInfo::new("portable", "scalar i32 multiply-add").panels(4, 1);
}

/// What is known of a kernel wherever it belongs: see [`Kernel::catalog`](crate::Kernel::catalog).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct KernelInfo {
    /// The name to pin it by.
    pub name: &'static str,
    /// The instruction it is built on.
    pub instruction: &'static str,
    /// The architecture it belongs to, as [`std::env::consts::ARCH`](https://doc.rust-lang.org/std/env/consts/constant.ARCH.html) names
    /// it; `None` if any.
    pub arch: Option<&'static str>,
    /// The features that it asks of a CPU, by the standard library's names.
    pub features: &'static [&'static str],
    /// The kernel that it is another schedule of, for cores that execute in order. It stands next to that one.
    pub in_order_of: Option<&'static str>,
    /// Columns of a panel and depth of a step of packed weights, as [`Kernel`] has them.
    pub(crate) panels: (usize, usize),
    /// As [`Kernel::offset`].
    pub(crate) offset: SumOffset,
}

impl KernelInfo {
    const fn new(name: &'static str, instruction: &'static str) -> Self {
        Self {
            name,
            instruction,
            arch: None,
            features: &[],
            in_order_of: None,
            panels: (0, 0),
            offset: SumOffset::None,
        }
    }

    const fn on(self, arch: &'static str, features: &'static [&'static str]) -> Self {
        Self { arch: Some(arch), features, ..self }
    }

    const fn panels(self, nr: usize, kr: usize) -> Self {
        Self { panels: (nr, kr), ..self }
    }

    const fn late_sums(self) -> Self {
        Self { offset: SumOffset::SecondHalves, ..self }
    }

    const fn in_order_of(self, name: &'static str) -> Self {
        Self { in_order_of: Some(name), ..self }
    }
}

/// Table entries for machines whose cores are all of those that in-order schedules are made for: these come first.
static KERNELS_IN_ORDER: [&Kernel; COUNT] = {
    let mut kernels = KERNELS;
    let mut i = 1;
    while i < COUNT {
        if kernels[i].id.info().in_order_of.is_some() {
            (kernels[i - 1], kernels[i]) = (kernels[i], kernels[i - 1]);
        }
        i += 1;
    }
    kernels
};

/// The kernels of this target, best first, for a machine whose cores are all of those that in-order schedules are made for, or for another.
pub(crate) fn kernels(in_order: bool) -> &'static [&'static Kernel] {
    if in_order { &KERNELS_IN_ORDER } else { &KERNELS }
}

/// One micro-kernel family on one instruction set.
#[derive(Clone, Copy)]
pub(crate) struct Kernel {
    /// Which of the list.
    pub id: Id,
    /// What everything but products is compiled for on the same CPUs.
    pub isa: Isa,
    /// Whether this CPU has every feature the kernel's functions are compiled for.
    pub is_available: fn() -> bool,
    /// Rows of the largest tile.
    pub mr: usize,
    /// Columns of a panel of `rhs`.
    pub nr: usize,
    /// Depth of one step; panels are padded to a multiple of it.
    pub kr: usize,
    /// Most columns of the panels that are multiplied together: as many are unpacked at a time.
    pub group_cols: usize,
    /// Multiply-adds of a cycle, about, where the kernel is at its best: what tells whether a product is worth more than one thread.
    pub macs_per_cycle: usize,
    /// What the kernel reads as `lhs`.
    pub lhs: LhsFormat,
    /// Whether this CPU loses nothing when the kernel turns rows of bytes of the other signedness into its own as it reads them
    /// ([`Job::flip_lhs`]), so that they need no copy.
    pub flips_lhs: fn() -> bool,
    /// Whether the sum that the kernel computes lacks a per-column constant, which it takes from
    /// [`Epilogue::sum_offset`].
    pub offset: SumOffset,
    /// Bytes of scratch that a product needs for a depth of at most `k`; a multiple of 64.
    pub scratch: fn(k: usize) -> usize,
    /// Bytes from one prepared row of `lhs` to the next.
    pub lhs_stride: fn(k: usize) -> usize,
    /// Packs the panels of weights that start at a column, a multiple of `nr`, into i8, and adds up their columns, those beyond N
    /// being zeros: the sums of their packed values, and of those of the second half of each step if there is room for them, as there
    /// may be where [`Kernel::offset`] asks for them. Safety: see [`weights::RhsBytes`]; the CPU has the kernel's features.
    pub pack_rhs: unsafe fn(src: &weights::RhsBytes, first: usize, to: weights::Panels),
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
    /// A format of the kernel's own, of u8 values.
    PackedUnsigned,
    /// A format of the kernel's own, of i8 values.
    PackedSigned,
}

impl Kernel {
    /// Packs weights as another target's kernel does, and can do nothing else; `None` for panels that no kernel has.
    #[cfg(feature = "alloc")]
    pub fn packing_as(info: &KernelInfo) -> Option<Self> {
        let (nr, kr) = info.panels;
        let pack_rhs = weights::i8::packer(nr, kr)?;
        Some(Self { nr, kr, offset: info.offset, pack_rhs, ..portable::KERNEL })
    }

    /// The name that users read and pin.
    pub const fn name(&self) -> &'static str {
        self.id.info().name
    }
}

impl LhsFormat {
    /// What is added to a value of `lhs` (and to its zero point) to get the value that the kernel multiplies.
    pub fn shift(self, lhs_unsigned: bool) -> i32 {
        match (self, lhs_unsigned) {
            (Self::Bytes { unsigned: true } | Self::PackedUnsigned, false) => 128,
            (Self::Bytes { unsigned: false } | Self::PackedSigned, true) => -128,
            _ => 0,
        }
    }
}

/// The per-column constant that a kernel's sum lacks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
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

/// Some rows of `lhs` times some columns of `rhs`, over some of K, through the epilogue, into `out`.
///
/// Safety contract of [`Multiply`]:
/// - `lhs + i * lhs_stride` is the prepared row `i < rows` (format of the kernel but for `flip_lhs`, depth `first_k + k` or more); the
///   rows of panels are those that `pack_lhs` makes of exactly these `rows` rows;
/// - `rhs` is where the depth `first_k`, a multiple of `kr`, begins in the first of `ceil(cols / nr)` panels of i8, `rhs_stride` bytes
///   apart;
/// - `scratch` has `Kernel::scratch(k)` bytes, aligned to 64;
/// - every pointer of the epilogue is valid for the rows or columns of the product, among which this job's begin at `first_row`
///   and `first_col`; `row_sums` is valid for `rows` elements if the epilogue has an `rhs_zero`;
/// - `out` is writable at `i * out_row_stride + j * out_col_stride` for `i < rows`, `j < cols`, and nothing else
///   touches those elements during the call.
pub(crate) struct Job<'a> {
    pub rows: usize,
    pub cols: usize,
    /// Depth of the product.
    pub k: usize,
    /// Depth of the rows and columns that is left out before it.
    pub first_k: usize,
    pub lhs: *const u8,
    /// Bytes.
    pub lhs_stride: usize,
    /// The rows are bytes of the other signedness than the kernel's: never set unless [`Kernel::flips_lhs`].
    pub flip_lhs: bool,
    pub rhs: *const u8,
    /// Bytes.
    pub rhs_stride: usize,
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
    /// What becomes of f32 outputs that are each a part of a sum over groups of K: for [`EndGroups`] alone.
    pub groups: *const GroupPlace,
}

impl Epilogue {
    /// Sums lack something that depends on both their row and their column.
    pub fn corrects(&self) -> bool {
        self.lhs_zero.step != 0 || !self.rhs_zero.is_null()
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What the formats of weights, the sizes of their groups and the loops around kernels rely on.
    #[test]
    fn kernels_keep_to_the_limits() {
        for kernel in KERNELS {
            let (name, step) = (kernel.id.info().name, kernel.nr * kernel.kr);
            assert!(
                step <= 64 && step.is_multiple_of(4),
                "{name}: a step of a panel is at most 64 bytes, fours of them"
            );
            assert!(kernel.kr <= 16 && 16 % kernel.kr == 0, "{name}: groups of K are whole steps");
            assert!(kernel.group_cols.is_multiple_of(kernel.nr), "{name}: panels are unpacked whole");
        }
    }
}
