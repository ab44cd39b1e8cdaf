//! Whether anchors and an issuer that somebody brought are what a mesh can sign with: judged before anything is applied.
//!
//! In: PEM, the trust domain, and `now`. Out: [`Brought`], or the first reason against it, with whose certificate it is. What proxies would find
//! out in a handshake is found out here the same way: a leaf for a name of the trust domain is signed and verified.
//!
//! Start at [`judge`].

use std::time::{Duration, SystemTime};

use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{OID_EC_P256, OID_NIST_EC_P384};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;

use super::bundle::{Bundle, InvalidBundle, NotTrusted};
use super::certificate::{Certificate, InvalidCertificate};
use super::csr::Csr;
use super::issuer::{Anchor, CannotSign, InvalidIssuer, Issuer, Validity};
use super::leaf_key::{LeafKey, NoKey};
use crate::mesh::Identity;

/// What stock proxies and rustls accept of RSA.
const RSA_BITS_MIN: usize = 2048;
/// The probe's life: any, for only its signature is looked at.
const PROBE_LIFE: Duration = Duration::from_secs(60);

/// What somebody brings, as PEM.
#[derive(Clone, Copy, Debug)]
pub struct Offer<'a> {
    /// One or several.
    pub anchors: &'a str,
    /// Of the one anchor, where the mesh is to make and renew issuers itself.
    pub anchor_key: Option<&'a str>,
    /// The issuer's chain, its own certificate first, and its key.
    pub issuer: Option<(&'a str, &'a str)>,
}

/// What has been found good.
#[derive(Debug)]
pub struct Brought {
    pub bundle: Bundle,
    pub issuer: Option<Issuer>,
}

/// Why it cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unusable {
    #[error("cannot use the trust anchors")]
    Anchors(#[source] InvalidBundle),
    #[error("cannot use {subject} as a trust anchor")]
    Anchor { subject: String, source: Unfit },
    #[error("cannot use the key of the trust anchor")]
    AnchorKey(#[source] InvalidIssuer),
    #[error("the trust anchors are {0}, and it cannot be told whose key is given: give that anchor alone")]
    AnchorKeyOfWhich(usize),
    #[error("cannot use the issuer")]
    Issuer(#[source] InvalidIssuer),
    #[error("cannot use {subject}, of the issuer's chain")]
    Chain { subject: String, source: Unfit },
    #[error("cannot use the issuer {subject}")]
    Signs { subject: String, source: Refused },
    #[error("there is neither an issuer nor the key of the trust anchor, so nobody could sign")]
    NobodySigns,
}

/// What is wrong with one authority.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unfit {
    #[error("its certificate is not that of a certificate authority (CA:TRUE)")]
    NotAnAuthority,
    #[error("the key usage of its certificate does not let it sign certificates (keyCertSign)")]
    MayNotSign,
    #[error("its certificate has expired")]
    Expired,
    #[error("its certificate is not valid yet")]
    NotYetValid,
    #[error("its key is {0}; proxies accept ECDSA P-256 and P-384, and RSA of {RSA_BITS_MIN} bits or more")]
    WeakKey(String),
    #[error("its certificate is for {found}, not for the trust domain {expected}")]
    TrustDomain { found: String, expected: String },
    #[error(transparent)]
    Certificate(#[from] InvalidCertificate),
}

/// Why what the issuer signs would not be believed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refused {
    #[error("it does not chain to the trust anchors: none of them signed it, or the last certificate of its chain")]
    UnknownIssuer,
    #[error("a path length constraint above it allows no authority where it stands")]
    PathLength,
    #[error("name constraints above it leave out the trust domain {0}")]
    NameConstraints(String),
    #[error("its chain cannot be verified: {0}")]
    Other(NotTrusted),
    #[error(transparent)]
    CannotSign(#[from] CannotSign),
}

/// Judges what was brought for a mesh of `trust_domain`.
///
/// # Errors
/// The first reason against it.
pub fn judge(offer: Offer<'_>, trust_domain: &str, now: SystemTime) -> Result<Brought, Unusable> {
    let bundle = judge_anchors(offer.anchors, trust_domain, now)?;
    let own = offer.anchor_key.map(|key| match bundle.anchors() {
        [anchor] => Anchor::parse_pem(&anchor.to_pem(), key).map_err(Unusable::AnchorKey),
        anchors => Err(Unusable::AnchorKeyOfWhich(anchors.len())),
    });
    let own = own.transpose()?;
    let issuer = offer.issuer.map(|(chain, key)| Issuer::parse_pem(chain, key)).transpose();
    let issuer = issuer.map_err(Unusable::Issuer)?;
    match (&issuer, own) {
        (None, None) => return Err(Unusable::NobodySigns),
        (Some(issuer), _) => signs(issuer, &bundle, trust_domain, now)?,
        (None, Some(anchor)) => {
            // That it can make an issuer which is believed: its path length may forbid it.
            let made = anchor.create_issuer(trust_domain, now).map_err(|error| Unusable::Signs {
                subject: anchor.certificate().subject().into(),
                source: error.into(),
            })?;
            signs(&made, &bundle, trust_domain, now)?;
        }
    }
    Ok(Brought { bundle, issuer })
}

/// Judges anchors alone, of an issuer that is not at hand.
///
/// # Errors
/// The first reason against one of them.
pub fn judge_anchors(anchors: &str, trust_domain: &str, now: SystemTime) -> Result<Bundle, Unusable> {
    let bundle = Bundle::parse_pem(anchors).map_err(Unusable::Anchors)?;
    for anchor in bundle.anchors() {
        fit(anchor, trust_domain, now)
            .map_err(|source| Unusable::Anchor { subject: anchor.subject().into(), source })?;
    }
    Ok(bundle)
}

/// Whether one certificate can be an authority of this mesh.
fn fit(certificate: &Certificate, trust_domain: &str, now: SystemTime) -> Result<(), Unfit> {
    if !certificate.is_ca() {
        return Err(Unfit::NotAnAuthority);
    }
    let (_, parsed) = X509Certificate::from_der(certificate.der()).map_err(|_| InvalidCertificate::Malformed)?;
    let usage = parsed.key_usage().map_err(|_| InvalidCertificate::Malformed)?;
    if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err(Unfit::MayNotSign);
    }
    if certificate.not_after() <= now {
        return Err(Unfit::Expired);
    }
    if certificate.not_before() > now {
        return Err(Unfit::NotYetValid);
    }
    if let Some(weak) = weak_key(&parsed) {
        return Err(Unfit::WeakKey(weak));
    }
    match foreign_name(&parsed, trust_domain) {
        Some(found) => Err(Unfit::TrustDomain { found, expected: trust_domain.into() }),
        None => Ok(()),
    }
}

/// What kind of key it is, where that is none that every proxy accepts.
fn weak_key(parsed: &X509Certificate<'_>) -> Option<String> {
    let info = parsed.public_key();
    match info.parsed() {
        Ok(PublicKey::RSA(key)) if key.key_size() >= RSA_BITS_MIN => None,
        Ok(PublicKey::RSA(key)) => Some(format!("RSA of {} bits", key.key_size())),
        Ok(PublicKey::EC(_)) => {
            let curve = info.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
            let is_known = curve.as_ref().is_some_and(|curve| *curve == OID_EC_P256 || *curve == OID_NIST_EC_P384);
            (!is_known).then(|| "ECDSA on another curve".to_owned())
        }
        _ => Some("of another kind".to_owned()),
    }
}

/// A name that says that the certificate was made for another mesh: a SPIFFE ID of another domain, or an issuer's name as meshes give them
/// (`identity.…`) that does not end in this one.
fn foreign_name(parsed: &X509Certificate<'_>, trust_domain: &str) -> Option<String> {
    let is_foreign = |name: &str| {
        name.strip_prefix("identity.")
            .is_some_and(|rest| rest != trust_domain && !rest.ends_with(&format!(".{trust_domain}")))
    };
    for extension in parsed.extensions() {
        let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else { continue };
        for name in &names.general_names {
            match name {
                GeneralName::URI(uri) => {
                    let domain = uri.strip_prefix("spiffe://").and_then(|rest| rest.split('/').next());
                    if domain.is_some_and(|domain| domain != trust_domain) {
                        return Some((*uri).to_owned());
                    }
                }
                GeneralName::DNSName(name) if is_foreign(name) => return Some((*name).to_owned()),
                _ => {}
            }
        }
    }
    let common = parsed.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    common.into_iter().find(|name| is_foreign(name)).map(str::to_owned)
}

/// Whether each of the chain can be an authority, and a leaf of the issuer's would be believed.
fn signs(issuer: &Issuer, bundle: &Bundle, trust_domain: &str, now: SystemTime) -> Result<(), Unusable> {
    for der in issuer.chain() {
        let certificate =
            Certificate::from_der(der.clone()).map_err(|error| Unusable::Issuer(InvalidIssuer::Certificate(error)))?;
        fit(&certificate, trust_domain, now)
            .map_err(|source| Unusable::Chain { subject: certificate.subject().into(), source })?;
    }
    let refused = |source| Unusable::Signs { subject: issuer.certificate().subject().into(), source };
    let nobody = Identity::of_service_account("probe", "probe", "probe", trust_domain)
        .map_err(|_| refused(Refused::NameConstraints(trust_domain.into())))?;
    let probe = || -> Result<_, CannotSign> {
        let csr = LeafKey::generate().and_then(|key| key.csr(&nobody))?;
        let csr = Csr::parse_der(&csr).expect("a CSR of a leaf key parses");
        issuer.sign(&csr, &nobody, now, Validity { lifetime: PROBE_LIFE, skew: Duration::ZERO })
    };
    let leaf = probe().map_err(|error| refused(error.into()))?;
    bundle.verify(&leaf.certificate, &leaf.intermediates, now).map_err(|error| {
        refused(match error {
            // An anchor of the same name, whose key is another, is no more its anchor.
            NotTrusted::Chain {
                reason: webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey,
                ..
            } => Refused::UnknownIssuer,
            NotTrusted::Chain { reason: webpki::Error::PathLenConstraintViolated, .. } => Refused::PathLength,
            NotTrusted::Chain { reason: webpki::Error::NameConstraintViolation, .. } => {
                Refused::NameConstraints(trust_domain.into())
            }
            other => Refused::Other(other),
        })
    })?;
    // Who verifies a chain need not look at the constraints of the anchor itself (RFC 5280 section 6.1.1); some do.
    let vouching = bundle.anchors().iter().filter(|anchor| {
        let only = Bundle::parse_pem(&anchor.to_pem());
        only.is_ok_and(|only| only.verify(&leaf.certificate, &leaf.intermediates, now).is_ok())
    });
    let below = issuer.chain().iter().filter(|der| bundle.anchors().iter().all(|anchor| anchor.der() != *der)).count();
    let mut vouching = vouching.map(|anchor| path_length(anchor).is_none_or(|allowed| allowed >= below));
    if vouching.any(|allows| allows) { Ok(()) } else { Err(refused(Refused::PathLength)) }
}

/// How many authorities may stand below one; any number where it does not say.
fn path_length(certificate: &Certificate) -> Option<usize> {
    let (_, parsed) = X509Certificate::from_der(certificate.der()).ok()?;
    let constraints = parsed.basic_constraints().ok()??;
    constraints.value.path_len_constraint.map(|allowed| usize::try_from(allowed).unwrap_or(usize::MAX))
}

impl From<NoKey> for Refused {
    fn from(error: NoKey) -> Self {
        Self::CannotSign(error.into())
    }
}

#[cfg(test)]
mod tests;
