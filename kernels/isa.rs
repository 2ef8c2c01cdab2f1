//! Instruction sets: what everything but products is compiled for. Kernels that multiply by different instructions share one
//! where the rest of their vectors is the same.
//!
//! A function written once over an instruction set's types is looked up where it is called ([`compiled`]). No table holds them all,
//! so what nobody looks up is not linked.

#[cfg(i8gemm_aarch64)]
use super::aarch64::{depthwise::Taps128, lanes128::Lanes128};
#[cfg(i8gemm_x86_64)]
use super::x86::{
    depthwise::{Taps256, Taps512},
    lanes256::Lanes256,
    lanes512::Lanes512,
};
use super::{
    depthwise::taps::Taps,
    portable::{depthwise::ScalarTaps, lanes::Scalar4},
    vectors::{lanes::Lanes, narrow::Narrow, pieces::Pieces},
};

/// An instruction set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Isa {
    /// Plain Rust.
    Portable,
    /// 256-bit vectors.
    #[cfg(i8gemm_x86_64)]
    Avx2,
    /// 512-bit vectors, and multiplications of four bytes.
    #[cfg(i8gemm_x86_64)]
    Avx512Vnni,
    /// 128-bit vectors of 64-bit ARM.
    #[cfg(i8gemm_aarch64)]
    Neon,
}

impl Isa {
    /// Values of 32 bits in a vector.
    pub fn lanes(self) -> usize {
        match self {
            Self::Portable => Scalar4::LANES,
            #[cfg(i8gemm_x86_64)]
            Self::Avx2 => Lanes256::LANES,
            #[cfg(i8gemm_x86_64)]
            Self::Avx512Vnni => Lanes512::LANES,
            #[cfg(i8gemm_aarch64)]
            Self::Neon => Lanes128::LANES,
        }
    }
}

/// The types that a function is written over.
pub(super) trait Types {
    /// Arithmetic, narrowing, and bytes in another order.
    type Lanes: Narrow + Pieces;
    /// Depthwise convolution.
    #[cfg_attr(not(feature = "alloc"), allow(dead_code, reason = "for layers, which need it"))]
    type Taps: Taps;
}

/// The types of [`Isa::Portable`].
pub(super) struct Portable;

impl Types for Portable {
    type Lanes = Scalar4;
    type Taps = ScalarTaps;
}

/// The types of [`Isa::Avx2`].
#[cfg(i8gemm_x86_64)]
pub(super) struct Avx2;

#[cfg(i8gemm_x86_64)]
impl Types for Avx2 {
    type Lanes = Lanes256;
    type Taps = Taps256;
}

/// The types of [`Isa::Avx512Vnni`].
#[cfg(i8gemm_x86_64)]
pub(super) struct Avx512Vnni;

#[cfg(i8gemm_x86_64)]
impl Types for Avx512Vnni {
    type Lanes = Lanes512;
    type Taps = Taps512;
}

/// The types of [`Isa::Neon`].
#[cfg(i8gemm_aarch64)]
pub(super) struct Neon;

#[cfg(i8gemm_aarch64)]
impl Types for Neon {
    type Lanes = Lanes128;
    type Taps = Taps128;
}

/// `compiled!(isa; fn(argument: Type) -> Result = function::<Kind>)`: a function over the type that an instruction set has for a kind
/// (see [`Types`]), compiled for that instruction set. What else it is written over stands in angle brackets:
/// `compiled!(isa; <E: End> fn(..) = function::<Kind, E>)`.
macro_rules! compiled {
    (@one $types:ty, [$($features:literal)?]; ($($end:ident: $bound:path)?) ($($argument:ident: $type:ty),*) ($($result:ty)?)
        $function:ident $kind:ident) => {{
        /// # Safety
        /// As the function that it compiles; the CPU has the instruction set.
        $(#[target_feature(enable = $features)])?
        unsafe fn one $(<$end: $bound>)? ($($argument: $type),*) $(-> $result)? {
            // SAFETY: arguments are as the function asks, and this is compiled for what the CPU has.
            unsafe { $function::<<$types as $crate::kernels::isa::Types>::$kind $(, $end)?>($($argument),*) }
        }
        one $(::<$end>)?
    }};
    ($isa:expr; $(<$end:ident: $bound:path>)? fn($($argument:ident: $type:ty),*) $(-> $result:ty)? =
        $function:ident::<$kind:ident $(, $same:ident)?>) => {
        match $isa {
            $crate::kernels::isa::Isa::Portable => $crate::kernels::isa::compiled!(
                @one $crate::kernels::isa::Portable, [];
                ($($end: $bound)?) ($($argument: $type),*) ($($result)?) $function $kind
            ),
            #[cfg(i8gemm_x86_64)]
            $crate::kernels::isa::Isa::Avx2 => $crate::kernels::isa::compiled!(
                @one $crate::kernels::isa::Avx2, ["avx2"];
                ($($end: $bound)?) ($($argument: $type),*) ($($result)?) $function $kind
            ),
            #[cfg(i8gemm_x86_64)]
            $crate::kernels::isa::Isa::Avx512Vnni => $crate::kernels::isa::compiled!(
                @one $crate::kernels::isa::Avx512Vnni, ["avx512f,avx512bw,avx512vnni"];
                ($($end: $bound)?) ($($argument: $type),*) ($($result)?) $function $kind
            ),
            #[cfg(i8gemm_aarch64)]
            $crate::kernels::isa::Isa::Neon => $crate::kernels::isa::compiled!(
                @one $crate::kernels::isa::Neon, ["neon"];
                ($($end: $bound)?) ($($argument: $type),*) ($($result)?) $function $kind
            ),
        }
    };
}
pub(super) use compiled;
