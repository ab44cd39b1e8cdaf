//! The integration tests, in one binary: one link step, one set of helpers.

// `cfg(test)` tells clippy that `unwrap` is fine in all of it.
#[cfg(test)]
mod mesh;
#[cfg(test)]
mod support;
