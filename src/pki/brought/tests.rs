use rcgen::{
    BasicConstraints, CertificateParams, DnType, GeneralSubtree, IsCa, KeyPair, KeyUsagePurpose, NameConstraints,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_ED25519, PKCS_RSA_SHA256, SanType,
};
use time::OffsetDateTime;

use super::*;

const DOMAIN: &str = "cluster.local";
const DAY: Duration = Duration::from_secs(86_400);

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + 20_000 * DAY
}

/// An authority, and who signs in its name.
struct Made {
    pem: String,
    key_pem: String,
    signer: rcgen::Issuer<'static, KeyPair>,
}

fn wish(name: &str) -> CertificateParams {
    let mut wish = CertificateParams::default();
    wish.distinguished_name = rcgen::DistinguishedName::new();
    wish.distinguished_name.push(DnType::CommonName, name);
    wish.not_before = OffsetDateTime::from(now() - DAY);
    wish.not_after = OffsetDateTime::from(now() + 100 * DAY);
    wish.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    wish.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    wish
}

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

fn self_signed(wish: CertificateParams, key: KeyPair) -> Made {
    let pem = wish.self_signed(&key).unwrap().pem();
    Made { pem, key_pem: key.serialize_pem(), signer: rcgen::Issuer::new(wish, key) }
}

fn under(above: &Made, wish: CertificateParams, key: KeyPair) -> Made {
    let pem = wish.signed_by(&key, &above.signer).unwrap().pem();
    Made { pem, key_pem: key.serialize_pem(), signer: rcgen::Issuer::new(wish, key) }
}

fn root() -> Made {
    self_signed(wish("root.cluster.local"), key())
}

fn issuer(above: &Made) -> Made {
    under(above, wish("identity.cluster.local"), key())
}

fn judged(anchors: &str, chain: &str, key: &str) -> Result<Brought, Unusable> {
    judge(Offer { anchors, anchor_key: None, issuer: Some((chain, key)) }, DOMAIN, now())
}

/// The error and its causes, as people read them.
fn why(refused: Result<Brought, Unusable>) -> String {
    let refused = refused.unwrap_err();
    crate::telemetry::error_chain(&refused)
}

#[test]
fn takes_anchors_of_every_kind_that_proxies_accept() {
    for kind in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_RSA_SHA256] {
        let root = self_signed(wish("Company Root"), KeyPair::generate_for(kind).unwrap());
        let issuer = issuer(&root);
        let brought = judged(&root.pem, &issuer.pem, &issuer.key_pem).unwrap();
        assert!(brought.issuer.is_some() && brought.bundle.anchors().len() == 1);
    }
}

#[test]
fn takes_several_anchors_of_which_one_signed() {
    let (other, root) = (root(), root());
    let issuer = issuer(&root);
    let brought = judged(&(other.pem + &root.pem), &issuer.pem, &issuer.key_pem).unwrap();
    assert_eq!(brought.bundle.anchors().len(), 2);
}

#[test]
fn takes_an_issuer_whose_chain_has_intermediates_and_refuses_it_without_them() {
    let root = root();
    let between = under(&root, wish("Company Intermediate"), KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap());
    let issuer = issuer(&between);
    let chain = format!("{}{}", issuer.pem, between.pem);
    assert!(judged(&root.pem, &chain, &issuer.key_pem).is_ok());
    let alone = why(judged(&root.pem, &issuer.pem, &issuer.key_pem));
    assert!(alone.contains("it does not chain to the trust anchors"), "{alone}");
    let backwards = why(judged(&root.pem, &format!("{}{}", between.pem, issuer.pem), &issuer.key_pem));
    assert!(backwards.contains("the issuer's key is not that of its certificate"), "{backwards}");
}

#[test]
fn takes_an_anchor_with_its_key_instead_of_an_issuer() {
    let (root, other) = (root(), root());
    let offer = |anchors, key| judge(Offer { anchors, anchor_key: key, issuer: None }, DOMAIN, now());
    assert!(offer(&root.pem, Some(&root.key_pem)).is_ok());
    assert_eq!(offer(&root.pem, None).unwrap_err(), Unusable::NobodySigns);
    assert!(why(offer(&root.pem, Some(&other.key_pem))).contains("the issuer's key is not that of its certificate"));
    let both = format!("{}{}", root.pem, other.pem);
    assert_eq!(offer(&both, Some(&root.key_pem)).unwrap_err(), Unusable::AnchorKeyOfWhich(2));
}

#[test]
fn refuses_what_is_no_authority() {
    let root = root();
    let mut leaf = wish("identity.cluster.local");
    leaf.is_ca = IsCa::NoCa;
    let leaf = under(&root, leaf, key());
    assert!(why(judged(&root.pem, &leaf.pem, &leaf.key_pem)).contains("CA:TRUE"));
    assert!(why(judged(&leaf.pem, &leaf.pem, &leaf.key_pem)).contains("CA:TRUE"));
    let mut mute = wish("identity.cluster.local");
    mute.key_usages = vec![KeyUsagePurpose::CrlSign];
    let mute = under(&root, mute, key());
    assert!(why(judged(&root.pem, &mute.pem, &mute.key_pem)).contains("keyCertSign"));
}

#[test]
fn refuses_what_was_made_for_another_mesh() {
    let root = root();
    for name in ["identity.example.com", "identity.linkerd.example.com"] {
        let foreign = under(&root, wish(name), key());
        let refused = why(judged(&root.pem, &foreign.pem, &foreign.key_pem));
        assert!(refused.contains("not for the trust domain cluster.local"), "{refused}");
    }
    let mut spiffe = wish("Intermediate");
    spiffe.subject_alt_names = vec![SanType::URI("spiffe://example.com/ca".try_into().unwrap())];
    let spiffe = under(&root, spiffe, key());
    assert!(why(judged(&root.pem, &spiffe.pem, &spiffe.key_pem)).contains("is for spiffe://example.com/ca"));
    let linkerd = under(&root, wish("identity.linkerd.cluster.local"), key());
    assert!(judged(&root.pem, &linkerd.pem, &linkerd.key_pem).is_ok());
}

#[test]
fn refuses_a_key_of_another_certificate_and_keys_it_cannot_read() {
    let root = root();
    let (issuer, other) = (issuer(&root), issuer(&root));
    let refused = why(judged(&root.pem, &issuer.pem, &other.key_pem));
    assert!(refused.contains("the issuer's key is not that of its certificate"), "{refused}");
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n";
    assert!(why(judged(&root.pem, &issuer.pem, encrypted)).contains("the key is encrypted"));
}

#[test]
fn refuses_what_has_ended_or_not_begun() {
    let root = root();
    let mut over = wish("identity.cluster.local");
    over.not_after = OffsetDateTime::from(now() - Duration::from_secs(1));
    let over = under(&root, over, key());
    assert!(why(judged(&root.pem, &over.pem, &over.key_pem)).contains("has expired"));
    let mut early = wish("root.cluster.local");
    early.not_before = OffsetDateTime::from(now() + DAY);
    let early = self_signed(early, key());
    let below = issuer(&early);
    assert!(why(judged(&early.pem, &below.pem, &below.key_pem)).contains("is not valid yet"));
    let mut old = wish("root.cluster.local");
    old.not_after = OffsetDateTime::from(now());
    let old = self_signed(old, key());
    let both = format!("{}{}", root.pem, old.pem);
    let good = issuer(&root);
    assert!(why(judged(&both, &good.pem, &good.key_pem)).contains("as a trust anchor"));
}

#[test]
fn refuses_an_issuer_that_none_of_the_anchors_signed() {
    let (root, other) = (root(), root());
    let issuer = issuer(&other);
    let refused = why(judged(&root.pem, &issuer.pem, &issuer.key_pem));
    assert!(refused.contains("cannot"), "{refused}");
    assert!(judged(&other.pem, &issuer.pem, &issuer.key_pem).is_ok());
}

#[test]
fn refuses_an_issuer_where_a_path_length_allows_none() {
    let mut narrow = wish("root.cluster.local");
    narrow.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let narrow = self_signed(narrow, key());
    let below = issuer(&narrow);
    assert!(why(judged(&narrow.pem, &below.pem, &below.key_pem)).contains("path length"));
    let offer = Offer { anchors: &narrow.pem, anchor_key: Some(&narrow.key_pem), issuer: None };
    assert!(why(judge(offer, DOMAIN, now())).contains("path length"));

    let root = root();
    let mut between = wish("Company Intermediate");
    between.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let between = under(&root, between, key());
    let issuer = issuer(&between);
    let refused = why(judged(&root.pem, &format!("{}{}", issuer.pem, between.pem), &issuer.key_pem));
    assert!(refused.contains("path length"), "{refused}");
}

#[test]
fn refuses_keys_that_proxies_do_not_accept() {
    let root = root();
    for kind in [&PKCS_ED25519, &PKCS_ECDSA_P521_SHA512] {
        let issuer = under(&root, wish("identity.cluster.local"), KeyPair::generate_for(kind).unwrap());
        let refused = why(judged(&root.pem, &issuer.pem, &issuer.key_pem));
        assert!(refused.contains("its key is ") && refused.contains("proxies accept"), "{refused}");
    }
}

#[test]
fn refuses_an_issuer_that_name_constraints_keep_from_the_trust_domain() {
    let root = root();
    let mut narrow = wish("identity.cluster.local");
    narrow.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName("example.com".into())],
        excluded_subtrees: Vec::new(),
    });
    let narrow = under(&root, narrow, key());
    let refused = why(judged(&root.pem, &narrow.pem, &narrow.key_pem));
    assert!(refused.contains("name constraints"), "{refused}");
}

#[test]
fn refuses_texts_that_are_no_certificates() {
    let root = root();
    let issuer = issuer(&root);
    assert!(why(judged("", &issuer.pem, &issuer.key_pem)).contains("the trust bundle has no certificate"));
    assert!(why(judged(&root.pem, "", &issuer.key_pem)).contains("no certificate in the PEM"));
    assert!(why(judged(&root.pem, &root.key_pem, &issuer.key_pem)).contains("no certificate in the PEM"));
}
