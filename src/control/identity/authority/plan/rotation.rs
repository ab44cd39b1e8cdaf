//! The replacement of the trust anchor, step by step: its beginning, by request or in time, its phases, and the ways back.
//!
//! Start at [`rotate`]. [`crate::pki::Rotation`] has the picture.

use std::time::SystemTime;

use super::{Next, Settings, State, Stored, Trouble, has_ended, new_anchor, new_issuer, pem, refuse};
use crate::pki::{Anchor, Bundle, Certificate, Issuer, PUBLISH_MIN, Phase, Request, Rotation};

/// Pods that are named as holding a rotation; more would be read by nobody.
pub(super) const NAMED_MAX: usize = 20;

const NOTHING_TO_RECOVER: &str =
    "the trust anchor that signs has not ended, so issuer and certificates renew themselves";
const RECOVERS: &str =
    "it was asked to bring the mesh back: the ended anchor signs until every proxy believes the new one";

/// The next step of a rotation, of its beginning or its end; none where there is nothing to do for it now.
pub(super) fn rotate(
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
