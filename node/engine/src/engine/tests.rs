//! The control half, step by step.
