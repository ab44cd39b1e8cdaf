//! The integration tests, in one binary: one link step, one set of helpers.
