//! What every product kernel shares: the loops around its tiles, the parameters of columns, and the ends that make outputs of sums.

mod bytes;
mod columns;
#[allow(dead_code, reason = "not every target has kernels that multiply few columns so")]
pub(crate) mod dots;
mod drive;
pub(crate) mod ends;
mod groups;
pub(crate) mod layout;
mod place;
mod sums;
mod tile;

pub(crate) use bytes::EndByte;
pub(crate) use columns::{Buffers, Columns, TileBuffer, TileBuffers};
pub(crate) use drive::{MicroKernel, TileInput, group_cols, multiply, next_part};
pub(crate) use ends::*;
pub(crate) use groups::{EndGroups, GroupPlace};
pub(crate) use place::Place;
#[allow(unused_imports, reason = "not every target has kernels that leave sums in memory")]
pub(crate) use sums::{Sums, SumsKernel, ToMemory, finish_sums};
pub(crate) use tile::TileEnd;
