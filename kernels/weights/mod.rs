//! Weights are a format: how values lie in the panels of a kernel, and how they become what it multiplies.
//!
//! Micro-kernels read panels of `nr` columns of i8 (a u8 weight `w` as `w - 128`, or of fewer bits less half their range, its zero point
//! shifted alike), K padded with zeros to a multiple of `kr`:
//!
//! ```text
//! value(k, n) at ((n / nr) * (K_padded / kr) + k / kr) * nr * kr  +  (n % nr) * kr  +  k % kr
//! ```
//!
//! One layout serves every tile of a kernel, from one row to `mr`. In a format of fewer bits, F = 8 / bits steps of such a panel share
//! the bytes of one: K is padded to a multiple of `F * kr`, and a weight is the field `(k / kr) % F`, from the low bits up, of the byte
//!
//! ```text
//! at ((n / nr) * (K_padded / (F * kr)) + k / (F * kr)) * nr * kr  +  (n % nr) * kr  +  k % kr
//! ```
//!
//! so that one mask, and a shift, make a step of whole vectors of it. Every kernel multiplies every format: [`Unpacking::multiply`]
//! unpacks some panels into scratch, from where all rows of a job read them.

mod fields;
pub(crate) mod i2;
pub(crate) mod i4;
pub(crate) mod i8;
#[cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    allow(dead_code, reason = "no other target's kernels pack by vectors")
)]
pub(super) mod panels;

use super::{Isa, Job, Kernel, Multiply};

/// Packs the panels of weights that start at a column, a multiple of the kernel's `nr`, and adds up their columns, as
/// [`Kernel::pack_rhs`] does. Safety: as that.
pub(crate) type Pack = unsafe fn(kernel: &Kernel, src: &RhsBytes, first: usize, to: Panels);

/// Columns that are packed at once, of as many panels as that takes: a cache line of a row of weights is then read once.
pub(crate) const PACKED_COLS: usize = 64;

/// Where adjacent panels go, and the sums of their columns.
pub(crate) struct Panels<'a> {
    /// From the first byte of the first panel on.
    pub bytes: &'a mut [u8],
    /// Bytes from one panel to the next.
    pub stride: usize,
    /// Of all columns, by which panels are counted.
    pub sums: &'a mut [i32],
    /// Of the second halves of steps; or none.
    pub late_sums: &'a mut [i32],
}

/// How weights are stored.
#[derive(Debug)]
pub(crate) struct Format {
    /// Of a weight.
    pub bits: usize,
    /// Smallest weight, of signed and of unsigned ones.
    pub min: [i32; 2],
    /// Largest weight, of signed and of unsigned ones.
    pub max: [i32; 2],
    /// Packs panels.
    pub pack: Pack,
    /// What makes panels of i8 of panels, unless they are that already.
    pub unpack: Option<fn(Isa) -> Unpack>,
}

impl Format {
    /// Steps of i8 that share the bytes of one.
    pub fn fields(&self) -> usize {
        8 / self.bits
    }

    /// What is added to a weight to get the i8 that kernels multiply.
    pub fn shift(&self, unsigned: bool) -> i32 {
        if unsigned { self.min[0] } else { 0 }
    }

    /// K as panels have it; `None` if that overflows.
    pub fn depth(&self, k: usize, kr: usize) -> Option<usize> {
        k.checked_next_multiple_of(self.fields() * kr)
    }
}

/// The format of weights of so many bits.
pub(crate) fn with_bits(bits: usize) -> Option<&'static Format> {
    [&i8::I8, &i4::I4, &i2::I2].into_iter().find(|format| format.bits == bits)
}

/// Unpacks `count` times `step` bytes, each into `fields * step` values, from the low bits up. Safety: they are readable, and as many
/// values writable; the CPU has the instruction set.
pub(crate) type Unpack = unsafe fn(src: *const u8, step: usize, count: usize, dst: *mut i8);

/// How panels are unpacked, and where.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unpacking {
    pub function: Unpack,
    /// [`Format::fields`].
    pub fields: usize,
    /// Where in a job's scratch [`Kernel::group_cols`] columns have room.
    pub at: usize,
}

impl Unpacking {
    /// Computes a job whose panels are of the format, some of them at a time.
    ///
    /// # Safety
    /// As [`Multiply`] for the kernel's product, but that `rhs` are panels of the format, of which `first_k` begins whole steps; the
    /// scratch has room for what is unpacked, too.
    pub unsafe fn multiply(&self, kernel: &Kernel, multiply: Multiply, job: &Job, out_bytes: usize) {
        let (step, panels) = (kernel.nr * kernel.kr, kernel.group_cols / kernel.nr);
        let count = job.k.div_ceil(self.fields * kernel.kr);
        let stride = count * self.fields * step;
        let unpacked = job.scratch.wrapping_add(self.at);
        for col in (0..job.cols).step_by(panels * kernel.nr) {
            let cols = (job.cols - col).min(panels * kernel.nr);
            // SAFETY: each panel has `count` shared steps from `first_k` on, and what becomes of them has room; columns from `col`
            // on are the job's.
            unsafe {
                let packed = job.rhs.add(col / kernel.nr * job.rhs_stride);
                for panel in 0..cols.div_ceil(kernel.nr) {
                    let (src, dst) = (packed.add(panel * job.rhs_stride), unpacked.add(panel * stride));
                    (self.function)(src, step, count, dst.cast());
                }
                multiply(&Job {
                    cols,
                    rhs: unpacked,
                    rhs_stride: stride,
                    first_col: job.first_col + col,
                    out: job.out.wrapping_byte_add(col * job.out_col_stride * out_bytes),
                    ..*job
                });
            }
        }
    }
}

/// Source of weights: element (k, n) of K x N bytes lies at `k * k_stride + n * n_stride`.
///
/// Safety contract of the functions that pack panels of it:
/// - every element is readable;
/// - `first` is a multiple of `nr`; there are sums for at most [`PACKED_COLS`] columns, whole panels, and each begins below `n`; as many
///   late sums or none;
/// - each panel has room for as many bytes as its `nr` columns take, K padded.
#[derive(Clone, Copy)]
pub(crate) struct RhsBytes {
    pub ptr: *const u8,
    pub k: usize,
    pub n: usize,
    pub k_stride: usize,
    pub n_stride: usize,
    /// 0x80 for u8 weights, 0 for i8: panels hold i8.
    pub flip: u8,
}
