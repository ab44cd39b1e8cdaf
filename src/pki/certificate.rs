//! One certificate, read: what the mesh and its people ask of it.
//!
//! In: DER from a peer, a Secret or ourselves. Out: a [`Certificate`] that owns its bytes. Reading judges nothing:
//! whether to believe it is [`super::Bundle::verify`]'s to say.

use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::mesh::Identity;

/// Certificates of meshes are around 600 bytes; corporate roots with many extensions stay below 4 KiB.
const DER_BYTES_MAX: usize = 16 << 10;

/// A certificate and what is in it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Certificate {
    der: CertificateDer<'static>,
    identities: Vec<Identity>,
    serial: String,
    not_before: SystemTime,
    not_after: SystemTime,
    subject: String,
    issuer: String,
    is_ca: bool,
    public_key: Vec<u8>,
}

/// Why bytes are no certificate.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidCertificate {
    #[error("cannot parse the certificate")]
    Malformed,
    #[error("the certificate has {0} bytes, more than the {DER_BYTES_MAX} that are read")]
    TooLarge(usize),
}

impl Certificate {
    /// Reads a certificate; nothing may follow it.
    ///
    /// # Errors
    /// Where the bytes are not one X.509 certificate, or too many.
    pub fn from_der(der: impl Into<CertificateDer<'static>>) -> Result<Self, InvalidCertificate> {
        let der = der.into();
        if der.len() > DER_BYTES_MAX {
            return Err(InvalidCertificate::TooLarge(der.len()));
        }
        let (rest, parsed) = X509Certificate::from_der(&der).map_err(|_| InvalidCertificate::Malformed)?;
        if !rest.is_empty() {
            return Err(InvalidCertificate::Malformed);
        }
        let names = parsed.subject_alternative_name().map_err(|_| InvalidCertificate::Malformed)?;
        let identities = names.iter().flat_map(|names| &names.value.general_names).filter_map(identity).collect();
        let serial = parsed.raw_serial();
        let certificate = Self {
            identities,
            // DER puts a zero byte before a high bit; it is no part of the number.
            serial: hex(serial.strip_prefix(&[0]).filter(|number| !number.is_empty()).unwrap_or(serial)),
            not_before: instant(parsed.validity().not_before.timestamp()).ok_or(InvalidCertificate::Malformed)?,
            not_after: instant(parsed.validity().not_after.timestamp()).ok_or(InvalidCertificate::Malformed)?,
            subject: parsed.subject().to_string(),
            issuer: parsed.issuer().to_string(),
            is_ca: parsed.is_ca(),
            public_key: parsed.public_key().raw.to_vec(),
            der: CertificateDer::from(Vec::new()),
        };
        Ok(Self { der, ..certificate })
    }

    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    pub fn to_pem(&self) -> String {
        pem(CERTIFICATE_LABEL, &self.der)
    }

    /// Every DNS name of the certificate that can be an identity, in its order. The common name is never looked at.
    pub fn identities(&self) -> &[Identity] {
        &self.identities
    }

    /// Who a client with this certificate is: its first name. A server may be asked for any of its names.
    pub fn identity(&self) -> Option<&Identity> {
        self.identities.first()
    }

    /// The serial number in lower-case hex, two digits a byte.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The subject's distinguished name, such as `CN=web.shop.…`.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The distinguished name of whoever signed it.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    pub fn is_ca(&self) -> bool {
        self.is_ca
    }

    /// SHA-256 of the DER, in lower-case hex.
    pub fn fingerprint(&self) -> String {
        sha256_hex(&self.der)
    }

    /// The public key, as the certificate encodes it (SubjectPublicKeyInfo).
    pub(super) fn public_key(&self) -> &[u8] {
        &self.public_key
    }
}

pub(super) const CERTIFICATE_LABEL: &str = "CERTIFICATE";

pub(super) fn pem(label: &str, der: &[u8]) -> String {
    let lines = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new(label, der), lines)
}

pub(super) fn sha256_hex(bytes: &[u8]) -> String {
    hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref())
}

pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    bytes.iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 0xf)]]).collect()
}

fn identity(name: &GeneralName<'_>) -> Option<Identity> {
    match name {
        GeneralName::DNSName(name) => name.parse().ok(),
        _ => None,
    }
}

/// An instant from seconds since 1970; none where this platform cannot say it.
fn instant(seconds: i64) -> Option<SystemTime> {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(distance)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(distance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_bytes_that_are_no_certificate() {
        assert_eq!(Certificate::from_der(Vec::new()), Err(InvalidCertificate::Malformed));
        assert_eq!(Certificate::from_der(vec![0x30, 0x80, 0, 0]), Err(InvalidCertificate::Malformed));
        let oversized = vec![0; DER_BYTES_MAX + 1];
        assert_eq!(Certificate::from_der(oversized), Err(InvalidCertificate::TooLarge(DER_BYTES_MAX + 1)));
    }

    #[test]
    fn refuses_bytes_after_the_certificate() {
        let anchor = super::super::Anchor::create("cluster.local", SystemTime::UNIX_EPOCH).unwrap();
        let mut der = anchor.certificate().der().to_vec();
        der.push(0);
        assert_eq!(Certificate::from_der(der), Err(InvalidCertificate::Malformed));
    }
}
