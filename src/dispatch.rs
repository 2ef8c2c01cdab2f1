//! Which kernel runs: the best one this CPU has, or the one that was asked for by name.

use core::fmt;

use crate::{
    cores,
    error::{Error, KernelName},
    kernels,
};

/// A micro-kernel family on one instruction set, as compiled into this build.
///
/// ```
/// use i8gemm::Kernel;
/// let best = Kernel::best()?; // honours the environment variable I8GEMM_KERNEL
/// assert!(best.is_available());
/// assert!(Kernel::available().any(|kernel| kernel.name() == "portable"));
/// assert!(Kernel::by_name("abacus").is_err());
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct Kernel(pub(crate) &'static kernels::Kernel);

impl Kernel {
    /// Every kernel compiled into this build, best first, whether or not this CPU can run it.
    ///
    /// On 64-bit ARM a schedule for in-order cores (`neon_dotprod_a55`, `neon_a53`) stands before the ordinary one of the same
    /// instruction when every core of the machine is a Cortex-A53, A35 or A55, and behind it otherwise.
    pub fn all() -> impl Iterator<Item = Self> + Clone {
        kernels::kernels(cores::all_in_order()).iter().map(|kernel| Self(kernel))
    }

    /// The kernels that this CPU can run, best first. There is always at least `portable`.
    pub fn available() -> impl Iterator<Item = Self> + Clone {
        Self::all().filter(Self::is_available)
    }

    /// The kernel that [`PackedRhs::pack`](crate::PackedRhs::pack) uses: with the `std` feature the one that the
    /// environment variable `I8GEMM_KERNEL` names, otherwise the first of [`Kernel::available`]. Decided once.
    ///
    /// # Errors
    /// [`Error::UnknownKernel`] or [`Error::KernelUnavailable`] when the variable names a kernel that cannot be used:
    /// there is no silent fallback.
    pub fn best() -> Result<Self, Error> {
        #[cfg(feature = "std")]
        {
            static BEST: std::sync::OnceLock<Result<Kernel, Error>> = std::sync::OnceLock::new();
            *BEST.get_or_init(|| match std::env::var_os("I8GEMM_KERNEL") {
                Some(name) if !name.is_empty() => Self::find(&name.to_string_lossy(), true),
                _ => Self::first_available(),
            })
        }
        #[cfg(not(feature = "std"))]
        Self::first_available()
    }

    /// The kernel of that name.
    ///
    /// # Errors
    /// [`Error::UnknownKernel`] when no target has it, [`Error::KernelUnavailable`] when this build or this CPU has not.
    pub fn by_name(name: &str) -> Result<Self, Error> {
        Self::find(name, false)
    }

    fn first_available() -> Result<Self, Error> {
        Self::available().next().ok_or(Error::KernelUnavailable {
            name: KernelName::new("portable"),
            reason: "this build holds no kernel",
            from_environment: false,
        })
    }

    fn find(name: &str, from_environment: bool) -> Result<Self, Error> {
        let unavailable =
            |reason| Error::KernelUnavailable { name: KernelName::new(name), reason, from_environment };
        match Self::all().find(|kernel| kernel.name() == name) {
            Some(kernel) if kernel.is_available() => Ok(kernel),
            Some(_) => Err(unavailable("this CPU lacks its instructions")),
            None if kernels::ALL_NAMES.contains(&name) => Err(unavailable("it belongs to another target")),
            None => Err(Error::UnknownKernel { name: KernelName::new(name), from_environment }),
        }
    }

    pub(crate) fn check_available(self) -> Result<(), Error> {
        Self::find(self.name(), false).map(drop)
    }

    /// The name to pin it by.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.0.name
    }

    /// The instruction it is built on.
    #[must_use]
    pub fn instruction(&self) -> &'static str {
        self.0.instruction
    }

    /// Rows of its largest tile, columns of a panel of weights, depth of a step: mr, nr, kr.
    #[must_use]
    pub fn tile(&self) -> (usize, usize, usize) {
        (self.0.mr, self.0.nr, self.0.kr)
    }

    /// Whether this CPU has the instructions it needs.
    #[must_use]
    pub fn is_available(&self) -> bool {
        (self.0.is_available)()
    }
}

impl PartialEq for Kernel {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Kernel {}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kernel({})", self.name())
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
