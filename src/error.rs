//! The one error type: every variant names what was wrong, and is returned before anything is written.

use core::fmt;

use crate::{ElementType, cores, kernels};

/// What can be wrong with a call. No variant is returned after output has been written.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A slice does not have the length that its shape needs.
    #[error("{what}: the slice holds {actual} elements, {expected} are needed")]
    Length {
        /// Which slice.
        what: &'static str,
        /// Elements needed.
        expected: usize,
        /// Elements given.
        actual: usize,
    },
    /// A size, in elements or bytes, that does not fit the address space, or for which there is not enough memory.
    #[error("{what}: {rows} x {cols} are more than the address space, or the memory that is left, can hold")]
    SizeOverflow {
        /// Which object.
        what: &'static str,
        /// Rows asked for.
        rows: usize,
        /// Columns asked for.
        cols: usize,
    },
    /// Strides of a writable view that let two elements share memory.
    #[error("{rows} x {cols} with strides {row_stride}, {col_stride}: elements of a writable matrix overlap")]
    Overlap {
        /// Rows of the view.
        rows: usize,
        /// Columns of the view.
        cols: usize,
        /// Elements between rows.
        row_stride: usize,
        /// Elements between columns.
        col_stride: usize,
    },
    /// A sub-matrix that does not lie inside its matrix.
    #[error("sub-matrix {what} {start}..{end} does not lie inside 0..{len}")]
    SubMatrix {
        /// `rows` or `columns`.
        what: &'static str,
        /// First index.
        start: usize,
        /// One past the last index.
        end: usize,
        /// Size of the matrix in that direction.
        len: usize,
    },
    /// Two shapes that must agree do not.
    #[error("{what}: expected {expected}, got {actual}")]
    Shape {
        /// Which dimension of which operand.
        what: &'static str,
        /// Size needed.
        expected: usize,
        /// Size given.
        actual: usize,
    },
    /// A zero point outside the range of its element type.
    #[error("{what} {value} at index {index} lies outside {min}..={max}")]
    ZeroPoint {
        /// Whose zero point.
        what: &'static str,
        /// Index in the slice of zero points; 0 for a single one.
        index: usize,
        /// The offending value.
        value: i32,
        /// Smallest value of the element type.
        min: i32,
        /// Largest value of the element type.
        max: i32,
    },
    /// A scale that is NaN, infinite, zero or negative.
    #[error("{what} {value} at index {index} is not a finite number above zero")]
    Scale {
        /// Whose scale.
        what: &'static str,
        /// Index in the slice of scales; 0 for a single one.
        index: usize,
        /// The offending value.
        value: f64,
    },
    /// A fixed-point multiplier or shift outside its range, or a scale that has none.
    #[error(
        "fixed-point multiplier {multiplier} with shift {shift}: the multiplier must be 0 or at least 2^30, the shift in -31..=30"
    )]
    FixedPoint {
        /// The multiplier, in units of 2^-31.
        multiplier: i32,
        /// The power of two.
        shift: i32,
    },
    /// A scale too large for a fixed-point multiplier.
    #[error("scale {value} is too large for a fixed-point multiplier (below 2^30 is needed)")]
    FixedPointScale {
        /// The offending scale.
        value: f64,
    },
    /// An f32 bias that is NaN or infinite, or a layer's bias that could leave i32 together with the sums that it is added to.
    #[error("bias {value} at index {index} {}", bias_fault(*.value))]
    Bias {
        /// Column of the output.
        index: usize,
        /// The offending value; an i32 is exact in it.
        value: f64,
    },
    /// A view of another type than the output that was described.
    #[error("out holds elements of type {actual}; the output that was described has {expected}")]
    OutputType {
        /// The type described.
        expected: ElementType,
        /// The view's.
        actual: ElementType,
    },
    /// An f32 bias given to an output that is computed in integers.
    #[error("an f32 bias needs an output that is scaled in f32; this output takes an i32 bias")]
    BiasType,
    /// A scale of `lhs` given to an output that has no use for it.
    #[error("lhs scales are for f32 output; other outputs take them as part of their own scale")]
    UnusedLhsScale,
    /// A clamp range that is empty, NaN, or outside the range of the output type.
    #[error("clamp {min}..={max} is empty or outside {type_min}..={type_max}")]
    Clamp {
        /// Lower bound given.
        min: f64,
        /// Upper bound given.
        max: f64,
        /// Smallest value of the output type.
        type_min: f64,
        /// Largest value of the output type.
        type_max: f64,
    },
    /// A number of bits that no range of quantized values has.
    #[error("{bits} bits: quantized values have 2 to 8")]
    Bits {
        /// Bits asked for.
        bits: u32,
    },
    /// Quantized values that the element type cannot hold.
    #[error("quantized values {min}..={max} do not fit the element type, {type_min}..={type_max}")]
    Levels {
        /// Smallest quantized value.
        min: i32,
        /// Largest quantized value.
        max: i32,
        /// Smallest value of the element type.
        type_min: i32,
        /// Largest value of the element type.
        type_max: i32,
    },
    /// An axis that the shape does not have.
    #[error("axis {axis} of a shape with {dimensions} dimensions")]
    Axis {
        /// The axis asked for, from 0.
        axis: usize,
        /// Dimensions of the shape.
        dimensions: usize,
    },
    /// A number that must be above zero.
    #[error("{what} must be above zero")]
    Zero {
        /// Which number.
        what: &'static str,
    },
    /// A real value that is NaN or infinite where only finite ones are allowed.
    #[error("{what} {value} at index {index} is not finite")]
    NonFinite {
        /// Which values.
        what: &'static str,
        /// Index of the first such value.
        index: usize,
        /// The value.
        value: f32,
    },
    /// A parameter of a calibration outside its range.
    #[error("{what} {value} lies outside {min}..={max}")]
    Parameter {
        /// Which parameter.
        what: &'static str,
        /// The offending value.
        value: f64,
        /// Smallest value allowed.
        min: f64,
        /// Largest value allowed.
        max: f64,
    },
    /// An observer that was asked for a range before it was given a value.
    #[error("no finite value has been observed")]
    NothingObserved,
    /// Two observers, or an observer and a state, that do not belong together or contradict themselves.
    #[error("observer state: {what}")]
    State {
        /// What is wrong.
        what: &'static str,
    },
    /// A codebook whose entries are not finite numbers in ascending order.
    #[error("codebook entry {index}, {value}, is not finite or below the one before it")]
    Codebook {
        /// Index of the entry.
        index: usize,
        /// The entry.
        value: f32,
    },
    /// A range of real values that is empty, NaN or infinite.
    #[error("the range {min}..={max} is not one of finite numbers in ascending order")]
    Range {
        /// Smallest real value.
        min: f32,
        /// Largest real value.
        max: f32,
    },
    /// K so long that an i32 sum could overflow.
    #[error("K = {k} could overflow the i32 sum: at most {max} is safe; allow wrapping to go beyond")]
    KTooLong {
        /// The depth asked for.
        k: usize,
        /// The largest depth that can never overflow.
        max: usize,
    },
    /// A workspace or buffer smaller than what the call said it needs.
    #[error("{what}: {needed} bytes are needed, {actual} were given")]
    BufferTooSmall {
        /// Which buffer.
        what: &'static str,
        /// Bytes needed.
        needed: usize,
        /// Bytes given.
        actual: usize,
    },
    /// A window larger than the image it slides over, padding included.
    #[error("a window that reaches over {extent} {what} does not fit an image of {padded}, padding included")]
    Window {
        /// `rows` or `columns`.
        what: &'static str,
        /// Pixels from the window's first tap to its last, both included.
        extent: usize,
        /// Pixels of the image in that direction, padding included.
        padded: usize,
    },
    /// A window of so many pixels that the i32 sum for their average could overflow.
    #[error(
        "an average over {rows} x {cols} pixels could overflow its i32 sum: at most {max} pixels are safe"
    )]
    WindowTooLarge {
        /// Rows of the window.
        rows: usize,
        /// Columns of the window.
        cols: usize,
        /// The largest number of pixels that can never overflow.
        max: usize,
    },
    /// A pooling window with a place where all of its taps lie in the padding, or on either side of the image.
    #[error(
        "a pooling window has a place that holds none of the image's {pixels} {what}: too much padding, or dilation"
    )]
    EmptyWindow {
        /// `rows` or `columns`.
        what: &'static str,
        /// Pixels of the image in that direction.
        pixels: usize,
    },
    /// Channels that do not divide into groups.
    #[error("{what}: {channels} do not divide into {groups} groups")]
    Groups {
        /// Which channels.
        what: &'static str,
        /// How many there are.
        channels: usize,
        /// The groups asked for.
        groups: usize,
    },
    /// An index of a row that a table does not have.
    #[error("{what} {value} at index {index} of a table with {len} rows")]
    Index {
        /// What the index is called.
        what: &'static str,
        /// Its place in the slice.
        index: usize,
        /// The index.
        value: usize,
        /// Rows of the table.
        len: usize,
    },
    /// Weights whose values do not fit the bits that they are to be stored in.
    #[error("weight {value} in row {row}, column {col} lies outside {min}..={max}")]
    Weight {
        /// Row of K.
        row: usize,
        /// Column.
        col: usize,
        /// The weight.
        value: i32,
        /// Smallest weight of so many bits.
        min: i32,
        /// Largest weight of so many bits.
        max: i32,
    },
    /// Groups of K of a size that panels are not made of.
    #[error("groups of {size} rows of weights: their size is to be a multiple of {multiple} above zero")]
    GroupSize {
        /// Rows of a group.
        size: usize,
        /// What it has to be a multiple of.
        multiple: usize,
    },
    /// Weights whose groups of K have scales, with an output that is no scaled f32, or has an i32 bias.
    #[error("weights with scales for groups of K have f32 outputs, without an i32 bias")]
    GroupedOutput,
    /// Stored bytes that cannot be opened.
    #[error("stored bytes: {0}")]
    Stored(StoredError),
    /// A kernel name that no target has.
    #[error("unknown kernel `{name}`{}; available on this CPU: {}", pinned_by(*.from_environment), AvailableKernels)]
    UnknownKernel {
        /// The name asked for.
        name: KernelName,
        /// The name came from the environment variable `I8GEMM_KERNEL`.
        from_environment: bool,
    },
    /// A kernel that exists, but not in this build or not on this CPU.
    #[error("kernel `{name}`{} cannot run here: {reason}; available on this CPU: {}", pinned_by(*.from_environment), AvailableKernels)]
    KernelUnavailable {
        /// The name asked for.
        name: KernelName,
        /// Why it cannot run.
        reason: &'static str,
        /// The name came from the environment variable `I8GEMM_KERNEL`.
        from_environment: bool,
    },
}

fn bias_fault(value: f64) -> &'static str {
    if value.is_finite() { "could leave i32 together with the sums it is added to" } else { "is not finite" }
}

fn pinned_by(yes: bool) -> &'static str {
    if yes { " (from the environment variable I8GEMM_KERNEL)" } else { "" }
}

/// Displays as the names of the kernels that this CPU has, best first.
struct AvailableKernels;

impl fmt::Display for AvailableKernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = kernels::kernels(cores::all_in_order()).iter();
        for (i, kernel) in all.filter(|kernel| (kernel.is_available)()).enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            f.write_str(kernel.name())?;
        }
        Ok(())
    }
}

/// What is wrong with stored bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoredError {
    /// They do not begin as stored weights do.
    #[error("they are not weights of this crate")]
    Unknown,
    /// They are something else that this crate writes: packed weights, and not a product, or a product, and not its weights.
    #[error("they are of another kind")]
    Kind,
    /// They were written in a form that this version of the crate does not know.
    #[error("their version is {found}; {known} is known")]
    Version {
        /// Theirs.
        found: u32,
        /// The one that is read.
        known: u32,
    },
    /// There are more or fewer than were written.
    #[error("they are {actual} bytes long, and not {expected}")]
    Length {
        /// Bytes that were written.
        expected: u64,
        /// Bytes given.
        actual: usize,
    },
    /// They do not begin at an address that lets them be used where they lie.
    #[error("they do not begin at a multiple of {alignment} bytes: copy them")]
    Misaligned {
        /// What the address is to be a multiple of.
        alignment: usize,
    },
    /// They are little-endian, and the machine is not: they cannot be used where they lie.
    #[error("their byte order is not this machine's: copy them")]
    ByteOrder,
    /// They were damaged.
    #[error("the checksum of their {what} is another")]
    Checksum {
        /// `header`, `content` or `scales and bias`.
        what: &'static str,
    },
    /// They describe an output that there is not.
    #[error("they describe no output")]
    Output,
    /// The kernel that they are for lays weights out in another way in this version of the crate.
    #[error("kernel `{kernel}` has them in another layout here")]
    Layout {
        /// The kernel.
        kernel: KernelName,
    },
}

/// A kernel's name as somebody wrote it, kept without allocating: what is longer than 32 bytes is cut.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KernelName {
    bytes: [u8; Self::MAX],
    len: u8,
}

impl KernelName {
    const MAX: usize = 32;

    pub(crate) fn new(name: &str) -> Self {
        let mut len = name.len().min(Self::MAX);
        while !name.is_char_boundary(len) {
            len -= 1;
        }
        let mut bytes = [0; Self::MAX];
        bytes[..len].copy_from_slice(&name.as_bytes()[..len]);
        Self { bytes, len: len as u8 }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or("")
    }
}

impl fmt::Display for KernelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for KernelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}
