//! What a CSR asks for, and whether that is what its sender may have.
//!
//! ```text
//!   DER ──parsed──> Asked: its names can be looked at ──its signature verified──> Csr: the sender holds the key
//! ```
//!
//! In: DER from the network. Out: an [`Asked`], which costs microseconds, and from it a [`Csr`], which costs as much as a signature: so what is
//! wrong with the names is said first. [`Asked::asks_for`] refuses every name but one. What else a CSR may wish for (usages, constraints) is never
//! copied into a leaf, so it is not looked at.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, EcdsaVerificationAlgorithm, ParsedPublicKey,
};
use rcgen::{PKCS_ECDSA_P256_SHA256, SignatureAlgorithm};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384,
};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::SubjectPublicKeyInfo;

/// A CSR with one name is under 600 bytes, and with a large RSA key, which is refused by its kind, under 2 KiB.
const DER_BYTES_MAX: usize = 4 << 10;
/// Names of one CSR that are read: one is asked for, and what a second one says is told to its sender.
const NAMES_MAX: usize = 8;

/// A CSR that parses: what it asks for, by whomever.
#[derive(Debug)]
pub struct Asked {
    common_names: Vec<String>,
    dns_names: Vec<String>,
    other_names: Vec<&'static str>,
    key: Key,
    /// What was signed, by what, and the signature.
    signed: Vec<u8>,
    algorithm: &'static EcdsaVerificationAlgorithm,
    signature: Vec<u8>,
}

/// A CSR that is signed by its own key.
#[derive(Clone, Debug)]
pub struct Csr {
    key: Key,
}

/// Why bytes are no CSR.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidCsr {
    #[error("the CSR is empty")]
    Empty,
    #[error("the key of the CSR is not ECDSA P-256, which peers require")]
    KeyKind,
    #[error("the CSR is not DER of PKCS #10")]
    Malformed,
    #[error("the CSR has more than {NAMES_MAX} names")]
    Names,
    #[error("the CSR is not signed by the key that it is for")]
    Signature,
    #[error("the CSR is signed by an algorithm other than ECDSA with SHA-256 or SHA-384")]
    SignatureKind,
    #[error("the CSR has {0} bytes, more than the {DER_BYTES_MAX} that are read")]
    TooLarge(usize),
}

/// Why a CSR does not ask for the one name that was requested.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum WrongCsr {
    #[error("the CSR has {0} DNS names, but must have exactly one")]
    Count(usize),
    #[error("the CSR is for the DNS name {found:?}, not for {requested:?}")]
    DnsName { found: String, requested: String },
    #[error("the common name of the CSR is {found:?}, not {requested:?}")]
    CommonName { found: String, requested: String },
    #[error("the CSR asks for a name of kind {0}; only a DNS name can be certified")]
    Kind(&'static str),
}

impl Asked {
    /// Reads a CSR. Whether its sender holds the key is left to [`Self::prove`].
    ///
    /// # Errors
    /// Where it is not one CSR in DER, too large, or for a key that nobody will be certified for.
    pub fn parse_der(der: &[u8]) -> Result<Self, InvalidCsr> {
        match der.len() {
            0 => return Err(InvalidCsr::Empty),
            length if length > DER_BYTES_MAX => return Err(InvalidCsr::TooLarge(length)),
            _ => {}
        }
        let (rest, parsed) = X509CertificationRequest::from_der(der).map_err(|_| InvalidCsr::Malformed)?;
        if !rest.is_empty() {
            return Err(InvalidCsr::Malformed);
        }
        let wish = &parsed.certification_request_info;
        let algorithm = match &parsed.signature_algorithm.algorithm {
            _ if !Key::is_p256(&wish.subject_pki) => return Err(InvalidCsr::KeyKind),
            oid if *oid == OID_SIG_ECDSA_WITH_SHA256 => &ECDSA_P256_SHA256_ASN1,
            oid if *oid == OID_SIG_ECDSA_WITH_SHA384 => &ECDSA_P256_SHA384_ASN1,
            _ => return Err(InvalidCsr::SignatureKind),
        };
        let mut asked = Self {
            common_names: Vec::new(),
            dns_names: Vec::new(),
            other_names: Vec::new(),
            key: Key(wish.subject_pki.subject_public_key.data.to_vec()),
            signed: wish.raw.to_vec(),
            algorithm,
            signature: parsed.signature_value.data.to_vec(),
        };
        for name in wish.subject.iter_common_name() {
            asked.common_names.push(name.as_str().map_err(|_| InvalidCsr::Malformed)?.to_owned());
        }
        // Every attribute and every extension is read: a second list of names must not slip by behind the first.
        for attribute in wish.iter_attributes() {
            let ParsedCriAttribute::ExtensionRequest(requested) = attribute.parsed_attribute() else { continue };
            for extension in &requested.extensions {
                match extension.parsed_extension() {
                    ParsedExtension::SubjectAlternativeName(names) => {
                        names.general_names.iter().for_each(|name| asked.note(name));
                    }
                    ParsedExtension::ParseError { .. } => return Err(InvalidCsr::Malformed),
                    _ => {}
                }
            }
        }
        if asked.common_names.len() + asked.dns_names.len() + asked.other_names.len() > NAMES_MAX {
            return Err(InvalidCsr::Names);
        }
        Ok(asked)
    }

    /// Checks that the CSR asks for `requested` and nothing else, letter by letter.
    ///
    /// # Errors
    /// With two names or none, another name, a name that is no DNS name, or another common name.
    pub fn asks_for(&self, requested: &str) -> Result<(), WrongCsr> {
        let [found] = self.dns_names.as_slice() else {
            return Err(WrongCsr::Count(self.dns_names.len()));
        };
        if found != requested {
            return Err(WrongCsr::DnsName { found: found.clone(), requested: requested.into() });
        }
        for found in &self.common_names {
            if !found.is_empty() && found != requested {
                return Err(WrongCsr::CommonName { found: found.clone(), requested: requested.into() });
            }
        }
        self.other_names.first().map_or(Ok(()), |kind| Err(WrongCsr::Kind(kind)))
    }

    /// Checks that the CSR is signed by the key that it asks for.
    ///
    /// # Errors
    /// Where it is not.
    pub fn prove(self) -> Result<Csr, InvalidCsr> {
        let key = ParsedPublicKey::new(self.algorithm, self.key.0.as_slice()).map_err(|_| InvalidCsr::Malformed)?;
        key.verify_sig(&self.signed, &self.signature).map_err(|_| InvalidCsr::Signature)?;
        Ok(Csr { key: self.key })
    }

    fn note(&mut self, name: &GeneralName<'_>) {
        let kind = match name {
            GeneralName::DNSName(name) => {
                self.dns_names.push((*name).to_owned());
                return;
            }
            GeneralName::RFC822Name(_) => "email",
            GeneralName::IPAddress(_) => "IP address",
            GeneralName::URI(_) => "URI",
            _ => "other",
        };
        self.other_names.push(kind);
    }
}

impl Csr {
    /// Reads a CSR, and checks that it is signed by the key that it asks for.
    ///
    /// # Errors
    /// Those of [`Asked::parse_der`] and [`Asked::prove`].
    pub fn parse_der(der: &[u8]) -> Result<Self, InvalidCsr> {
        Asked::parse_der(der)?.prove()
    }

    pub(super) fn key(&self) -> &Key {
        &self.key
    }
}

/// A public ECDSA P-256 key, as rcgen takes it.
#[derive(Clone, Debug)]
pub(super) struct Key(Vec<u8>);

impl Key {
    fn is_p256(info: &SubjectPublicKeyInfo<'_>) -> bool {
        let curve = info.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
        info.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == Some(OID_EC_P256)
    }
}

impl rcgen::PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, SanType, SigningKey,
    };

    use super::*;
    use crate::mesh::Identity;
    use crate::pki::LeafKey;
    use crate::pki::leaf_key::common_name;

    const WEB: &str = "web.shop.serviceaccount.identity.hawser.cluster.local";
    const THIEF: &str = "thief.shop.serviceaccount.identity.hawser.cluster.local";

    fn der(key: &impl SigningKey, subject: &str, names: Vec<SanType>) -> Vec<u8> {
        let mut asked = CertificateParams::default();
        asked.distinguished_name = common_name(subject);
        asked.subject_alt_names = names;
        asked.serialize_request(key).unwrap().der().to_vec()
    }

    fn csr(key: &impl SigningKey, subject: &str, names: Vec<SanType>) -> Asked {
        Asked::parse_der(&der(key, subject, names)).unwrap()
    }

    fn names(names: &[&str]) -> Vec<SanType> {
        names.iter().map(|&name| SanType::DnsName(name.try_into().unwrap())).collect()
    }

    #[test]
    fn accepts_the_csr_of_a_leaf_key() {
        let identity: Identity = WEB.parse().unwrap();
        let csr = Asked::parse_der(&LeafKey::generate().unwrap().csr(&identity).unwrap()).unwrap();
        assert_eq!(csr.asks_for(WEB), Ok(()));
        assert!(csr.prove().is_ok());
    }

    #[test]
    fn accepts_an_empty_common_name() {
        let key = KeyPair::generate().unwrap();
        assert_eq!(csr(&key, "", names(&[WEB])).asks_for(WEB), Ok(()));
    }

    #[test]
    fn refuses_a_csr_for_another_name() {
        let key = KeyPair::generate().unwrap();
        let refused = csr(&key, WEB, names(&[THIEF])).asks_for(WEB);
        assert_eq!(refused, Err(WrongCsr::DnsName { found: THIEF.into(), requested: WEB.into() }));
    }

    #[test]
    fn refuses_a_csr_with_two_names_or_none() {
        let key = KeyPair::generate().unwrap();
        assert_eq!(csr(&key, WEB, names(&[WEB, THIEF])).asks_for(WEB), Err(WrongCsr::Count(2)));
        assert_eq!(csr(&key, WEB, names(&[WEB, WEB])).asks_for(WEB), Err(WrongCsr::Count(2)));
        assert_eq!(csr(&key, WEB, vec![]).asks_for(WEB), Err(WrongCsr::Count(0)));
    }

    #[test]
    fn refuses_another_common_name() {
        let key = KeyPair::generate().unwrap();
        let refused = csr(&key, THIEF, names(&[WEB])).asks_for(WEB);
        assert_eq!(refused, Err(WrongCsr::CommonName { found: THIEF.into(), requested: WEB.into() }));
    }

    #[test]
    fn refuses_names_that_are_not_dns_names() {
        let key = KeyPair::generate().unwrap();
        for (name, kind) in [
            (SanType::IpAddress([10, 0, 0, 1].into()), "IP address"),
            (SanType::URI("spiffe://cluster.local/web".try_into().unwrap()), "URI"),
            (SanType::Rfc822Name("web@shop".try_into().unwrap()), "email"),
        ] {
            let mut asked = names(&[WEB]);
            asked.push(name);
            assert_eq!(csr(&key, WEB, asked).asks_for(WEB), Err(WrongCsr::Kind(kind)));
        }
    }

    #[test]
    fn refuses_keys_that_peers_do_not_accept_before_any_signature_is_verified() {
        for algorithm in [&PKCS_RSA_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let refused = Asked::parse_der(&der(&key, WEB, names(&[WEB])));
            assert_eq!(refused.unwrap_err(), InvalidCsr::KeyKind);
        }
    }

    #[test]
    fn refuses_more_names_than_anybody_means() {
        let key = KeyPair::generate().unwrap();
        let refused = Asked::parse_der(&der(&key, WEB, names(&[WEB; NAMES_MAX])));
        assert_eq!(refused.unwrap_err(), InvalidCsr::Names);
    }

    #[test]
    fn refuses_a_point_that_is_not_on_the_curve() {
        let identity: Identity = WEB.parse().unwrap();
        let mut der = LeafKey::generate().unwrap().csr(&identity).unwrap();
        let point = der.windows(3).position(|bytes| bytes == [0x42, 0x00, 0x04]).unwrap();
        der[point + 2..point + 67].fill(0xff);
        der[point + 2] = 4;
        assert!(Asked::parse_der(&der).unwrap().prove().is_err());
    }

    #[test]
    fn refuses_a_csr_that_its_key_did_not_sign() {
        let identity: Identity = WEB.parse().unwrap();
        let mut der = LeafKey::generate().unwrap().csr(&identity).unwrap();
        let name = der.windows(3).position(|bytes| bytes == b"web").unwrap();
        der[name] = b'v';
        assert_eq!(Csr::parse_der(&der).unwrap_err(), InvalidCsr::Signature);
    }

    #[test]
    fn refuses_garbage_pem_leftovers_and_too_many_bytes() {
        let identity: Identity = WEB.parse().unwrap();
        let der = LeafKey::generate().unwrap().csr(&identity).unwrap();
        assert_eq!(Csr::parse_der(b"").unwrap_err(), InvalidCsr::Empty);
        assert_eq!(Csr::parse_der(b"-----BEGIN CERTIFICATE REQUEST-----").unwrap_err(), InvalidCsr::Malformed);
        let followed = [der.as_slice(), b"x"].concat();
        assert_eq!(Csr::parse_der(&followed).unwrap_err(), InvalidCsr::Malformed);
        let oversized = vec![0x30; DER_BYTES_MAX + 1];
        assert_eq!(Csr::parse_der(&oversized).unwrap_err(), InvalidCsr::TooLarge(DER_BYTES_MAX + 1));
    }

    #[test]
    fn a_damaged_csr_never_panics_nor_asks_for_another_name() {
        let identity: Identity = WEB.parse().unwrap();
        let der = LeafKey::generate().unwrap().csr(&identity).unwrap();
        for at in 0..der.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut damaged = der.clone();
                damaged[at] ^= flip;
                // The parser lets a few bytes round the signed part differ; those inside are covered by the signature.
                if let Ok(asked) = Asked::parse_der(&damaged) {
                    let asks = asked.asks_for(WEB);
                    assert!(asked.prove().is_err() || asks == Ok(()), "byte {at}");
                }
            }
            assert!(Csr::parse_der(&der[..at]).is_err());
        }
    }
}
