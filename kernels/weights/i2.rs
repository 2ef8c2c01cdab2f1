//! Weights of 2 bits: four steps share the bytes of one.

use super::{
    Format,
    fields::{Width, format},
};

/// A quarter of a byte for each weight.
pub(crate) static I2: Format = format::<Two>();

enum Two {}

impl Width for Two {
    const BITS: usize = 2;
}
