//! Scratch memory that a call borrows.

use alloc::vec::Vec;
use core::ops::{Deref, DerefMut};

use super::pack::Line;
use crate::Error;

/// Scratch memory for [`Gemm::run`](crate::Gemm::run), aligned to 64 bytes. Reusable for any product that needs no more.
///
/// ```
/// use i8gemm::Workspace;
/// let mut scratch = Workspace::with_size(1000);
/// assert!(scratch.len() >= 1000);
/// ```
#[derive(Debug, Clone, Default)]
pub struct Workspace(Vec<Line>);

impl Workspace {
    /// At least `bytes` bytes.
    #[must_use]
    pub fn with_size(bytes: usize) -> Self {
        Self(alloc::vec![Line::ZERO; bytes.div_ceil(64)])
    }

    /// As [`Workspace::with_size`], where the size may be more than there is memory.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] when memory cannot be had.
    ///
    /// ```
    /// assert!(i8gemm::Workspace::try_with_size(usize::MAX).is_err());
    /// ```
    pub fn try_with_size(bytes: usize) -> Result<Self, Error> {
        let mut lines = Vec::new();
        let overflow = |_| Error::SizeOverflow { what: "workspace", rows: bytes, cols: 1 };
        lines.try_reserve_exact(bytes.div_ceil(64)).map_err(overflow)?;
        lines.resize(bytes.div_ceil(64), Line::ZERO);
        Ok(Self(lines))
    }

    /// Makes room for at least `bytes` bytes, allocating only if there is less.
    pub fn grow(&mut self, bytes: usize) {
        if self.len() < bytes {
            self.0.resize(bytes.div_ceil(64), Line::ZERO);
        }
    }
}

impl Deref for Workspace {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

impl DerefMut for Workspace {
    fn deref_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}
