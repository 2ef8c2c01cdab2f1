//! Functions on contiguous values, written once over [`lanes::Lanes`] and looked up by instruction set where they are called, so that what
//! nobody calls is not linked.

#[cfg_attr(not(feature = "alloc"), allow(dead_code, reason = "for layers, which need it"))]
pub(crate) mod add;
mod buffer;
pub(crate) mod copies;
pub(crate) mod dequantize;
pub(crate) mod extent;
#[cfg_attr(not(feature = "alloc"), allow(dead_code, reason = "for layers, which need it"))]
pub(crate) mod gates;
pub(crate) mod lanes;
pub(crate) mod narrow;
#[cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    allow(dead_code, reason = "no other target's kernels pack by vectors")
)]
pub(crate) mod pieces;
pub(crate) mod quantize;
pub(crate) mod rounding;

/// How far ahead of a stream of reads memory is asked for, in values: the processor's own prefetching stops at pages, and
/// a loop that computes fills its window before it has enough lines in flight.
pub(crate) const AHEAD: usize = 512;
