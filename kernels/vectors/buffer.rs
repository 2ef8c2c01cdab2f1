//! Room for the end of a slice that is shorter than a vector.

use core::mem::MaybeUninit;

use super::super::Param;

/// Lanes of the widest vector.
pub(super) const MAX_LANES: usize = 16;

/// Room for a vector of any kernel.
#[repr(C, align(64))]
pub(super) struct Buffer<T>([MaybeUninit<T>; MAX_LANES]);

impl<T: Copy> Buffer<T> {
    pub const NEW: Self = Self([const { MaybeUninit::uninit() }; MAX_LANES]);

    #[inline(always)]
    pub fn as_mut_ptr(&mut self) -> *mut T {
        self.0.as_mut_ptr().cast()
    }

    /// Copies `count` values, and `pad` behind them.
    ///
    /// # Safety
    /// `count <= MAX_LANES` values at `from` are readable.
    #[inline(always)]
    pub unsafe fn fill(&mut self, from: *const T, count: usize, pad: T) -> *const T {
        self.0 = [MaybeUninit::new(pad); MAX_LANES];
        // SAFETY: `count` values are readable, and the buffer has room for as many.
        unsafe { core::ptr::copy_nonoverlapping(from, self.as_mut_ptr(), count) };
        self.as_mut_ptr()
    }

    /// The parameter of `count` values from `at`, padded; one value for all stays what it is.
    ///
    /// # Safety
    /// The parameter is valid for them; `count <= MAX_LANES`.
    #[inline(always)]
    pub unsafe fn param(&mut self, param: Param<T>, at: usize, count: usize, pad: T) -> Param<T> {
        if param.step == 0 {
            return param;
        }
        // SAFETY: values from `at` are readable where the parameter is no single one.
        Param { ptr: unsafe { self.fill(param.ptr.add(at), count, pad) }, step: 1 }
    }
}
