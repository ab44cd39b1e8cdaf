//! The bundle: the set of anchors that a proxy believes.
//!
//! In: PEM from the environment, a file or a ConfigMap. Out: a [`Bundle`], which is never empty, and its judgement of chains.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage};

use super::certificate::{Certificate, InvalidCertificate, sha256_hex};

/// A rotation needs two anchors and a federation of meshes a few more; each costs every handshake a comparison.
const ANCHORS_MAX: usize = 64;

/// The anchors a proxy believes: at least one, none twice, in the order of the PEM.
#[derive(Clone, Debug)]
pub struct Bundle {
    anchors: Vec<Certificate>,
    roots: Arc<RootCertStore>,
}

/// Why a text is no bundle.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidBundle {
    #[error("the trust bundle has no certificate")]
    Empty,
    #[error("certificate {0} of the trust bundle cannot be read")]
    Certificate(usize, #[source] InvalidCertificate),
    #[error("certificate {0} of the trust bundle cannot be an anchor")]
    NotAnAnchor(usize),
    #[error("the trust bundle is not PEM")]
    Pem,
    #[error("the trust bundle has more than {ANCHORS_MAX} certificates")]
    TooMany,
}

/// Why a chain is not believed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotTrusted {
    #[error("the certificate of {subject} does not chain to the trust bundle: {reason}")]
    Chain { subject: String, reason: webpki::Error },
    #[error("the certificate of {subject} has expired")]
    Expired { subject: String },
    #[error("the certificate of {subject} is not valid yet")]
    NotYetValid { subject: String },
}

impl Bundle {
    /// Reads every certificate of a PEM text; texts between them are skipped.
    ///
    /// # Errors
    /// Where there is none, one of them is broken, or there are too many.
    pub fn parse_pem(text: &str) -> Result<Self, InvalidBundle> {
        let mut ders: Vec<CertificateDer<'static>> = Vec::new();
        for der in CertificateDer::pem_slice_iter(text.as_bytes()) {
            if ders.len() == ANCHORS_MAX {
                return Err(InvalidBundle::TooMany);
            }
            ders.push(der.map_err(|_| InvalidBundle::Pem)?);
        }
        let mut seen = HashSet::new();
        ders.retain(|der| seen.insert(der.clone()));
        let mut anchors = Vec::with_capacity(ders.len());
        let mut roots = RootCertStore::empty();
        for (at, der) in ders.into_iter().enumerate() {
            roots.add(der.clone()).map_err(|_| InvalidBundle::NotAnAnchor(at + 1))?;
            anchors.push(Certificate::from_der(der).map_err(|error| InvalidBundle::Certificate(at + 1, error))?);
        }
        if anchors.is_empty() {
            return Err(InvalidBundle::Empty);
        }
        Ok(Self { anchors, roots: Arc::new(roots) })
    }

    /// The anchors as PEM, in their order: the same anchors give the same text, whatever stood between them.
    pub fn to_pem(&self) -> String {
        self.anchors.iter().map(Certificate::to_pem).collect()
    }

    /// SHA-256 of [`Self::to_pem`], in lower-case hex.
    pub fn sha256_hex(&self) -> String {
        sha256_hex(self.to_pem().as_bytes())
    }

    pub fn anchors(&self) -> &[Certificate] {
        &self.anchors
    }

    pub fn root_store(&self) -> Arc<RootCertStore> {
        self.roots.clone()
    }

    /// Whether a peer with `leaf` can be believed at `now`, as a server and as a client.
    ///
    /// Says nothing of the name in it. `intermediates` may stand in any order.
    ///
    /// # Errors
    /// Where no chain leads to an anchor, a part of it is not valid at `now`, or it is for other uses.
    pub fn verify(
        &self,
        leaf: &Certificate,
        intermediates: &[CertificateDer<'_>],
        now: SystemTime,
    ) -> Result<(), NotTrusted> {
        let untrusted = |reason: webpki::Error| {
            let subject = leaf.subject().to_owned();
            match reason {
                webpki::Error::CertExpired { .. } => NotTrusted::Expired { subject },
                webpki::Error::CertNotValidYet { .. } => NotTrusted::NotYetValid { subject },
                reason => NotTrusted::Chain { subject, reason },
            }
        };
        let end_entity = EndEntityCert::try_from(leaf.der()).map_err(untrusted)?;
        let time = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
        for usage in [KeyUsage::server_auth(), KeyUsage::client_auth()] {
            end_entity
                .verify_for_usage(ALL_VERIFICATION_ALGS, &self.roots.roots, intermediates, time, usage, None, None)
                .map_err(untrusted)?;
        }
        Ok(())
    }

    /// The anchor that vouches for `leaf`; none where none does.
    pub fn vouching(
        &self,
        leaf: &Certificate,
        intermediates: &[CertificateDer<'_>],
        now: SystemTime,
    ) -> Option<&Certificate> {
        self.anchors.iter().find(|anchor| {
            let only = Self::parse_pem(&anchor.to_pem());
            only.is_ok_and(|only| only.verify(leaf, intermediates, now).is_ok())
        })
    }
}

impl PartialEq for Bundle {
    fn eq(&self, other: &Self) -> bool {
        self.anchors == other.anchors
    }
}

impl Eq for Bundle {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::Anchor;

    fn anchor() -> String {
        Anchor::create("cluster.local", SystemTime::UNIX_EPOCH).unwrap().certificate().to_pem()
    }

    #[test]
    fn reads_every_anchor_once_and_writes_them_back() {
        let (first, second) = (anchor(), anchor());
        let text = format!("# ours\n{first}\n# theirs\n{second}{first}");
        let bundle = Bundle::parse_pem(&text).unwrap();
        assert_eq!(bundle.anchors().len(), 2);
        assert_eq!(bundle.to_pem(), format!("{first}{second}"));
        assert_eq!(bundle.root_store().len(), 2);
        assert_eq!(bundle.sha256_hex().len(), 64);
    }

    #[test]
    fn refuses_a_bundle_without_anchors() {
        assert_eq!(Bundle::parse_pem(""), Err(InvalidBundle::Empty));
        assert_eq!(Bundle::parse_pem("no certificate here"), Err(InvalidBundle::Empty));
    }

    #[test]
    fn refuses_a_bundle_with_a_broken_certificate() {
        let garbage = super::super::certificate::pem("CERTIFICATE", b"garbage");
        let refused = Bundle::parse_pem(&format!("{}{garbage}", anchor()));
        assert_eq!(refused, Err(InvalidBundle::NotAnAnchor(2)));
        let cut = anchor().replace("-----END CERTIFICATE-----", "");
        assert_eq!(Bundle::parse_pem(&cut), Err(InvalidBundle::Pem));
    }

    #[test]
    fn refuses_more_anchors_than_a_handshake_should_try() {
        assert_eq!(Bundle::parse_pem(&anchor().repeat(ANCHORS_MAX + 1)), Err(InvalidBundle::TooMany));
    }
}
