//! Which kernel runs: the best one this CPU has, or the one that was asked for by name.

use core::{
    fmt,
    hash::{Hash, Hasher},
    str::FromStr,
};

use crate::{
    cores,
    error::{Error, KernelName},
    kernels::{self, KernelInfo},
};

/// A micro-kernel family on one instruction set, as compiled into this build.
///
/// ```
/// use i8gemm::Kernel;
/// let best = Kernel::best()?; // honours the environment variable I8GEMM_KERNEL
/// assert!(best.is_available());
/// assert!(Kernel::available().any(|kernel| kernel.name() == "portable"));
/// assert!(Kernel::by_name("abacus").is_err());
/// assert_eq!("portable".parse::<Kernel>()?.to_string(), "portable"); // as `by_name`
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

    /// What is known of every kernel of every target, this build's or not; those of one target best first, as [`Kernel::all`] has them
    /// where no schedule for in-order cores comes first.
    ///
    /// ```
    /// use i8gemm::Kernel;
    /// let with = |feature| Kernel::catalog().iter().filter(move |info| info.features.contains(&feature));
    /// assert!(with("i8mm").all(|info| info.arch == Some("aarch64")));
    /// assert!(Kernel::all().all(|kernel| Kernel::catalog().iter().any(|info| info.name == kernel.name())));
    /// ```
    #[must_use]
    pub fn catalog() -> &'static [KernelInfo] {
        kernels::CATALOG
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
        match Self::all().find(|kernel| kernel.name() == name) {
            Some(kernel) => kernel.available_or(from_environment),
            None if Self::catalog().iter().any(|info| info.name == name) => Err(Error::KernelUnavailable {
                name: KernelName::new(name),
                reason: "it belongs to another target",
                from_environment,
            }),
            None => Err(Error::UnknownKernel { name: KernelName::new(name), from_environment }),
        }
    }

    /// The kernel that was asked for, if this CPU can run it, or else the best one.
    pub(crate) fn chosen(wanted: Option<Self>) -> Result<Self, Error> {
        wanted.map_or_else(Self::best, |kernel| kernel.available_or(false))
    }

    fn available_or(self, from_environment: bool) -> Result<Self, Error> {
        if self.is_available() {
            return Ok(self);
        }
        let (name, reason) = (KernelName::new(self.name()), "this CPU lacks its instructions");
        Err(Error::KernelUnavailable { name, reason, from_environment })
    }

    /// Not by its name: who picks no kernel links no list of them.
    pub(crate) fn check_available(self) -> Result<(), Error> {
        self.available_or(false).map(drop)
    }

    /// The name to pin it by.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.0.name()
    }

    /// The instruction it is built on.
    #[must_use]
    pub fn instruction(&self) -> &'static str {
        self.0.id.info().instruction
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
        self.0.id == other.0.id
    }
}

impl Eq for Kernel {}

impl Hash for Kernel {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.id.hash(state);
    }
}

/// As [`Kernel::by_name`].
impl FromStr for Kernel {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::by_name(name)
    }
}

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
