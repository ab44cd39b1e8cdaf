//! The private key of a leaf, and the CSR that asks for it.
//!
//! A key is made in the proxy, lives in its memory and never leaves it; every certificate gets a key of its own.

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::mesh::Identity;

/// An ECDSA P-256 key: the one kind that every peer accepts.
pub struct LeafKey(KeyPair);

/// The operating system gave no randomness, or the cryptographic library refused its own key.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("cannot make a key")]
pub struct NoKey(#[source] pub(super) rcgen::Error);

impl LeafKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// Where there is no randomness.
    pub fn generate() -> Result<Self, NoKey> {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map(Self).map_err(NoKey)
    }

    /// A CSR for `identity`, as DER: common name and one DNS name, signed by this key.
    ///
    /// # Errors
    /// Where signing fails.
    pub fn csr(&self, identity: &Identity) -> Result<Vec<u8>, NoKey> {
        let mut asked = CertificateParams::default();
        asked.distinguished_name = common_name(identity.as_str());
        asked.subject_alt_names = vec![dns_name(identity).map_err(NoKey)?];
        let csr = asked.serialize_request(&self.0).map_err(NoKey)?;
        Ok(csr.der().to_vec())
    }

    /// The key in PKCS#8, for the TLS library.
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.0.serialize_der()).into()
    }
}

impl std::fmt::Debug for LeafKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LeafKey")
    }
}

pub(super) fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

pub(super) fn dns_name(identity: &Identity) -> Result<SanType, rcgen::Error> {
    Ok(SanType::DnsName(identity.as_str().try_into()?))
}
