//! The backward pass against finite differences, and integers against fake quantization, on a model that learns in a moment.
