//! The real types that can be quantized.

/// A real type that can be quantized: `f32`, and with the feature `half` also `half::f16` and `half::bf16`.
pub trait Real: Copy + Send + Sync + sealed::Sealed {
    /// Calls `visit` with the values as f32, a part at a time, and the place of each part.
    #[doc(hidden)]
    fn parts<E>(values: &[Self], visit: impl FnMut(usize, &[f32]) -> Result<(), E>) -> Result<(), E>;
    /// The values, where they are f32 as they lie.
    #[doc(hidden)]
    fn as_f32(_values: &[Self]) -> Option<&[f32]> {
        None
    }
    /// The value as f32, which holds every value of every real type.
    fn to_f32(self) -> f32;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    #[cfg(feature = "half")]
    impl Sealed for half::f16 {}
    #[cfg(feature = "half")]
    impl Sealed for half::bf16 {}
}

impl Real for f32 {
    fn parts<E>(values: &[Self], mut visit: impl FnMut(usize, &[f32]) -> Result<(), E>) -> Result<(), E> {
        visit(0, values)
    }

    fn as_f32(values: &[Self]) -> Option<&[f32]> {
        Some(values)
    }

    fn to_f32(self) -> f32 {
        self
    }
}

#[cfg(feature = "half")]
macro_rules! half_real {
    ($($t:ty),*) => { $(
        impl Real for $t {
            fn parts<E>(
                values: &[Self],
                mut visit: impl FnMut(usize, &[f32]) -> Result<(), E>,
            ) -> Result<(), E> {
                use half::slice::HalfFloatSliceExt;
                /// Values converted at a time, into a buffer that stays in the first cache level.
                const PART: usize = 512;
                let mut buffer = [0.0; PART];
                for (part, values) in values.chunks(PART).enumerate() {
                    let buffer = &mut buffer[..values.len()];
                    values.convert_to_f32_slice(buffer);
                    visit(part * PART, buffer)?;
                }
                Ok(())
            }

            fn to_f32(self) -> f32 {
                self.into()
            }
        }
    )* };
}
#[cfg(feature = "half")]
half_real!(half::f16, half::bf16);
