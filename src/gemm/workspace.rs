//! Scratch memory that a call borrows.

use alloc::vec::Vec;
use core::ops::{Deref, DerefMut};

use super::pack::Line;
use crate::Error;

/// Scratch memory for [`Gemm::run`](crate::Gemm::run), aligned to 64 bytes. Reusable for any product that needs no more.
///
/// ```
/// use i8gemm::Workspace;
/// let mut scratch = Workspace::with_size(1000)?;
/// assert!(scratch.len() >= 1000);
/// assert!(Workspace::with_size(usize::MAX).is_err());
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Workspace(Vec<Line>);

impl Workspace {
    /// At least `bytes` bytes.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] when there is not as much memory.
    pub fn with_size(bytes: usize) -> Result<Self, Error> {
        let mut workspace = Self::default();
        workspace.grow(bytes)?;
        Ok(workspace)
    }

    /// Makes room for at least `bytes` bytes, allocating only if there is less; what was written to it may be lost.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] when there is not as much memory. The workspace is then as it was.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Error> {
        if self.len() < bytes {
            self.0 = Line::zeroed("workspace", bytes, 1, bytes)?;
        }
        Ok(())
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
