//! What tests share.

pub(crate) mod namespace;
