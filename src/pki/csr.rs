//! What a CSR asks for, and whether that is what its sender may have.
//!
//! In: DER from the network. Out: a [`Csr`], whose sender has proved that it holds the key (the CSR is signed by it).
//! [`Csr::asks_for`] then refuses every name but one. What else a CSR may wish for (usages, constraints) is never
//! copied into a leaf, so it is not looked at.

use rcgen::{PKCS_ECDSA_P256_SHA256, SignatureAlgorithm};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::SubjectPublicKeyInfo;

/// A CSR with one name is under 600 bytes, and with a large RSA key under 2 KiB.
const DER_BYTES_MAX: usize = 8 << 10;

/// A CSR that parses and is signed by its own key.
#[derive(Clone, Debug)]
pub struct Csr {
    common_names: Vec<String>,
    dns_names: Vec<String>,
    other_names: Vec<&'static str>,
    /// The P-256 point; none where the key is of another kind.
    key: Option<Key>,
}

/// Why bytes are no CSR.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidCsr {
    #[error("the CSR is empty")]
    Empty,
    #[error("the CSR is not DER of PKCS #10")]
    Malformed,
    #[error("the CSR is not signed by the key that it is for")]
    Signature,
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

impl Csr {
    /// Reads a CSR, and checks that it is signed by the key that it asks for.
    ///
    /// # Errors
    /// Where it is not one CSR in DER, too large, or signed by another key.
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
        parsed.verify_signature().map_err(|_| InvalidCsr::Signature)?;
        let asked = &parsed.certification_request_info;
        let mut csr = Self {
            common_names: Vec::new(),
            dns_names: Vec::new(),
            other_names: Vec::new(),
            key: Key::of(&asked.subject_pki),
        };
        for name in asked.subject.iter_common_name() {
            csr.common_names.push(name.as_str().map_err(|_| InvalidCsr::Malformed)?.to_owned());
        }
        // Every attribute and every extension is read: a second list of names must not slip by behind the first.
        for attribute in asked.iter_attributes() {
            let ParsedCriAttribute::ExtensionRequest(requested) = attribute.parsed_attribute() else { continue };
            for extension in &requested.extensions {
                match extension.parsed_extension() {
                    ParsedExtension::SubjectAlternativeName(names) => {
                        names.general_names.iter().for_each(|name| csr.note(name));
                    }
                    ParsedExtension::ParseError { .. } => return Err(InvalidCsr::Malformed),
                    _ => {}
                }
            }
        }
        Ok(csr)
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

    /// The key to certify; none where it is not ECDSA P-256, which peers do not accept.
    pub(super) fn key(&self) -> Option<&Key> {
        self.key.as_ref()
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

/// A public ECDSA P-256 key, as rcgen takes it.
#[derive(Clone, Debug)]
pub(super) struct Key(Vec<u8>);

impl Key {
    fn of(info: &SubjectPublicKeyInfo<'_>) -> Option<Self> {
        let curve = info.algorithm.parameters.as_ref()?.as_oid().ok()?;
        let is_p256 = info.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == OID_EC_P256;
        is_p256.then(|| Self(info.subject_public_key.data.to_vec()))
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
    use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256, SanType, SigningKey};

    use super::*;
    use crate::mesh::Identity;
    use crate::pki::LeafKey;
    use crate::pki::leaf_key::common_name;

    const WEB: &str = "web.shop.serviceaccount.identity.hawser.cluster.local";
    const THIEF: &str = "thief.shop.serviceaccount.identity.hawser.cluster.local";

    fn csr(key: &impl SigningKey, subject: &str, names: Vec<SanType>) -> Csr {
        let mut asked = CertificateParams::default();
        asked.distinguished_name = common_name(subject);
        asked.subject_alt_names = names;
        Csr::parse_der(asked.serialize_request(key).unwrap().der()).unwrap()
    }

    fn names(names: &[&str]) -> Vec<SanType> {
        names.iter().map(|&name| SanType::DnsName(name.try_into().unwrap())).collect()
    }

    #[test]
    fn accepts_the_csr_of_a_leaf_key() {
        let identity: Identity = WEB.parse().unwrap();
        let csr = Csr::parse_der(&LeafKey::generate().unwrap().csr(&identity).unwrap()).unwrap();
        assert_eq!(csr.asks_for(WEB), Ok(()));
        assert!(csr.key().is_some());
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
    fn parses_a_csr_of_an_rsa_key_but_gives_no_key_to_certify() {
        let key = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
        let csr = csr(&key, WEB, names(&[WEB]));
        assert_eq!(csr.asks_for(WEB), Ok(()));
        assert!(csr.key().is_none());
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
                if let Ok(csr) = Csr::parse_der(&damaged) {
                    assert_eq!(csr.asks_for(WEB), Ok(()), "byte {at}");
                }
            }
            assert!(Csr::parse_der(&der[..at]).is_err());
        }
    }
}
