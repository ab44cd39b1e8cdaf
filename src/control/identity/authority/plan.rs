//! Decides what is to be done next for anchor, bundle and issuer to be complete.
//!
//! In: what is stored, and the time. Out: one step, or [`Signing`]. No I/O: replicas come to the same end because each step is taken
//! against the version that was read, and decided anew after every step.
//!
//! Start at [`next`]. How an anchor is replaced is in rotation.rs.

mod rotation;

use std::time::SystemTime;

use super::Signing;
use crate::manifest::names::{ANCHOR_SECRET, BUNDLE_CONFIG_MAP, BUNDLE_KEY, ISSUER_SECRET};
use crate::pki::{
    Anchor, Bundle, CannotSign, EXPIRE_MARGIN, InvalidBundle, InvalidIssuer, Issuer, Keeper, Lifetimes, Phase, Rotation,
};

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

/// What the cluster's objects hold, and what proxies say of it.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    pub anchor: Option<KeyPem>,
    /// The other anchor, during a rotation.
    pub successor: Option<KeyPem>,
    pub issuer: Option<KeyPem>,
    /// Who keeps the issuer, where it is not the mesh's own.
    pub keeper: Keeper,
    pub bundle: Option<String>,
    pub rotation: Option<Rotation>,
    pub request: Option<String>,
    /// Who does not do yet what the phase of the rotation waits for, and why. None: nobody has been asked.
    pub behind: Option<Vec<String>>,
}

/// What the plan depends on besides.
#[derive(Clone, Debug)]
pub struct Settings {
    pub trust_domain: String,
    pub lifetimes: Lifetimes,
}

impl Settings {
    /// Whether no leaf under the old anchor can be alive, of those that lived as long as leaves do now.
    pub fn is_over(&self, rotation: &Rotation, now: SystemTime) -> bool {
        now.duration_since(rotation.since()).unwrap_or_default() >= self.lifetimes.leaf_life() + EXPIRE_MARGIN
    }
}

/// One step.
#[derive(Debug)]
pub enum Next {
    WriteAnchors {
        anchor: KeyPem,
        successor: Option<KeyPem>,
    },
    WriteState(State),
    /// Because of a request, if `is_asked`, which is then done with.
    WriteIssuer {
        issuer: KeyPem,
        is_asked: bool,
    },
    Ready(Box<Signing>),
}

/// What the config map is to say.
#[derive(Debug)]
pub struct State {
    pub bundle: String,
    pub rotation: Option<Rotation>,
    /// Whether a request was done, or refused, with it.
    pub clears_request: bool,
    /// What people should know: whether it is a warning, a reason in one word, and why.
    pub note: Option<(bool, &'static str, String)>,
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
    #[error(
        "the trust anchor {subject} has ended, and so has what it signed; `hawser trust recover` brings the mesh back, under a new one"
    )]
    AnchorEnded { subject: String },
    #[error("cannot make a certificate")]
    CannotSign(#[from] CannotSign),
}

/// What is to be done at `now`, with what is `stored`.
///
/// # Errors
/// Where what is stored is broken, or belongs to others and does not fit together.
pub fn next(stored: &Stored, settings: &Settings, now: SystemTime) -> Result<Next, Trouble> {
    let parse = |pem: &KeyPem| Anchor::parse_pem(&pem.certificate, &pem.key);
    let anchor = stored.anchor.as_ref().map(parse).transpose().map_err(Trouble::Anchor)?;
    let successor = stored.successor.as_ref().map(parse).transpose().map_err(Trouble::Anchor)?;
    let bundle = stored.bundle.as_deref().filter(|text| !text.trim().is_empty()).map(Bundle::parse_pem).transpose();
    let bundle = bundle.map_err(Trouble::Bundle)?;
    let issuer = stored.issuer.as_ref().map(|pem| Issuer::parse_pem(&pem.certificate, &pem.key)).transpose();
    let issuer = issuer.map_err(Trouble::Issuer)?;
    let publish = |bundle: String| {
        let rotation = stored.rotation.clone();
        Ok(Next::WriteState(State { bundle, rotation, clears_request: false, note: None }))
    };

    let bundle = match (&anchor, bundle) {
        (None, None) if issuer.is_some() => return Err(Trouble::IssuerWithoutBundle),
        (None, None) => {
            let new = new_anchor(settings, now)?;
            return Ok(Next::WriteAnchors { anchor: pem(&new), successor: None });
        }
        // The bundle before the issuer: who gets a leaf of an issuer must be able to believe it.
        (Some(anchor), None) => return publish(anchor.certificate().to_pem()),
        (Some(anchor), Some(bundle)) if !bundle.anchors().contains(anchor.certificate()) => {
            return publish(bundle.to_pem() + &anchor.certificate().to_pem());
        }
        (_, Some(bundle)) => bundle,
    };
    let Some(anchor) = anchor else {
        let issuer = issuer.ok_or(Trouble::AnchorGone)?;
        if stored.request.is_some() {
            return Ok(refuse(
                stored,
                &bundle,
                "the key of the anchor is not in the cluster: rotate it where it is kept",
            ));
        }
        return ready(issuer, bundle, Some(stored.keeper.clone()), now);
    };
    // Whoever brought an issuer renews it, and its anchor.
    let anchors: Vec<&Anchor> = std::iter::once(&anchor).chain(&successor).collect();
    let brought = issuer.as_ref().filter(|issuer| !anchors.iter().any(|anchor| anchor.signed(issuer)));
    let keeper = brought.map(|_| stored.keeper.clone());
    if let Some(issuer) = brought {
        if stored.request.is_some() {
            return Ok(refuse(stored, &bundle, "the issuer was brought, and is not the mesh's own to replace"));
        }
        issuer.validate(&bundle, now).map_err(Trouble::Issuer)?;
    } else {
        let rotating = rotation::rotate(stored, settings, &anchor, successor.as_ref(), issuer.as_ref(), &bundle, now)?;
        if let Some(step) = rotating {
            return Ok(step);
        }
        let rotation = stored.rotation.as_ref();
        let signing_anchor = signing_anchor(rotation, &anchors).unwrap_or(&anchor);
        let recovers = rotation.is_some_and(|rotation| rotation.recovers);
        let (end, held_until) =
            (issuer_end(signing_anchor, recovers, settings, now), issuer.as_ref().map(Issuer::not_after));
        if end <= now && held_until.is_none_or(|held_until| held_until <= now) {
            return Err(Trouble::AnchorEnded { subject: signing_anchor.certificate().subject().into() });
        }
        // One that would not live longer, for the anchor's end is near, is not worth making: there would be one after the other.
        let is_due = |held_until| held_until < now + settings.lifetimes.issuer_renew_before && end > held_until;
        if held_until.is_none_or(is_due) {
            let issuer = new_issuer(signing_anchor, recovers, settings, now)?;
            return Ok(Next::WriteIssuer { issuer, is_asked: false });
        }
    }
    ready(issuer.ok_or(Trouble::AnchorGone)?, bundle, keeper, now)
}

fn ready(issuer: Issuer, bundle: Bundle, keeper: Option<Keeper>, now: SystemTime) -> Result<Next, Trouble> {
    issuer.validate(&bundle, now).map_err(Trouble::Issuer)?;
    Ok(Next::Ready(Box::new(Signing { issuer, bundle, keeper })))
}

/// The anchor whose issuer signs: the new one, once every proxy believes it.
fn signing_anchor<'a>(rotation: Option<&Rotation>, anchors: &[&'a Anchor]) -> Option<&'a Anchor> {
    let rotation = rotation?;
    let wanted = if rotation.phase == Phase::Publish { &rotation.old } else { &rotation.new };
    anchors.iter().copied().find(|anchor| anchor.certificate().fingerprint() == *wanted)
}

fn refuse(stored: &Stored, bundle: &Bundle, why: &str) -> Next {
    let asked = stored.request.as_deref().unwrap_or_default();
    let note = Some((true, "TrustRequestRefused", format!("{asked}: {why}")));
    Next::WriteState(State { bundle: bundle.to_pem(), rotation: stored.rotation.clone(), clears_request: true, note })
}

fn pem(anchor: &Anchor) -> KeyPem {
    KeyPem { certificate: anchor.certificate().to_pem(), key: anchor.key_pem() }
}

fn new_anchor(settings: &Settings, now: SystemTime) -> Result<Anchor, Trouble> {
    Ok(Anchor::create_until(&settings.trust_domain, now, now + settings.lifetimes.anchor)?)
}

fn new_issuer(anchor: &Anchor, recovers: bool, settings: &Settings, now: SystemTime) -> Result<KeyPem, Trouble> {
    let end = issuer_end(anchor, recovers, settings, now);
    let new = anchor.create_issuer_until(&settings.trust_domain, now, end)?;
    Ok(KeyPem { certificate: new.chain_pem(), key: new.key_pem() })
}

/// An issuer lives no longer than its anchor; but where that has ended and the mesh is being brought back, proxies that know no other anchor
/// must be able to believe who tells them of its successor.
fn issuer_end(anchor: &Anchor, recovers: bool, settings: &Settings, now: SystemTime) -> SystemTime {
    let longest = now + settings.lifetimes.issuer;
    if recovers { longest } else { longest.min(anchor.certificate().not_after()) }
}

fn has_ended(anchor: &Anchor, now: SystemTime) -> bool {
    anchor.certificate().not_after() <= now
}

#[cfg(test)]
mod tests;
