//! What several examples read or compute with, and `cargo xtask bench` measures.

pub mod digits;
pub mod language_model;
