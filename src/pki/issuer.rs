//! Who signs: the anchor signs issuers, an issuer signs leaves.
//!
//! In: PEM of certificate and key, or the wish for new ones; `now` always comes from the caller. Out: an [`Anchor`] or an
//! [`Issuer`], and the [`Leaf`]s it signs. Other software's issuers are read too (SEC 1, PKCS #1 and PKCS #8 keys).
//!
//! Start at [`Issuer::sign`].

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PublicKeyData as _,
    SerialNumber,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::bundle::{Bundle, NotTrusted};
use super::certificate::{Certificate, InvalidCertificate, hex};
use super::csr::Csr;
use super::encrypted;
use super::leaf_key::{LeafKey, NoKey, common_name, dns_name};
use super::lifetimes::{BACKDATED, Lifetimes};
use crate::mesh::Identity;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// The certificates of one issuer's chain: itself, and those between it and the anchor.
const CHAIN_MAX: usize = 8;

/// A certificate with the key that signs in its name.
struct Authority {
    certificate: Certificate,
    signer: rcgen::Issuer<'static, KeyPair>,
}

/// A self-signed authority, which signs issuers.
pub struct Anchor(Authority);

/// An authority under an anchor, which signs leaves.
pub struct Issuer {
    authority: Authority,
    /// The issuer's own certificate first, then towards the anchor, which is not among them.
    chain: Vec<CertificateDer<'static>>,
    /// The earliest end in the chain: no leaf outlives it.
    not_after: SystemTime,
}

/// What an issuer made.
#[derive(Clone, Debug)]
pub struct Leaf {
    pub certificate: Certificate,
    /// The issuer's certificate first, then towards the anchor.
    pub intermediates: Vec<CertificateDer<'static>>,
}

/// What is sent of a [`Leaf`], and said of it: as it was written, not read again.
#[derive(Clone, Debug)]
pub struct Issued {
    pub der: CertificateDer<'static>,
    /// As [`Certificate::serial`] has it.
    pub serial: String,
    pub not_after: SystemTime,
}

/// How long a leaf is to be valid.
#[derive(Clone, Copy, Debug)]
pub struct Validity {
    pub lifetime: Duration,
    /// How far clocks may differ: the leaf starts that much earlier and ends that much later.
    pub skew: Duration,
}

/// Why an anchor or issuer cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidIssuer {
    #[error("there is no certificate in the PEM")]
    NoCertificate,
    #[error("cannot read the certificate of the issuer")]
    Certificate(#[from] InvalidCertificate),
    #[error("the chain of the issuer has more than {CHAIN_MAX} certificates")]
    ChainTooLong,
    #[error("cannot read the issuer's key: expected PEM of an EC or RSA key (SEC 1, PKCS #1 or PKCS #8)")]
    Key,
    #[error("the key is encrypted, and nobody is there to give its passphrase: `openssl pkcs8 -in KEY` decrypts it")]
    KeyEncrypted,
    #[error("the issuer's key is not that of its certificate")]
    KeyMismatch,
    #[error("the certificate of {0} is not that of a certificate authority (CA:TRUE)")]
    NotAnAuthority(String),
    #[error("the name of the issuer, {0}, is of a form that leaves cannot repeat")]
    Name(String),
    #[error(transparent)]
    NotTrusted(#[from] NotTrusted),
    #[error(transparent)]
    CannotSign(#[from] CannotSign),
}

/// Why nothing was signed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CannotSign {
    #[error("cannot say when the certificate should end")]
    Instant,
    #[error(transparent)]
    Key(#[from] NoKey),
    #[error("cannot sign the certificate")]
    Sign(#[source] rcgen::Error),
    #[error("cannot read the certificate that was just signed")]
    Read(#[source] InvalidCertificate),
}

impl Anchor {
    /// Makes a new anchor for a trust domain, valid for as long as anchors are by default.
    ///
    /// # Errors
    /// Where there is no randomness.
    pub fn create(trust_domain: &str, now: SystemTime) -> Result<Self, CannotSign> {
        Self::create_until(trust_domain, now, now + Lifetimes::default().anchor)
    }

    /// Makes a new anchor for a trust domain.
    ///
    /// # Errors
    /// Where there is no randomness.
    pub fn create_until(trust_domain: &str, now: SystemTime, end: SystemTime) -> Result<Self, CannotSign> {
        let key = new_key()?;
        let wish = authority(&format!("root.{trust_domain}"), now, end, BasicConstraints::Unconstrained)?;
        let certificate = Certificate::from_der(wish.self_signed(&key).map_err(CannotSign::Sign)?.der().clone())
            .map_err(CannotSign::Read)?;
        Ok(Self(Authority { certificate, signer: rcgen::Issuer::new(wish, key) }))
    }

    /// Reads an anchor and its key.
    ///
    /// # Errors
    /// Where one cannot be read, they do not belong together, or the certificate may not sign.
    pub fn parse_pem(certificate: &str, key: &str) -> Result<Self, InvalidIssuer> {
        let certificate =
            CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|_| InvalidIssuer::NoCertificate)?;
        Ok(Self(Authority::new(Certificate::from_der(certificate)?, key)?))
    }

    pub fn certificate(&self) -> &Certificate {
        &self.0.certificate
    }

    pub fn key_pem(&self) -> String {
        self.0.signer.key().serialize_pem()
    }

    /// Whether this anchor signed `issuer`. Names do not tell, for an anchor and its successor have the same; so a leaf is made and verified.
    pub fn signed(&self, issuer: &Issuer) -> bool {
        let only = Bundle::parse_pem(&self.0.certificate.to_pem());
        only.is_ok_and(|only| issuer.validate(&only, issuer.certificate().not_before()).is_ok())
    }

    /// Makes a new issuer under this anchor, valid for as long as issuers are by default but never longer than the anchor.
    ///
    /// # Errors
    /// Where there is no randomness.
    pub fn create_issuer(&self, trust_domain: &str, now: SystemTime) -> Result<Issuer, CannotSign> {
        let end = (now + Lifetimes::default().issuer).min(self.0.certificate.not_after());
        self.create_issuer_until(trust_domain, now, end)
    }

    /// Makes a new issuer under this anchor, until `end` whatever the anchor's own: how a mesh whose anchor has ended is brought back, for who
    /// verifies a chain looks at the name and key of its anchor (RFC 5280 section 6.1.1), not at its validity.
    ///
    /// # Errors
    /// Where there is no randomness.
    pub fn create_issuer_until(
        &self,
        trust_domain: &str,
        now: SystemTime,
        end: SystemTime,
    ) -> Result<Issuer, CannotSign> {
        let key = new_key()?;
        // Path length 0: what an issuer signs can never sign.
        let mut wish = authority(&format!("identity.{trust_domain}"), now, end, BasicConstraints::Constrained(0))?;
        wish.use_authority_key_identifier_extension = true;
        let signed = wish.signed_by(&key, &self.0.signer).map_err(CannotSign::Sign)?;
        let certificate = Certificate::from_der(signed.der().clone()).map_err(CannotSign::Read)?;
        Ok(Issuer {
            chain: vec![certificate.der().clone()],
            not_after: certificate.not_after(),
            authority: Authority { certificate, signer: rcgen::Issuer::new(wish, key) },
        })
    }
}

impl Issuer {
    /// Reads an issuer's chain (its own certificate first) and its key.
    ///
    /// # Errors
    /// Where one cannot be read, they do not belong together, or the certificate may not sign.
    pub fn parse_pem(chain: &str, key: &str) -> Result<Self, InvalidIssuer> {
        let mut certificates = Vec::new();
        for der in CertificateDer::pem_slice_iter(chain.as_bytes()) {
            if certificates.len() == CHAIN_MAX {
                return Err(InvalidIssuer::ChainTooLong);
            }
            certificates.push(Certificate::from_der(der.map_err(|_| InvalidIssuer::NoCertificate)?)?);
        }
        let not_after = certificates.iter().map(Certificate::not_after).min().ok_or(InvalidIssuer::NoCertificate)?;
        let chain = certificates.iter().map(|certificate| certificate.der().clone()).collect();
        let authority = Authority::new(certificates.swap_remove(0), key)?;
        Ok(Self { authority, chain, not_after })
    }

    pub fn certificate(&self) -> &Certificate {
        &self.authority.certificate
    }

    /// When the first certificate of the chain ends.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The issuer's own certificate first, then towards the anchor, which is not among them.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    pub fn chain_pem(&self) -> String {
        self.chain.iter().map(|der| super::certificate::pem(super::certificate::CERTIFICATE_LABEL, der)).collect()
    }

    /// The key as PKCS #8, of an issuer that was made here.
    pub fn key_pem(&self) -> String {
        self.authority.signer.key().serialize_pem()
    }

    /// Proves that leaves of this issuer will be believed by those who hold `bundle`: signs one for a name that
    /// nobody has and verifies it.
    ///
    /// # Errors
    /// Where the issuer has expired, does not chain to the bundle, or signs what cannot be verified.
    pub fn validate(&self, bundle: &Bundle, now: SystemTime) -> Result<(), InvalidIssuer> {
        let nobody = Identity::of_service_account("probe", "probe", "probe", "invalid")
            .expect("the labels of the probe are DNS labels");
        let csr = LeafKey::generate().and_then(|key| key.csr(&nobody)).map_err(CannotSign::Key)?;
        let csr = Csr::parse_der(&csr).expect("a CSR of a leaf key parses");
        let validity = Validity { lifetime: DAY, skew: Duration::ZERO };
        let leaf = self.sign(&csr, &nobody, now, validity)?;
        if self.not_after <= now {
            return Err(NotTrusted::Expired { subject: self.certificate().subject().into() }.into());
        }
        Ok(bundle.verify(&leaf.certificate, &leaf.intermediates, now)?)
    }

    /// Signs the key of `csr` for `identity`, valid from `now`, and never longer than the issuer's chain.
    ///
    /// Whether the sender may have that name has been settled before: only the key is taken from the CSR.
    ///
    /// # Errors
    /// Where signing fails.
    pub fn sign(
        &self,
        csr: &Csr,
        identity: &Identity,
        now: SystemTime,
        validity: Validity,
    ) -> Result<Leaf, CannotSign> {
        let issued = self.issue(csr, identity, now, validity)?;
        let certificate = Certificate::from_der(issued.der).map_err(CannotSign::Read)?;
        Ok(Leaf { certificate, intermediates: self.chain.clone() })
    }

    /// The same, of which nothing is read again: for those who send it on with [`Self::chain`].
    ///
    /// # Errors
    /// Where signing fails.
    pub fn issue(
        &self,
        csr: &Csr,
        identity: &Identity,
        now: SystemTime,
        validity: Validity,
    ) -> Result<Issued, CannotSign> {
        let not_before = now.checked_sub(validity.skew).ok_or(CannotSign::Instant)?;
        let not_after = validity.lifetime.checked_add(validity.skew).and_then(|longest| now.checked_add(longest));
        let not_after = not_after.map_or(self.not_after, |wished| wished.min(self.not_after));
        // A certificate tells whole seconds.
        let not_after = OffsetDateTime::from(not_after).truncate_to_second();
        let serial = serial()?;
        let mut wish = CertificateParams::default();
        wish.not_before = OffsetDateTime::from(not_before);
        wish.not_after = not_after;
        wish.serial_number = Some(serial.clone());
        wish.distinguished_name = common_name(identity.as_str());
        wish.subject_alt_names = vec![dns_name(identity).map_err(CannotSign::Sign)?];
        wish.is_ca = IsCa::NoCa;
        wish.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        wish.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        wish.use_authority_key_identifier_extension = true;
        let signed = wish.signed_by(csr.key(), &self.authority.signer).map_err(CannotSign::Sign)?;
        Ok(Issued { der: signed.into(), serial: hex(serial.as_ref()), not_after: not_after.into() })
    }
}

impl Authority {
    fn new(certificate: Certificate, key: &str) -> Result<Self, InvalidIssuer> {
        if !certificate.is_ca() {
            return Err(InvalidIssuer::NotAnAuthority(certificate.subject().into()));
        }
        if encrypted::is_encrypted(key) {
            return Err(InvalidIssuer::KeyEncrypted);
        }
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| InvalidIssuer::Key)?;
        let key = KeyPair::try_from(&key).map_err(|_| InvalidIssuer::Key)?;
        if key.subject_public_key_info() != certificate.public_key() {
            return Err(InvalidIssuer::KeyMismatch);
        }
        let name = || InvalidIssuer::Name(certificate.subject().into());
        let (_, parsed) = X509Certificate::from_der(certificate.der()).map_err(|_| InvalidCertificate::Malformed)?;
        // rcgen panics on an empty part of a name, and knows no part with two values.
        if parsed.subject().iter().any(|part| part.iter().count() != 1) {
            return Err(name());
        }
        let signer = rcgen::Issuer::from_ca_cert_der(certificate.der(), key).map_err(|_| name())?;
        Ok(Self { certificate, signer })
    }
}

impl Leaf {
    pub fn not_after(&self) -> SystemTime {
        self.certificate.not_after()
    }
}

impl std::fmt::Debug for Anchor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Anchor").field(&self.0.certificate.subject()).finish()
    }
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Issuer").field(&self.certificate().subject()).finish()
    }
}

/// What the certificate of an authority says, but for who signed it.
pub(super) fn authority(
    name: &str,
    now: SystemTime,
    not_after: SystemTime,
    constraints: BasicConstraints,
) -> Result<CertificateParams, CannotSign> {
    let mut wish = CertificateParams::default();
    wish.not_before = OffsetDateTime::from(now.checked_sub(BACKDATED).ok_or(CannotSign::Instant)?);
    wish.not_after = OffsetDateTime::from(not_after);
    wish.serial_number = Some(serial()?);
    wish.distinguished_name = common_name(name);
    wish.is_ca = IsCa::Ca(constraints);
    wish.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(wish)
}

fn new_key() -> Result<KeyPair, CannotSign> {
    Ok(KeyPair::generate().map_err(NoKey)?)
}

/// 127 random bits, positive and of constant length: replicas need not agree on a counter.
fn serial() -> Result<SerialNumber, CannotSign> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| NoKey(rcgen::Error::RingUnspecified))?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

#[cfg(test)]
mod tests;
