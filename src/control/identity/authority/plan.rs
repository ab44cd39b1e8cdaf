//! Decides what is to be done next for anchor, bundle and issuer to be complete.
//!
//! In: what is stored, and the time. Out: one step, or [`Signing`]. No I/O: replicas come to the same end because each step is taken
//! against the version that was read, and decided anew after every step.
//!
//! Start at [`next`].

use std::time::SystemTime;

use super::Signing;
use crate::manifest::names::{ANCHOR_SECRET, BUNDLE_CONFIG_MAP, BUNDLE_KEY, ISSUER_SECRET};
use crate::pki::{Anchor, Bundle, CannotSign, InvalidBundle, InvalidIssuer, Issuer};

/// A certificate (or chain) and its key, as PEM.
#[derive(Clone, Eq, PartialEq)]
pub struct KeyPem {
    pub certificate: String,
    pub key: String,
}

impl std::fmt::Debug for KeyPem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyPem").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// What the cluster's objects hold.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    pub anchor: Option<KeyPem>,
    pub issuer: Option<KeyPem>,
    pub bundle: Option<String>,
}

/// One step.
#[derive(Debug)]
pub enum Next {
    WriteAnchor(KeyPem),
    WriteBundle(String),
    WriteIssuer(KeyPem),
    Ready(Box<Signing>),
}

/// What cannot be mended without a person, and what that person can do.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    #[error("secret {ANCHOR_SECRET} holds no usable anchor")]
    Anchor(#[source] InvalidIssuer),
    #[error("config map {BUNDLE_CONFIG_MAP} holds no usable bundle in {BUNDLE_KEY}")]
    Bundle(#[source] InvalidBundle),
    #[error("secret {ISSUER_SECRET} holds no usable issuer")]
    Issuer(#[source] InvalidIssuer),
    #[error(
        "secret {ISSUER_SECRET} holds an issuer, but config map {BUNDLE_CONFIG_MAP} nothing to check it with; put its anchor's certificate under {BUNDLE_KEY}"
    )]
    IssuerWithoutBundle,
    #[error(
        "config map {BUNDLE_CONFIG_MAP} names anchors that the mesh believes, but their key in secret {ANCHOR_SECRET} is gone and secret {ISSUER_SECRET} is empty; restore the key, put an issuer signed by it in place, or empty the config map to start over with a new anchor"
    )]
    AnchorGone,
    #[error("cannot make a certificate")]
    CannotSign(#[from] CannotSign),
}

/// What is to be done at `now`, with what is `stored`.
///
/// # Errors
/// Where what is stored is broken, or belongs to others and does not fit together.
pub fn next(stored: &Stored, trust_domain: &str, now: SystemTime) -> Result<Next, Trouble> {
    let anchor = stored.anchor.as_ref().map(|pem| Anchor::parse_pem(&pem.certificate, &pem.key)).transpose();
    let anchor = anchor.map_err(Trouble::Anchor)?;
    let bundle = stored.bundle.as_deref().filter(|text| !text.trim().is_empty()).map(Bundle::parse_pem).transpose();
    let bundle = bundle.map_err(Trouble::Bundle)?;
    let issuer = stored.issuer.as_ref().map(|pem| Issuer::parse_pem(&pem.certificate, &pem.key)).transpose();
    let issuer = issuer.map_err(Trouble::Issuer)?;

    let bundle = match (&anchor, bundle) {
        (None, None) if issuer.is_some() => return Err(Trouble::IssuerWithoutBundle),
        (None, None) => {
            let new = Anchor::create(trust_domain, now)?;
            return Ok(Next::WriteAnchor(KeyPem { certificate: new.certificate().to_pem(), key: new.key_pem() }));
        }
        // The bundle before the issuer: who gets a leaf of an issuer must be able to believe it.
        (Some(anchor), None) => return Ok(Next::WriteBundle(anchor.certificate().to_pem())),
        (Some(anchor), Some(bundle)) if !bundle.anchors().contains(anchor.certificate()) => {
            return Ok(Next::WriteBundle(bundle.to_pem() + &anchor.certificate().to_pem()));
        }
        (_, Some(bundle)) => bundle,
    };
    let issuer = match (anchor, issuer) {
        (None, None) => return Err(Trouble::AnchorGone),
        (Some(anchor), None) => return successor(&anchor, trust_domain, now),
        (Some(anchor), Some(issuer)) if is_ours(&issuer, &anchor) && issuer.needs_renewal(now) => {
            return successor(&anchor, trust_domain, now);
        }
        (_, Some(issuer)) => issuer,
    };
    issuer.validate(&bundle, now).map_err(Trouble::Issuer)?;
    Ok(Next::Ready(Box::new(Signing { issuer, bundle })))
}

fn successor(anchor: &Anchor, trust_domain: &str, now: SystemTime) -> Result<Next, Trouble> {
    let new = anchor.create_issuer(trust_domain, now)?;
    Ok(Next::WriteIssuer(KeyPem { certificate: new.chain_pem(), key: new.key_pem() }))
}

fn is_ours(issuer: &Issuer, anchor: &Anchor) -> bool {
    issuer.certificate().issuer() == anchor.certificate().subject()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const TRUST_DOMAIN: &str = "cluster.local";
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600)
    }

    impl Stored {
        fn write(&mut self, step: Next) {
            match step {
                Next::WriteAnchor(new) => self.anchor = Some(new),
                Next::WriteBundle(new) => self.bundle = Some(new),
                Next::WriteIssuer(new) => self.issuer = Some(new),
                Next::Ready(_) => {}
            }
        }

        /// Takes steps until there are none, and counts them.
        fn settle(&mut self, now: SystemTime) -> (Box<Signing>, usize) {
            for steps in 0.. {
                match next(self, TRUST_DOMAIN, now).unwrap() {
                    Next::Ready(signing) => return (signing, steps),
                    step => self.write(step),
                }
            }
            unreachable!()
        }
    }

    fn of(issuer: &Issuer) -> KeyPem {
        KeyPem { certificate: issuer.chain_pem(), key: issuer.key_pem() }
    }

    #[test]
    fn fills_empty_objects_in_three_steps_and_then_rests() {
        let mut stored = Stored::default();
        let (signing, steps) = stored.settle(now());
        assert_eq!(steps, 3);
        assert_eq!(signing.bundle.anchors().len(), 1);
        let (again, steps) = stored.settle(now());
        assert_eq!(steps, 0);
        assert!(again.is(&signing));
    }

    #[test]
    fn replicas_that_start_together_agree() {
        // Both read, both decide, one writes first; the other's write is refused, so it reads and decides again.
        let mut stored = Stored::default();
        for _ in 0..3 {
            let seen = stored.clone();
            let (first, second) =
                (next(&seen, TRUST_DOMAIN, now()).unwrap(), next(&seen, TRUST_DOMAIN, now()).unwrap());
            stored.write(first);
            drop(second);
        }
        let (one, _) = stored.clone().settle(now());
        let (other, _) = stored.settle(now());
        assert!(one.is(&other));
    }

    #[test]
    fn renews_its_own_issuer_under_the_same_anchor() {
        let mut stored = Stored::default();
        let (first, _) = stored.settle(now());
        let (same, steps) = stored.settle(now() + 50 * DAY);
        assert!(same.is(&first) && steps == 0);
        let (second, steps) = stored.settle(now() + 61 * DAY);
        assert_eq!(steps, 1);
        assert_ne!(second.issuer.certificate(), first.issuer.certificate());
        assert_eq!(second.bundle, first.bundle);
        let (third, _) = stored.settle(now() + 400 * DAY);
        assert_eq!(third.bundle, first.bundle, "an issuer that had ended is renewed too");
    }

    #[test]
    fn uses_an_issuer_that_was_brought_and_never_replaces_it() {
        let anchor = Anchor::create(TRUST_DOMAIN, now()).unwrap();
        let issuer = anchor.create_issuer(TRUST_DOMAIN, now()).unwrap();
        let mut stored =
            Stored { anchor: None, issuer: Some(of(&issuer)), bundle: Some(anchor.certificate().to_pem()) };
        let (signing, steps) = stored.settle(now() + 80 * DAY);
        assert_eq!(steps, 0);
        assert_eq!(signing.issuer.certificate(), issuer.certificate());
        let ended = next(&stored, TRUST_DOMAIN, now() + 91 * DAY);
        assert!(matches!(ended, Err(Trouble::Issuer(InvalidIssuer::NotTrusted(_)))), "{ended:?}");
    }

    #[test]
    fn refuses_an_issuer_that_the_bundle_does_not_vouch_for() {
        let mut stored = Stored::default();
        stored.settle(now());
        let stranger = Anchor::create("elsewhere", now()).unwrap().create_issuer("elsewhere", now()).unwrap();
        stored.issuer = Some(of(&stranger));
        let refused = next(&stored, TRUST_DOMAIN, now());
        assert!(matches!(refused, Err(Trouble::Issuer(InvalidIssuer::NotTrusted(_)))), "{refused:?}");
    }

    #[test]
    fn adds_its_anchor_to_a_bundle_of_others() {
        let others = Anchor::create("elsewhere", now()).unwrap().certificate().to_pem();
        let mut stored = Stored::default();
        stored.settle(now());
        stored.bundle = Some(others);
        let (signing, _) = stored.settle(now());
        assert_eq!(signing.bundle.anchors().len(), 2);
    }

    #[test]
    fn never_makes_a_new_anchor_where_one_is_believed() {
        let mut stored = Stored::default();
        stored.settle(now());
        (stored.anchor, stored.issuer) = (None, None);
        assert!(matches!(next(&stored, TRUST_DOMAIN, now()), Err(Trouble::AnchorGone)));
    }

    #[test]
    fn says_which_object_is_broken() {
        let mut good = Stored::default();
        good.settle(now());
        let broken = || Some(KeyPem { certificate: "broken".into(), key: String::new() });
        let stored = Stored { anchor: broken(), ..good.clone() };
        assert!(matches!(next(&stored, TRUST_DOMAIN, now()), Err(Trouble::Anchor(_))));
        let stored = Stored { issuer: broken(), ..good.clone() };
        assert!(matches!(next(&stored, TRUST_DOMAIN, now()), Err(Trouble::Issuer(_))));
        let stored = Stored { bundle: Some("broken".into()), ..good.clone() };
        assert!(matches!(next(&stored, TRUST_DOMAIN, now()), Err(Trouble::Bundle(_))));
        let stored = Stored { anchor: None, bundle: None, ..good };
        assert!(matches!(next(&stored, TRUST_DOMAIN, now()), Err(Trouble::IssuerWithoutBundle)));
    }
}
