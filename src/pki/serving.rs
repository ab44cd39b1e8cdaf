//! The certificate of a webhook: made, judged and renewed by the webhook itself.
//!
//! In: the DNS names, `now`, and what is kept already. Out: a [`Serving`], whose CA signed this one certificate and whose key is thrown away: a
//! new certificate comes with a new CA, while the old ones stay in the bundle until they end, for replicas that still
//! show theirs.
//!
//! Start at [`Serving::create`] and [`Serving::parse_pem`].

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;

use super::certificate::{Certificate, InvalidCertificate};
use super::leaf_key::NoKey;

/// As long as an issuer's: nobody renews it by hand, so the length only says how long all replicas may be down.
const LIFETIME: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// How far the API server's clock may be behind ours.
const SKEW: Duration = Duration::from_secs(60 * 60);
/// Each renewal adds one and ended ones go, so more than these are somebody's mistake.
const CAS_MAX: usize = 8;

/// A serving certificate, its key, and the CAs by which clients believe it.
pub struct Serving {
    certificate: Certificate,
    key: PrivateKeyDer<'static>,
    key_pem: String,
    /// The newest first.
    cas: Vec<Certificate>,
}

/// Why what is kept cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    #[error("cannot read the certificate")]
    Certificate(#[source] InvalidCertificate),
    #[error("there is no certificate, or no CA")]
    Missing,
    #[error("cannot read the private key")]
    Key,
    #[error("the certificate is not for {0}")]
    Name(String),
    #[error("the private key is not the certificate's")]
    Mismatch,
}

impl Serving {
    /// A new certificate for `names`, and the CAs of `previous` that have not ended by `now`.
    ///
    /// # Errors
    /// Where the machine has no randomness, or a name is no DNS name.
    pub fn create(names: &[String], now: SystemTime, previous: &[Certificate]) -> Result<Self, NoKey> {
        let common_name = names.first().cloned().unwrap_or_default();
        let wish = |names: &[String], common_name: &str| -> Result<CertificateParams, NoKey> {
            let mut wish = CertificateParams::new(names.to_vec()).map_err(NoKey)?;
            wish.not_before = OffsetDateTime::from(now - SKEW);
            wish.not_after = OffsetDateTime::from(now + LIFETIME);
            let mut name = DistinguishedName::new();
            name.push(DnType::CommonName, common_name);
            wish.distinguished_name = name;
            Ok(wish)
        };
        let mut ca = wish(&[], &format!("CA of {common_name}"))?;
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let ca_key = KeyPair::generate().map_err(NoKey)?;
        let ca_certificate = ca.self_signed(&ca_key).map_err(NoKey)?;
        let signer = rcgen::Issuer::new(ca, ca_key);

        let mut leaf = wish(names, &common_name)?;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().map_err(NoKey)?;
        let certificate = leaf.signed_by(&key, &signer).map_err(NoKey)?;

        let read = |der: &CertificateDer<'static>| {
            Certificate::from_der(der.clone()).map_err(|_| NoKey(rcgen::Error::CouldNotParseCertificate))
        };
        let alive = previous.iter().filter(|old| old.not_after() > now).take(CAS_MAX - 1).cloned();
        Ok(Self {
            certificate: read(certificate.der())?,
            key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            key_pem: key.serialize_pem(),
            cas: std::iter::once(read(ca_certificate.der())?).chain(alive).collect(),
        })
    }

    /// What is kept, if it can serve `name`.
    ///
    /// # Errors
    /// Why it cannot; then the way on is [`Serving::create`].
    pub fn parse_pem(certificate: &str, key: &str, cas: &str, name: &str) -> Result<Self, Unusable> {
        let certificate = certificates(certificate)?.into_iter().next().ok_or(Unusable::Missing)?;
        let cas = certificates(cas)?;
        if cas.is_empty() {
            return Err(Unusable::Missing);
        }
        if !certificate.identities().iter().any(|identity| identity.as_str() == name) {
            return Err(Unusable::Name(name.into()));
        }
        let pair = KeyPair::from_pem(key).map_err(|_| Unusable::Key)?;
        let of_key = rcgen::PublicKeyData::subject_public_key_info(&pair);
        if !contains(certificate.der(), &of_key) {
            return Err(Unusable::Mismatch);
        }
        let private_key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| Unusable::Key)?;
        Ok(Self { certificate, key: private_key, key_pem: key.into(), cas })
    }

    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }

    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    pub fn cas(&self) -> &[Certificate] {
        &self.cas
    }

    /// What clients must believe: every CA, the newest first.
    pub fn ca_bundle_pem(&self) -> String {
        self.cas.iter().map(Certificate::to_pem).collect()
    }

    /// When a third of its life is left: time for a control plane that is down, or clients that are slow.
    pub fn renews_at(&self) -> SystemTime {
        let (begin, end) = (self.certificate.not_before(), self.certificate.not_after());
        let life = end.duration_since(begin).unwrap_or_default();
        begin + life * 2 / 3
    }
}

/// `KeyPair` and key in the certificate are the same if its SubjectPublicKeyInfo is in there, byte by byte.
fn contains(certificate: &[u8], public_key: &[u8]) -> bool {
    certificate.windows(public_key.len()).any(|window| window == public_key)
}

/// The certificates in a PEM text.
///
/// # Errors
/// Where one of them is none.
pub fn certificates(pem: &str) -> Result<Vec<Certificate>, Unusable> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .map(|der| Certificate::from_der(der.map_err(|_| Unusable::Missing)?).map_err(Unusable::Certificate))
        .collect()
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::ServerName;

    use super::*;

    const NAME: &str = "hawser-injector.hawser.svc";

    fn create(now: SystemTime, previous: &[Certificate]) -> Serving {
        Serving::create(&[NAME.into()], now, previous).unwrap()
    }

    /// Whether a client that believes `cas` believes the certificate, at `now`.
    fn is_believed(serving: &Serving, cas: &[Certificate], now: SystemTime) -> bool {
        let anchors: Vec<_> = cas.iter().map(|ca| webpki::anchor_from_trusted_cert(ca.der()).unwrap()).collect();
        let leaf = webpki::EndEntityCert::try_from(serving.certificate().der()).unwrap();
        let at = rustls_pki_types::UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap());
        let usage = webpki::KeyUsage::server_auth();
        let algorithms = webpki::ALL_VERIFICATION_ALGS;
        leaf.verify_for_usage(algorithms, &anchors, &[], at, usage, None, None).is_ok()
            && leaf.verify_is_valid_for_subject_name(&ServerName::try_from(NAME).unwrap()).is_ok()
    }

    #[test]
    fn clients_of_its_cas_believe_it_until_it_ends() {
        let now = SystemTime::now();
        let serving = create(now, &[]);
        assert!(is_believed(&serving, serving.cas(), now));
        assert!(!is_believed(&serving, create(now, &[]).cas(), now));
        assert!(!is_believed(&serving, serving.cas(), now + LIFETIME + SKEW));
    }

    #[test]
    fn a_renewal_keeps_the_old_cas_until_they_end() {
        let now = SystemTime::now();
        let old = create(now, &[]);
        assert!(old.renews_at() > now && old.renews_at() < now + LIFETIME);
        let new = create(old.renews_at(), old.cas());
        assert!(is_believed(&old, new.cas(), old.renews_at()) && is_believed(&new, new.cas(), old.renews_at()));
        let later = create(now + LIFETIME + SKEW, new.cas());
        assert_eq!(later.cas().len(), 2, "the first has ended");
    }

    #[test]
    fn reads_what_it_wrote_and_refuses_what_does_not_fit() {
        let (a, b) = (create(SystemTime::now(), &[]), create(SystemTime::now(), &[]));
        let certificate = a.certificate().to_pem();
        let read = Serving::parse_pem(&certificate, a.key_pem(), &a.ca_bundle_pem(), NAME).unwrap();
        assert_eq!(read.certificate().der(), a.certificate().der());
        let refused = |certificate: &str, key: &str, cas: &str, name: &str| {
            Serving::parse_pem(certificate, key, cas, name).err().unwrap().to_string()
        };
        let cas = a.ca_bundle_pem();
        assert_eq!(refused(&certificate, b.key_pem(), &cas, NAME), "the private key is not the certificate's");
        assert_eq!(refused(&certificate, a.key_pem(), &cas, "other.svc"), "the certificate is not for other.svc");
        assert_eq!(refused(&certificate, "", &cas, NAME), "cannot read the private key");
        assert_eq!(refused(&certificate, a.key_pem(), "", NAME), "there is no certificate, or no CA");
        assert_eq!(refused("", a.key_pem(), &cas, NAME), "there is no certificate, or no CA");
    }
}
