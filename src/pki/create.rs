//! Makes an anchor and an issuer for whoever keeps them outside the cluster.
//!
//! In: a trust domain, a kind of key, and how long. Out: PEM. Start at [`create`].

use std::str::FromStr;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384};

use super::issuer::{CannotSign, authority};
use super::leaf_key::NoKey;

/// The kinds of keys that every peer accepts of an authority, and that are made here.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum KeyKind {
    #[default]
    P256,
    P384,
}

impl FromStr for KeyKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "p256" => Ok(Self::P256),
            "p384" => Ok(Self::P384),
            _ => Err("expected p256 or p384".into()),
        }
    }
}

/// What is to be made.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    pub trust_domain: &'a str,
    pub key: KeyKind,
    pub anchor: Duration,
    /// The issuer ends with the anchor at the latest.
    pub issuer: Duration,
}

/// An anchor and an issuer under it, as PEM.
pub struct Created {
    pub anchor: String,
    pub anchor_key: String,
    pub anchor_not_after: SystemTime,
    pub issuer: String,
    pub issuer_key: String,
    pub issuer_not_after: SystemTime,
}

/// Makes both, valid from an hour before `now`.
///
/// # Errors
/// Where there is no randomness, or an end is beyond what a certificate can say.
pub fn create(wish: Wish<'_>, now: SystemTime) -> Result<Created, CannotSign> {
    let key = || {
        let kind = match wish.key {
            KeyKind::P256 => &PKCS_ECDSA_P256_SHA256,
            KeyKind::P384 => &PKCS_ECDSA_P384_SHA384,
        };
        KeyPair::generate_for(kind).map_err(NoKey)
    };
    let end = |life: Duration| now.checked_add(life).filter(|end| *end <= latest()).ok_or(CannotSign::Instant);
    let (anchor_key, issuer_key) = (key()?, key()?);
    let anchor_not_after = end(wish.anchor)?;
    let issuer_not_after = end(wish.issuer)?.min(anchor_not_after);
    let name = format!("root.{}", wish.trust_domain);
    let anchor = authority(&name, now, anchor_not_after, BasicConstraints::Unconstrained)?;
    let certificate = anchor.self_signed(&anchor_key).map_err(CannotSign::Sign)?.pem();
    let anchor_key_pem = anchor_key.serialize_pem();
    let name = format!("identity.{}", wish.trust_domain);
    // Path length 0: what an issuer signs can never sign.
    let mut issuer = authority(&name, now, issuer_not_after, BasicConstraints::Constrained(0))?;
    issuer.use_authority_key_identifier_extension = true;
    let signer = rcgen::Issuer::new(anchor, anchor_key);
    let issued = issuer.signed_by(&issuer_key, &signer).map_err(CannotSign::Sign)?.pem();
    Ok(Created {
        anchor: certificate,
        anchor_key: anchor_key_pem,
        anchor_not_after,
        issuer: issued,
        issuer_key: issuer_key.serialize_pem(),
        issuer_not_after,
    })
}

/// The last day of the year 9999: a certificate's dates have four digits for the year.
fn latest() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_214_400)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Anchor, Bundle, Issuer};

    const DAY: Duration = Duration::from_secs(86_400);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + 20_000 * DAY
    }

    fn wish(key: KeyKind) -> Wish<'static> {
        Wish { trust_domain: "cluster.local", key, anchor: 3652 * DAY, issuer: 90 * DAY }
    }

    #[test]
    fn what_is_made_can_be_read_and_signs_with_either_kind_of_key() {
        for key in [KeyKind::P256, KeyKind::P384] {
            let created = create(wish(key), now()).unwrap();
            let anchor = Anchor::parse_pem(&created.anchor, &created.anchor_key).unwrap();
            let issuer = Issuer::parse_pem(&created.issuer, &created.issuer_key).unwrap();
            let bundle = Bundle::parse_pem(&created.anchor).unwrap();
            assert_eq!(issuer.validate(&bundle, now()), Ok(()), "{key:?}");
            assert!(anchor.signed(&issuer));
            assert_eq!(anchor.certificate().not_after(), created.anchor_not_after);
            assert_eq!(issuer.not_after(), now() + 90 * DAY);
        }
    }

    #[test]
    fn an_issuer_ends_with_its_anchor_and_dates_have_an_end() {
        let created = create(Wish { anchor: 30 * DAY, ..wish(KeyKind::P256) }, now()).unwrap();
        assert_eq!(created.issuer_not_after, created.anchor_not_after);
        let endless = create(Wish { anchor: 4_000_000 * DAY, ..wish(KeyKind::P256) }, now());
        assert_eq!(endless.err(), Some(CannotSign::Instant));
    }

    #[test]
    fn refuses_kinds_of_keys_it_does_not_make() {
        assert_eq!("p384".parse(), Ok(KeyKind::P384));
        assert!("rsa".parse::<KeyKind>().is_err());
    }
}
