//! The element types, and values that are given once or one by one.

use core::fmt;

use crate::kernels::{End, EndByte, EndF32, EndI32};

/// An 8-bit operand type: `i8` or `u8`.
#[allow(private_bounds, reason = "sealed")]
pub trait Operand: Copy + Default + PartialEq + fmt::Debug + Send + Sync + Element {
    /// Smallest value.
    const MIN: i32;
    /// Largest value.
    const MAX: i32;
    /// The value as an i32.
    fn widen(self) -> i32;
}

/// An output type: `i32`, `f32`, `i8` or `u8`.
#[allow(private_bounds, reason = "sealed")]
pub trait OutputElement: Copy + Default + PartialEq + fmt::Debug + Send + Sync + Element {
    /// Which type it is, as a value.
    const TYPE: ElementType;
    /// The element from an i32 in its range; for f32 the nearest value.
    #[doc(hidden)]
    fn from_i32(value: i32) -> Self;
    /// The element from an f32; only f32 itself keeps the fraction.
    #[doc(hidden)]
    fn from_f32(value: f32) -> Self;
    /// The element as an i32.
    #[doc(hidden)]
    fn to_i32(self) -> i32;
    /// The element as an f32.
    #[doc(hidden)]
    fn to_f32(self) -> f32;
}

/// An output type as a value, for what a file decides: there a type parameter would have to be known when the program is compiled.
///
/// ```
/// use i8gemm::{ElementType, OutputElement};
/// assert_eq!(u8::TYPE, ElementType::U8);
/// assert_eq!(ElementType::F32.to_string(), "f32");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ElementType {
    /// `i8`.
    I8,
    /// `u8`.
    U8,
    /// `i32`.
    I32,
    /// `f32`.
    F32,
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::I8 => "i8",
            Self::U8 => "u8",
            Self::I32 => "i32",
            Self::F32 => "f32",
        })
    }
}

/// What the crate alone knows of its element types, so that there are no others: they are plain bytes, and kernels have an end that
/// makes layers' outputs of them.
pub(crate) trait Element: bytemuck::Pod {
    type End: End;
}

macro_rules! operand {
    ($($t:ty),*) => { $(
        impl Operand for $t {
            const MIN: i32 = <$t>::MIN as i32;
            const MAX: i32 = <$t>::MAX as i32;
            fn widen(self) -> i32 {
                self.into()
            }
        }
    )* };
}
operand!(i8, u8);

macro_rules! output_element {
    ($($t:ty: $type:ident, $end:ty;)*) => { $(
        impl Element for $t {
            type End = $end;
        }
        impl OutputElement for $t {
            const TYPE: ElementType = ElementType::$type;
            fn from_i32(value: i32) -> Self {
                value as $t
            }
            fn from_f32(value: f32) -> Self {
                value as $t
            }
            fn to_i32(self) -> i32 {
                self as i32
            }
            fn to_f32(self) -> f32 {
                self as f32
            }
        }
    )* };
}
output_element!(i8: I8, EndByte; u8: U8, EndByte; i32: I32, EndI32; f32: F32, EndF32;);

/// One value for a whole matrix (per tensor), or one for each of its rows or columns (per channel).
///
/// Made by `into()` from a value, a slice, an array or a `Vec`.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Broadcast<'a, T> {
    /// The same for every row or column.
    All(T),
    /// One for each.
    Each(&'a [T]),
}

impl<T> Broadcast<'_, T> {
    pub(crate) fn as_slice(&self) -> &[T] {
        match self {
            Self::All(value) => core::slice::from_ref(value),
            Self::Each(values) => values,
        }
    }

    /// The values of a range: the one for all, or one for each.
    pub(crate) fn range(&self, range: &core::ops::Range<usize>) -> &[T] {
        match self {
            Self::All(value) => core::slice::from_ref(value),
            Self::Each(values) => &values[range.clone()],
        }
    }

    pub(crate) fn at(&self, index: usize) -> T
    where
        T: Copy,
    {
        match self {
            Self::All(value) => *value,
            Self::Each(values) => values[index],
        }
    }
}

/// One value is for all, more are for each.
#[cfg(feature = "alloc")]
impl<'a, T: Copy> Broadcast<'a, T> {
    pub(crate) fn of(values: &'a [T]) -> Self {
        match values {
            [value] => Self::All(*value),
            values => Self::Each(values),
        }
    }
}

impl<T> From<T> for Broadcast<'_, T> {
    fn from(value: T) -> Self {
        Self::All(value)
    }
}

impl<'a, T> From<&'a [T]> for Broadcast<'a, T> {
    fn from(values: &'a [T]) -> Self {
        Self::Each(values)
    }
}

impl<'a, T, const N: usize> From<&'a [T; N]> for Broadcast<'a, T> {
    fn from(values: &'a [T; N]) -> Self {
        Self::Each(values)
    }
}

#[cfg(feature = "alloc")]
impl<'a, T> From<&'a alloc::vec::Vec<T>> for Broadcast<'a, T> {
    fn from(values: &'a alloc::vec::Vec<T>) -> Self {
        Self::Each(values)
    }
}
