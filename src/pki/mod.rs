//! Keys, certificates and bundles: bytes in, bytes out, `now` passed in.
