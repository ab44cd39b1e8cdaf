//! Private keys that are kept under a passphrase: PKCS #8 as `openssl pkcs8 -topk8` writes it.
//!
//! In: PEM of a key, and a passphrase. Out: PEM of the same key, encrypted or not. Written is PBES2 with PBKDF2 (HMAC with SHA-256) and AES-256 in
//! CBC mode, which every OpenSSL of the last ten years reads; read is that with other lengths and digests too (RFC 8018). The computing is
//! aws-lc-rs', as everywhere; here is how it is put into DER, for which there is no need of a second implementation of it all.
//!
//! Start at [`encrypt`] and [`decrypt`].

use std::num::NonZeroU32;

use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, Algorithm as Cipher, DecryptionContext, PaddedBlockDecryptingKey,
    PaddedBlockEncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::pbkdf2::{self, PBKDF2_HMAC_SHA1, PBKDF2_HMAC_SHA256, PBKDF2_HMAC_SHA384, PBKDF2_HMAC_SHA512};
use x509_parser::asn1_rs::{Any, FromDer as _, OctetString, Sequence, Tag};
use x509_parser::x509::AlgorithmIdentifier;

/// What makes each guess of a passphrase expensive: OWASP's figure for this digest, some tenths of a second.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(600_000).expect("it is not zero");
/// A file that asks for more is broken: it would be computed for ever.
const ITERATIONS_MAX: u32 = 5_000_000;
const SALT_BYTES: usize = 16;
/// The largest key of the ciphers here.
const CIPHER_KEY_BYTES_MAX: usize = 32;

const PEM_LABEL: &str = "ENCRYPTED PRIVATE KEY";
const PEM_LABEL_PLAIN: &str = "PRIVATE KEY";
/// The header of OpenSSL's older format.
const OLD_FORMAT: &str = "Proc-Type: 4,ENCRYPTED";

/// Object identifiers, as DER has them.
const PBES2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 13];
const PBKDF2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 12];
const HMAC_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 2, 9];
const DIGESTS: [(&[u8], pbkdf2::Algorithm); 4] = [
    (HMAC_SHA1, PBKDF2_HMAC_SHA1),
    (HMAC_SHA256, PBKDF2_HMAC_SHA256),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 2, 10], PBKDF2_HMAC_SHA384),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 2, 11], PBKDF2_HMAC_SHA512),
];
/// The one that is meant where none is named.
const HMAC_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 2, 7];
const AES_256_CBC: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 1, 42];
const CIPHERS: [(&[u8], &Cipher, usize); 3] = [
    (&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 1, 2], &AES_128, 16),
    (&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 1, 22], &AES_192, 24),
    (AES_256_CBC, &AES_256, 32),
];

/// Why a key could not be decrypted, or encrypted.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidEncrypted {
    #[error("expected PEM of a private key in PKCS #8")]
    Malformed,
    #[error(
        "it is encrypted in a way that is not read here; `openssl pkcs8 -topk8 -v2 aes-256-cbc -in KEY -out NEW` makes a file that is"
    )]
    Unsupported,
    #[error("the passphrase is not that of the key, or the file is damaged")]
    Passphrase,
    #[error("cannot encrypt the key")]
    CannotEncrypt,
}

/// Whether the PEM of a key says that it is encrypted, in whatever way.
pub fn is_encrypted(key: &str) -> bool {
    key.contains(&format!("-----BEGIN {PEM_LABEL}-----")) || key.contains(OLD_FORMAT)
}

/// Encrypts a PKCS #8 key.
///
/// # Errors
/// Where it is none, or there is no randomness.
pub fn encrypt(key: &str, passphrase: &str) -> Result<String, InvalidEncrypted> {
    let cannot = |_| InvalidEncrypted::CannotEncrypt;
    let mut data = section(key, PEM_LABEL_PLAIN).ok_or(InvalidEncrypted::Malformed)?;
    let mut salt = [0; SALT_BYTES];
    aws_lc_rs::rand::fill(&mut salt).map_err(cannot)?;
    let derived = derive(PBKDF2_HMAC_SHA256, ITERATIONS, &salt, passphrase, CIPHER_KEY_BYTES_MAX);
    let cipher = UnboundCipherKey::new(&AES_256, &derived).map_err(cannot)?;
    let cipher = PaddedBlockEncryptingKey::cbc_pkcs7(cipher).map_err(cannot)?;
    let context = cipher.encrypt(&mut data).map_err(cannot)?;
    let iv: &[u8] = (&context).try_into().map_err(cannot)?;

    let digest = sequence(&[&der(Tag::Oid, HMAC_SHA256), &der(Tag::Null, &[])]);
    let derivation = sequence(&[&der(Tag::OctetString, &salt), &der(Tag::Integer, iterations()), &digest]);
    let derivation = sequence(&[&der(Tag::Oid, PBKDF2), &derivation]);
    let cipher = sequence(&[&der(Tag::Oid, AES_256_CBC), &der(Tag::OctetString, iv)]);
    let scheme = sequence(&[&der(Tag::Oid, PBES2), &sequence(&[&derivation, &cipher])]);
    let sealed = sequence(&[&scheme, &der(Tag::OctetString, &data)]);
    Ok(super::certificate::pem(PEM_LABEL, &sealed))
}

/// Decrypts a key that [`is_encrypted`].
///
/// # Errors
/// Where the passphrase is another, or the key is encrypted in another way.
pub fn decrypt(key: &str, passphrase: &str) -> Result<String, InvalidEncrypted> {
    if key.contains(OLD_FORMAT) {
        return Err(InvalidEncrypted::Unsupported);
    }
    let sealed = section(key, PEM_LABEL).ok_or(InvalidEncrypted::Malformed)?;
    let plain = open(&sealed, passphrase)?;
    Ok(super::certificate::pem(PEM_LABEL_PLAIN, &plain))
}

fn open(sealed: &[u8], passphrase: &str) -> Result<Vec<u8>, InvalidEncrypted> {
    use InvalidEncrypted as Why;
    let (_, sealed) = Sequence::from_der(sealed).map_err(|_| Why::Malformed)?;
    let (rest, scheme) = AlgorithmIdentifier::from_der(&sealed.content).map_err(|_| Why::Malformed)?;
    let (_, data) = OctetString::from_der(rest).map_err(|_| Why::Malformed)?;
    let parameters = of(&scheme, PBES2, Tag::Sequence)?;
    let (rest, derivation) = AlgorithmIdentifier::from_der(parameters).map_err(|_| Why::Malformed)?;
    let (_, encryption) = AlgorithmIdentifier::from_der(rest).map_err(|_| Why::Malformed)?;

    let (rest, salt) = OctetString::from_der(of(&derivation, PBKDF2, Tag::Sequence)?).map_err(|_| Why::Malformed)?;
    let (rest, iterations) = u32::from_der(rest).map_err(|_| Why::Malformed)?;
    let iterations = NonZeroU32::new(iterations).filter(|count| count.get() <= ITERATIONS_MAX).ok_or(Why::Malformed)?;
    // The key's length may stand between, and is the cipher's anyway.
    let rest = u32::from_der(rest).map_or(rest, |(rest, _)| rest);
    let digest = if rest.is_empty() {
        HMAC_SHA1.to_vec()
    } else {
        let (_, digest) = AlgorithmIdentifier::from_der(rest).map_err(|_| Why::Malformed)?;
        digest.algorithm.as_bytes().to_vec()
    };
    let (_, digest) = DIGESTS.into_iter().find(|(oid, _)| *oid == digest).ok_or(Why::Unsupported)?;
    let found = CIPHERS.into_iter().find(|(oid, ..)| *oid == encryption.algorithm.as_bytes());
    let (oid, cipher, key_bytes) = found.ok_or(Why::Unsupported)?;
    let iv = of(&encryption, oid, Tag::OctetString)?;
    let iv = DecryptionContext::Iv128(FixedLength::try_from(iv).map_err(|_| Why::Malformed)?);

    let derived = derive(digest, iterations, salt.as_ref(), passphrase, key_bytes);
    let cipher = UnboundCipherKey::new(cipher, &derived).and_then(PaddedBlockDecryptingKey::cbc_pkcs7);
    let mut data = data.as_ref().to_vec();
    let opened = cipher.and_then(|cipher| cipher.decrypt(&mut data, iv).map(|plain| plain.to_vec()));
    let plain = opened.map_err(|_| Why::Passphrase)?;
    // The padding fits by chance once in 256 times.
    let is_key = Sequence::from_der(&plain).is_ok_and(|(rest, _)| rest.is_empty());
    if is_key { Ok(plain) } else { Err(Why::Passphrase) }
}

/// As DER has the number: without zeros before it.
fn iterations() -> &'static [u8] {
    const BYTES: [u8; 4] = ITERATIONS.get().to_be_bytes();
    const { assert!(BYTES[0] == 0 && BYTES[1] > 0 && BYTES[1] < 0x80) };
    &BYTES[1..]
}

fn derive(
    digest: pbkdf2::Algorithm,
    iterations: NonZeroU32,
    salt: &[u8],
    passphrase: &str,
    key_bytes: usize,
) -> Vec<u8> {
    let mut key = vec![0; key_bytes];
    pbkdf2::derive(digest, iterations, salt, passphrase.as_bytes(), &mut key);
    key
}

/// The parameters of an algorithm that must be the one expected.
fn of<'a>(algorithm: &'a AlgorithmIdentifier<'_>, expected: &[u8], tag: Tag) -> Result<&'a [u8], InvalidEncrypted> {
    if algorithm.algorithm.as_bytes() != expected {
        return Err(InvalidEncrypted::Unsupported);
    }
    let parameters = algorithm.parameters.as_ref().filter(|parameters| parameters.tag() == tag);
    parameters.map(Any::as_bytes).ok_or(InvalidEncrypted::Malformed)
}

/// The bytes of the first section of a PEM with this label.
fn section(text: &str, label: &str) -> Option<Vec<u8>> {
    let sections = pem::parse_many(text).ok()?;
    sections.into_iter().find(|section| section.tag() == label).map(pem::Pem::into_contents)
}

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    const CONSTRUCTED: u8 = 0x20;
    let mut encoded = der(Tag::Sequence, &parts.concat());
    encoded[0] |= CONSTRUCTED;
    encoded
}

/// What is shorter than 64 KiB, as all is here.
fn der(tag: Tag, contents: &[u8]) -> Vec<u8> {
    let tag = u8::try_from(tag.0).expect("the tags used here are small");
    let length = u16::try_from(contents.len()).expect("keys are short").to_be_bytes();
    let head = match length {
        [0, short @ ..=0x7f] => vec![tag, short],
        [0, byte] => vec![tag, 0x81, byte],
        [high, low] => vec![tag, 0x82, high, low],
    };
    [head.as_slice(), contents].concat()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::pki::Anchor;

    fn key() -> String {
        Anchor::create("cluster.local", SystemTime::UNIX_EPOCH).unwrap().key_pem()
    }

    #[test]
    fn what_is_encrypted_is_decrypted_with_the_same_passphrase_and_no_other() {
        let key = key();
        let encrypted = encrypt(&key, "correct horse").unwrap();
        assert!(is_encrypted(&encrypted) && !is_encrypted(&key));
        assert_ne!(encrypt(&key, "correct horse").unwrap(), encrypted, "salt and IV are new each time");
        assert_eq!(
            section(&decrypt(&encrypted, "correct horse").unwrap(), "PRIVATE KEY"),
            section(&key, "PRIVATE KEY")
        );
        assert_eq!(decrypt(&encrypted, "correct hors"), Err(InvalidEncrypted::Passphrase));
    }

    /// Two keys as OpenSSL 3 encrypts them: `-v2 aes-128-cbc -v2prf hmacWithSHA512`, and `-v2 aes-256-cbc -v2prf hmacWithSHA1`, which DER leaves out.
    const OF_OPENSSL: [&str; 2] = [
        "-----BEGIN ENCRYPTED PRIVATE KEY-----
MIHsMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAjoCM/scKkIJQICCAAw
DAYIKoZIhvcNAgsFADAdBglghkgBZQMEAQIEENAfK3ChS+jv/rQYsEzVlqUEgZBd
0OP1sEKCU7MrEw3VZWHIKV/qYfTSinO/76bNdJrhk56JsQ85hQke9CrodQpvPSGa
QAgSuPMDniTY1XSaqMOOy0YM+3O8oVxoVDFnbJ296MPErsn2+a8tEp68mha0IN0n
tv3tyIeeo2ovhrwEgH8MFFvCMSrIWtWcXxO8FXelyOR+g2hsYG5rCbPj26uSuN4=
-----END ENCRYPTED PRIVATE KEY-----
",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----
MIHeMEkGCSqGSIb3DQEFDTA8MBsGCSqGSIb3DQEFDDAOBAjXFP5qQRWANAICCAAw
HQYJYIZIAWUDBAEqBBCxwi/LUo9Ir+Q5HgkEfA8rBIGQ7dUSnsxSrVFFeOcDRmv1
VSviFkZNl4Osk+XVudB4QAuXvGraMIcSgc5/PXsLFBDwoG5SIqYZsC6oEab9OuE7
2cPqUiQN/UZiQPxSzJ98yXUauBT23a+bPMZ0SVo7lYEE/MdsM0rr/E/sGhEGW717
YuQFQqtTKhuDOeENtYaNEbS+7LFURC3f7DWvBbaPAW8M
-----END ENCRYPTED PRIVATE KEY-----
",
    ];

    #[test]
    fn keys_that_openssl_encrypted_are_read() {
        for encrypted in OF_OPENSSL {
            let key = decrypt(encrypted, "hunter2").unwrap();
            assert!(rcgen::KeyPair::from_pem(&key).is_ok());
            assert_eq!(decrypt(encrypted, "hunter3"), Err(InvalidEncrypted::Passphrase));
        }
    }

    #[test]
    fn what_is_cut_off_or_asks_for_endless_work_is_refused() {
        let encrypted = section(&encrypt(&key(), "p").unwrap(), PEM_LABEL).unwrap();
        for length in [0, 1, 10, 40, 80, 120, encrypted.len() - 1] {
            assert_eq!(open(&encrypted[..length], "p"), Err(InvalidEncrypted::Malformed), "{length}");
        }
        let at = encrypted.windows(3).position(|bytes| bytes == iterations()).unwrap();
        let wrong = [(0, InvalidEncrypted::Malformed), (ITERATIONS_MAX + 1, InvalidEncrypted::Malformed)];
        for (count, wanted) in wrong.into_iter().chain([(0x1_0000, InvalidEncrypted::Passphrase)]) {
            let mut other = encrypted.clone();
            other[at..at + 3].copy_from_slice(&count.to_be_bytes()[1..]);
            assert_eq!(open(&other, "p"), Err(wanted), "{count}");
        }
    }

    #[test]
    fn other_ways_to_encrypt_are_named_as_such_with_what_to_do() {
        let old = "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END EC PRIVATE KEY-----\n";
        assert!(is_encrypted(old));
        assert_eq!(decrypt(old, "p"), Err(InvalidEncrypted::Unsupported));
        let mut scrypt = section(&encrypt(&key(), "p").unwrap(), PEM_LABEL).unwrap();
        let at = scrypt.windows(PBKDF2.len()).position(|bytes| bytes == PBKDF2).unwrap();
        scrypt[at + PBKDF2.len() - 1] = 99;
        assert_eq!(open(&scrypt, "p"), Err(InvalidEncrypted::Unsupported));
        assert!(InvalidEncrypted::Unsupported.to_string().contains("openssl pkcs8 -topk8"));
        assert_eq!(decrypt("no key", "p"), Err(InvalidEncrypted::Malformed));
    }
}
