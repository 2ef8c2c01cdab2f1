//! Weights of 4 bits: two steps share the bytes of one.

use super::{
    Format,
    fields::{Width, format},
};

/// Half a byte for each weight.
pub(crate) static I4: Format = format::<Four>();

enum Four {}

impl Width for Four {
    const BITS: usize = 4;
}
