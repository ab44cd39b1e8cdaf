//! Decides what is to be done next for anchor, bundle and issuer to be complete.
//!
//! In: what is stored, and the time. Out: one step, or [`Signing`]. No I/O: replicas come to the same end because each step is taken
//! against the version that was read, and decided anew after every step.
//!
//! Start at [`next`].

use std::time::SystemTime;

use super::Signing;
use crate::manifest::names::{ANCHOR_SECRET, BUNDLE_CONFIG_MAP, BUNDLE_KEY, ISSUER_SECRET};
use crate::pki::{
    Anchor, Bundle, CannotSign, Certificate, EXPIRE_MARGIN, InvalidBundle, InvalidIssuer, Issuer, Keeper, Lifetimes,
    PUBLISH_MIN, Phase, Request, Rotation,
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

/// Pods that are named as holding a rotation; more would be read by nobody.
const NAMED_MAX: usize = 20;

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
        let rotating = rotate(stored, settings, &anchor, successor.as_ref(), issuer.as_ref(), &bundle, now)?;
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

/// The next step of a rotation, of its beginning or its end; none where there is nothing to do for it now.
fn rotate(
    stored: &Stored,
    settings: &Settings,
    anchor: &Anchor,
    successor: Option<&Anchor>,
    issuer: Option<&Issuer>,
    bundle: &Bundle,
    now: SystemTime,
) -> Result<Option<Next>, Trouble> {
    let request = stored.request.as_deref().filter(|text| !text.is_empty()).map(str::parse::<Request>);
    let refused = |why: &str| Ok(Some(refuse(stored, bundle, why)));
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let begin = |phase, old: &Anchor, new: &Anchor, recovers| Rotation {
        phase,
        recovers,
        old: old.certificate().fingerprint(),
        new: new.certificate().fingerprint(),
        since,
        waiting_for: Vec::new(),
        waiting_for_count: 0,
    };
    let state = |bundle, rotation, clears_request, reason, why: String| {
        Ok(Some(Next::WriteState(State { bundle, rotation, clears_request, note: Some((false, reason, why)) })))
    };

    let Some(rotation) = &stored.rotation else {
        let is_due = anchor.certificate().not_after() < now + settings.lifetimes.anchor_rotate_before;
        let has_ended = has_ended(anchor, now);
        match request {
            Some(Err(())) => return refused("it is not known what is asked for"),
            Some(Ok(Request::Abort)) => return refused("no rotation is under way"),
            Some(Ok(Request::RotateIssuer)) => {
                let issuer = new_issuer(anchor, false, settings, now)?;
                return Ok(Some(Next::WriteIssuer { issuer, is_asked: true }));
            }
            Some(Ok(Request::Recover)) if !has_ended => return refused(NOTHING_TO_RECOVER),
            Some(Ok(Request::RotateAnchor | Request::Recover)) => {}
            None if is_due => {}
            // What an aborted rotation left behind.
            None if successor.is_some() => {
                return Ok(Some(Next::WriteAnchors { anchor: pem(anchor), successor: None }));
            }
            None => return Ok(None),
        }
        let Some(successor) = successor else {
            let new = new_anchor(settings, now)?;
            return Ok(Some(Next::WriteAnchors { anchor: pem(anchor), successor: Some(pem(&new)) }));
        };
        let recovers = matches!(request, Some(Ok(Request::Recover)));
        let why = match request {
            _ if recovers => RECOVERS,
            Some(_) => "it was asked for",
            None => "the trust anchor is due for replacement",
        };
        let both = with(bundle, successor);
        let rotation = begin(Phase::Publish, anchor, successor, recovers);
        return state(both, Some(rotation), true, "AnchorRotationStarted", why.into());
    };

    let find = |wanted: &str| {
        std::iter::once(anchor).chain(successor).find(|anchor| anchor.certificate().fingerprint() == wanted)
    };
    let (old, new) = (find(&rotation.old), find(&rotation.new));
    let Some(new) = new else {
        let why = "the new anchor's key is gone from its secret; the rotation is given up".to_owned();
        let note = Some((true, "AnchorRotationFailed", why));
        let state = State { bundle: bundle.to_pem(), rotation: None, clears_request: true, note };
        return Ok(Some(Next::WriteState(state)));
    };
    match request {
        None => {}
        Some(Ok(Request::Recover)) => {
            let signing = if rotation.phase == Phase::Publish { old } else { Some(new) };
            if rotation.recovers || !signing.is_some_and(|signing| has_ended(signing, now)) {
                return refused(NOTHING_TO_RECOVER);
            }
            let rotation = Rotation { recovers: true, ..rotation.clone() };
            return state(bundle.to_pem(), Some(rotation), true, "AnchorRotationStarted", RECOVERS.into());
        }
        Some(Ok(Request::Abort)) => {
            return match (rotation.phase, old) {
                (Phase::Publish, _) => {
                    let why = "it was asked for; nothing had been signed under the new anchor".to_owned();
                    state(without(bundle, &rotation.new), None, true, "AnchorRotationAborted", why)
                }
                (_, Some(old)) => {
                    let why = "it was asked for; going back to the old anchor".to_owned();
                    let back = begin(Phase::Switch, new, old, rotation.recovers);
                    state(bundle.to_pem(), Some(back), true, "AnchorRotationAborted", why)
                }
                (_, None) => refused("the old anchor has been retired already"),
            };
        }
        Some(_) => return refused("a rotation of the anchor is under way; `hawser trust abort` ends it"),
    }
    let elapsed = now.duration_since(rotation.since()).unwrap_or_default();
    let is_under_new = issuer.is_some_and(|issuer| new.signed(issuer));
    match rotation.phase {
        Phase::Publish if !bundle.anchors().contains(new.certificate()) => {
            let both = with(bundle, new);
            state(both, Some(Rotation { since, ..rotation.clone() }), false, "AnchorRotationStarted", "again".into())
        }
        Phase::Publish => match &stored.behind {
            Some(none) if none.is_empty() && elapsed >= PUBLISH_MIN => {
                let next = Rotation {
                    phase: Phase::Switch,
                    since,
                    waiting_for: Vec::new(),
                    waiting_for_count: 0,
                    ..rotation.clone()
                };
                let why = "every proxy believes the new anchor".to_owned();
                state(bundle.to_pem(), Some(next), false, "AnchorRotationSwitched", why)
            }
            behind => Ok(name_who_is_behind(behind.as_deref(), rotation, bundle)),
        },
        Phase::Switch if !is_under_new => {
            let issuer = new_issuer(new, rotation.recovers, settings, now)?;
            Ok(Some(Next::WriteIssuer { issuer, is_asked: false }))
        }
        Phase::Switch => {
            let next = Rotation { phase: Phase::Expire, since, ..rotation.clone() };
            let why = "signing under the new anchor; leaves under the old one live on for a while".to_owned();
            state(bundle.to_pem(), Some(next), false, "AnchorRotationSigning", why)
        }
        Phase::Expire if !is_under_new || !settings.is_over(rotation, now) => Ok(None),
        // Leaves may have lived longer when they were signed. Once the key of the old anchor is gone, there is no way back.
        Phase::Expire if successor.is_some() && stored.behind.as_ref().is_none_or(|behind| !behind.is_empty()) => {
            Ok(name_who_is_behind(stored.behind.as_deref(), rotation, bundle))
        }
        // The key first: an anchor that is in its secret is put into the bundle.
        Phase::Expire if successor.is_some() => Ok(Some(Next::WriteAnchors { anchor: pem(new), successor: None })),
        Phase::Expire => {
            let why = "no certificate under the old anchor can be alive; nobody believes it any more".to_owned();
            state(without(bundle, &rotation.old), None, false, "AnchorRotationFinished", why)
        }
    }
}

/// Says in the cluster who holds the rotation; nothing where that is said already, or nobody was asked.
fn name_who_is_behind(behind: Option<&[String]>, rotation: &Rotation, bundle: &Bundle) -> Option<Next> {
    let behind = behind?;
    let named: Vec<String> = behind.iter().take(NAMED_MAX).cloned().collect();
    if named == rotation.waiting_for && behind.len() == rotation.waiting_for_count {
        return None;
    }
    let rotation = Rotation { waiting_for: named, waiting_for_count: behind.len(), ..rotation.clone() };
    Some(Next::WriteState(State {
        bundle: bundle.to_pem(),
        rotation: Some(rotation),
        clears_request: false,
        note: None,
    }))
}

fn refuse(stored: &Stored, bundle: &Bundle, why: &str) -> Next {
    let asked = stored.request.as_deref().unwrap_or_default();
    let note = Some((true, "TrustRequestRefused", format!("{asked}: {why}")));
    Next::WriteState(State { bundle: bundle.to_pem(), rotation: stored.rotation.clone(), clears_request: true, note })
}

fn with(bundle: &Bundle, anchor: &Anchor) -> String {
    if bundle.anchors().contains(anchor.certificate()) {
        return bundle.to_pem();
    }
    bundle.to_pem() + &anchor.certificate().to_pem()
}

fn without(bundle: &Bundle, fingerprint: &str) -> String {
    let kept = bundle.anchors().iter().filter(|anchor| anchor.fingerprint() != fingerprint);
    kept.map(Certificate::to_pem).collect()
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

const NOTHING_TO_RECOVER: &str =
    "the trust anchor that signs has not ended, so issuer and certificates renew themselves";
const RECOVERS: &str =
    "it was asked to bring the mesh back: the ended anchor signs until every proxy believes the new one";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const TRUST_DOMAIN: &str = "cluster.local";
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600)
    }

    /// Those of an installation, but for clocks that agree: so that tests can count in days.
    fn lifetimes() -> Lifetimes {
        Lifetimes { skew: Duration::ZERO, ..Lifetimes::default() }
    }

    fn settings() -> Settings {
        Settings { trust_domain: TRUST_DOMAIN.into(), lifetimes: lifetimes() }
    }

    impl Stored {
        fn write(&mut self, step: Next) {
            match step {
                Next::WriteAnchors { anchor, successor } => (self.anchor, self.successor) = (Some(anchor), successor),
                Next::WriteState(State { bundle, rotation, clears_request, .. }) => {
                    (self.bundle, self.rotation) = (Some(bundle), rotation);
                    self.request = self.request.take().filter(|_| !clears_request);
                }
                Next::WriteIssuer { issuer, is_asked } => {
                    self.issuer = Some(issuer);
                    self.request = self.request.take().filter(|_| !is_asked);
                }
                Next::Ready(_) => {}
            }
        }

        /// Takes steps until there are none, and counts them.
        fn settle(&mut self, now: SystemTime) -> (Box<Signing>, usize) {
            for steps in 0.. {
                match next(self, &settings(), now).unwrap() {
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
        assert_eq!((signing.bundle.anchors().len(), &signing.keeper), (1, &None));
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
            let (first, second) = (next(&seen, &settings(), now()).unwrap(), next(&seen, &settings(), now()).unwrap());
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
            Stored { issuer: Some(of(&issuer)), bundle: Some(anchor.certificate().to_pem()), ..Stored::default() };
        let (signing, steps) = stored.settle(now() + 80 * DAY);
        assert_eq!((steps, signing.keeper.is_some()), (0, true));
        assert_eq!(signing.issuer.certificate(), issuer.certificate());
        let ended = next(&stored, &settings(), now() + 91 * DAY);
        assert!(matches!(ended, Err(Trouble::Issuer(InvalidIssuer::NotTrusted(_)))), "{ended:?}");
    }

    #[test]
    fn refuses_an_issuer_that_the_bundle_does_not_vouch_for() {
        let mut stored = Stored::default();
        stored.settle(now());
        let stranger = Anchor::create("elsewhere", now()).unwrap().create_issuer("elsewhere", now()).unwrap();
        stored.issuer = Some(of(&stranger));
        let refused = next(&stored, &settings(), now());
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
        assert!(matches!(next(&stored, &settings(), now()), Err(Trouble::AnchorGone)));
    }

    #[test]
    fn says_which_object_is_broken() {
        let mut good = Stored::default();
        good.settle(now());
        let broken = || Some(KeyPem { certificate: "broken".into(), key: String::new() });
        let stored = Stored { anchor: broken(), ..good.clone() };
        assert!(matches!(next(&stored, &settings(), now()), Err(Trouble::Anchor(_))));
        let stored = Stored { issuer: broken(), ..good.clone() };
        assert!(matches!(next(&stored, &settings(), now()), Err(Trouble::Issuer(_))));
        let stored = Stored { bundle: Some("broken".into()), ..good.clone() };
        assert!(matches!(next(&stored, &settings(), now()), Err(Trouble::Bundle(_))));
        let stored = Stored { anchor: None, bundle: None, ..good };
        assert!(matches!(next(&stored, &settings(), now()), Err(Trouble::IssuerWithoutBundle)));
    }

    /// A mesh that rotates its anchor because somebody asked.
    fn asked(request: Request) -> Stored {
        let mut stored = Stored::default();
        stored.settle(now());
        stored.request = Some(request.as_str().into());
        stored
    }

    fn phase(stored: &Stored) -> Option<Phase> {
        stored.rotation.as_ref().map(|rotation| rotation.phase)
    }

    fn anchors(stored: &Stored) -> usize {
        Bundle::parse_pem(stored.bundle.as_deref().unwrap()).unwrap().anchors().len()
    }

    /// Whether a leaf signed now is believed by those who were last told of `bundle`.
    fn is_believed(stored: &mut Stored, bundle: &Bundle, now: SystemTime) -> bool {
        stored.settle(now).0.issuer.validate(bundle, now).is_ok()
    }

    #[test]
    fn a_new_anchor_signs_only_when_all_believe_it_and_the_old_goes_only_when_no_leaf_of_it_lives() {
        let mut stored = asked(Request::RotateAnchor);
        let old = Bundle::parse_pem(stored.bundle.as_deref().unwrap()).unwrap();
        stored.settle(now());
        assert_eq!((phase(&stored), anchors(&stored), stored.request.as_deref()), (Some(Phase::Publish), 2, None));
        // Nobody asked, somebody behind, everybody there but too early: none of that is enough.
        let late = now() + Duration::from_secs(3600);
        for (behind, at) in [(None, late), (Some(vec!["shop/web".to_owned()]), late), (Some(vec![]), now())] {
            stored.behind = behind;
            assert!(is_believed(&mut stored, &old, at), "those who know the old anchor only are not left behind");
            assert_eq!(phase(&stored), Some(Phase::Publish));
        }
        stored.behind = Some(vec![]);
        stored.settle(late);
        assert_eq!((phase(&stored), anchors(&stored)), (Some(Phase::Expire), 2));
        assert!(!is_believed(&mut stored, &old, late), "the new anchor's issuer signs");
        stored.settle(late + DAY);
        assert_eq!((phase(&stored), anchors(&stored)), (Some(Phase::Expire), 2), "a leaf may be alive");
        let end = late + DAY + EXPIRE_MARGIN;
        // Leaves lived longer once, and one of them is still shown.
        for behind in [None, Some(vec!["shop/web: still has a certificate under the old anchor".to_owned()])] {
            stored.behind = behind;
            stored.settle(end);
            assert_eq!((phase(&stored), anchors(&stored)), (Some(Phase::Expire), 2));
        }
        assert_eq!(stored.rotation.as_ref().unwrap().waiting_for_count, 1);
        stored.behind = Some(vec![]);
        let (signing, _) = stored.settle(end);
        assert_eq!((phase(&stored), anchors(&stored), stored.successor.is_none()), (None, 1, true));
        assert_ne!(signing.bundle, old);
        assert_eq!(stored.settle(end).1, 0, "and then it rests");
    }

    #[test]
    fn names_who_holds_the_switch_and_says_it_once() {
        let mut stored = asked(Request::RotateAnchor);
        stored.settle(now());
        let all: Vec<String> = (0..NAMED_MAX + 5).map(|number| format!("shop/web-{number}")).collect();
        stored.behind = Some(all);
        assert_eq!(stored.settle(now()).1, 1);
        let rotation = stored.rotation.clone().unwrap();
        assert_eq!((rotation.waiting_for.len(), rotation.waiting_for_count), (NAMED_MAX, NAMED_MAX + 5));
        assert_eq!(stored.settle(now()).1, 0);
    }

    #[test]
    fn goes_on_from_wherever_it_was_killed() {
        // One step at a time, each decided from what is stored alone, as by a replica that has just started.
        let mut stored = asked(Request::RotateAnchor);
        stored.behind = Some(vec![]);
        let mut at = now();
        let mut seen = Vec::new();
        for _ in 0..40 {
            let step = next(&stored, &settings(), at).unwrap();
            if matches!(step, Next::Ready(_)) {
                at += Duration::from_secs(6 * 3600);
            }
            stored.write(step);
            seen.push(phase(&stored));
            // What signs is believed by whoever knows the bundle, after every step that leaves a whole.
            if let Ok(Next::Ready(signing)) = next(&stored, &settings(), at) {
                signing.issuer.validate(&signing.bundle, at).unwrap();
            }
        }
        seen.dedup();
        let expected = [None, Some(Phase::Publish), Some(Phase::Switch), Some(Phase::Expire), None];
        assert_eq!(seen, expected);
        assert_eq!(anchors(&stored), 1);
    }

    #[test]
    fn an_abort_before_the_switch_takes_the_new_anchor_away_and_after_it_the_same_way_back() {
        let mut stored = asked(Request::RotateAnchor);
        let old = stored.bundle.clone();
        stored.settle(now());
        stored.request = Some(Request::Abort.as_str().into());
        stored.settle(now());
        assert_eq!((phase(&stored), &stored.bundle, stored.successor.is_none()), (None, &old, true));

        stored.request = Some(Request::RotateAnchor.as_str().into());
        stored.behind = Some(vec![]);
        stored.settle(now());
        let late = now() + Duration::from_secs(3600);
        stored.settle(late);
        assert_eq!(phase(&stored), Some(Phase::Expire));
        stored.request = Some(Request::Abort.as_str().into());
        let believes_old = Bundle::parse_pem(old.as_deref().unwrap()).unwrap();
        assert!(is_believed(&mut stored, &believes_old, late), "the old anchor's issuer signs again");
        assert_eq!(anchors(&stored), 2, "leaves of the new one live on for a while");
        stored.settle(late + DAY + EXPIRE_MARGIN);
        assert_eq!((phase(&stored), &stored.bundle), (None, &old));
    }

    #[test]
    fn refuses_what_cannot_be_done_and_forgets_it() {
        let mut stored = asked(Request::Abort);
        let step = next(&stored, &settings(), now()).unwrap();
        assert!(
            matches!(&step, Next::WriteState(State { note: Some((true, _, why)), .. }) if why.contains("no rotation"))
        );
        stored.write(step);
        assert_eq!(stored.request, None);
        stored.anchor = None;
        stored.request = Some(Request::RotateAnchor.as_str().into());
        let step = next(&stored, &settings(), now()).unwrap();
        assert!(matches!(&step, Next::WriteState(State { note: Some((true, _, why)), .. }) if why.contains("key")));
    }

    #[test]
    fn an_issuer_that_cannot_outlive_its_anchor_is_not_made_again_and_again() {
        let mut stored = Stored::default();
        stored.settle(now());
        // Nobody answers, so that the rotation that begins stays where it is.
        let end = now() + lifetimes().anchor;
        let (signing, _) = stored.settle(end - 10 * DAY);
        assert_eq!(signing.issuer.not_after(), end);
        let (same, steps) = stored.settle(end - DAY);
        assert!(same.is(&signing) && steps == 0);
        for late in [end, end + DAY] {
            let ended = next(&stored, &settings(), late);
            assert!(matches!(ended, Err(Trouble::AnchorEnded { .. })), "{ended:?}");
        }
    }

    #[test]
    fn a_mesh_whose_anchor_has_ended_comes_back_when_asked_to_and_not_before() {
        for had_begun in [false, true] {
            let mut stored = Stored::default();
            stored.settle(now());
            let old = Bundle::parse_pem(stored.bundle.as_deref().unwrap()).unwrap();
            let end = now() + lifetimes().anchor;
            if had_begun {
                stored.settle(end - DAY);
                assert_eq!(phase(&stored), Some(Phase::Publish));
            }
            let mut at = end + 30 * DAY;
            // The rotation is due, and begins; but what the ended anchor would sign is nobody's to decide but a person's.
            while let Ok(step) = next(&stored, &settings(), at) {
                stored.write(step);
            }
            assert!(matches!(next(&stored, &settings(), at), Err(Trouble::AnchorEnded { .. })));
            assert!(anchors(&stored) == 2 && phase(&stored) == Some(Phase::Publish));
            stored.request = Some(Request::Recover.as_str().into());
            assert!(is_believed(&mut stored, &old, at), "proxies that know the old anchor only are reached");
            assert_eq!(stored.request, None);
            // Those are told, renew their certificates, and a rotation goes on as any other.
            at += 100 * DAY;
            assert!(is_believed(&mut stored, &old, at), "for as long as it takes");
            stored.behind = Some(vec![]);
            stored.settle(at);
            assert_eq!(phase(&stored), Some(Phase::Expire));
            let (signing, _) = stored.settle(at + DAY + EXPIRE_MARGIN);
            assert_eq!((phase(&stored), anchors(&stored)), (None, 1));
            assert!(signing.bundle != old && signing.bundle.anchors()[0].not_after() > at);
        }
    }

    #[test]
    fn a_mesh_that_lives_is_not_brought_back() {
        for rotates in [false, true] {
            let mut stored = if rotates { asked(Request::RotateAnchor) } else { Stored::default() };
            stored.settle(now());
            stored.request = Some(Request::Recover.as_str().into());
            let before = stored.rotation.clone();
            let step = next(&stored, &settings(), now()).unwrap();
            let Next::WriteState(State { note: Some((true, reason, _)), .. }) = &step else { panic!("{step:?}") };
            assert_eq!(*reason, "TrustRequestRefused");
            stored.write(step);
            assert_eq!((&stored.rotation, &stored.request), (&before, &None));
        }
    }

    #[test]
    fn renews_the_issuer_when_asked_and_the_anchor_by_itself_in_time() {
        let mut stored = asked(Request::RotateIssuer);
        let before = stored.issuer.clone();
        stored.settle(now());
        assert!(stored.issuer != before && stored.request.is_none() && anchors(&stored) == 1);
        stored.settle(now() + 7 * 365 * DAY);
        assert_eq!(phase(&stored), None);
        stored.settle(now() + 8 * 365 * DAY + 10 * DAY);
        assert_eq!(phase(&stored), Some(Phase::Publish));
    }
}
