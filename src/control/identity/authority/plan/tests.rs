use std::time::Duration;

use super::rotation::NAMED_MAX;
use super::*;
use crate::pki::Request;

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
    assert!(matches!(&step, Next::WriteState(State { note: Some((true, _, why)), .. }) if why.contains("no rotation")));
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
