//! This pod's credentials: the key it made, and the certificate the mesh gave it for that key.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::sign::CertifiedKey;

use crate::mesh::Identity;
use crate::pki::Certificate;

/// What this proxy proves its identity with, in every handshake until the next certificate.
#[derive(Clone, Debug)]
pub struct Credentials {
    pub identity: Identity,
    pub certified_key: Arc<CertifiedKey>,
    pub leaf: Certificate,
    pub not_after: SystemTime,
}
