use x509_parser::extensions::ParsedExtension;

use super::*;

const WEB: &str = "web.shop.serviceaccount.identity.hawser.cluster.local";
const TRUST_DOMAIN: &str = "cluster.local";
const VALIDITY: Validity = Validity { lifetime: DAY, skew: Duration::from_secs(20) };

/// 2026-01-01, a whole second.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600)
}

fn web() -> Identity {
    WEB.parse().unwrap()
}

fn csr() -> Csr {
    Csr::parse_der(&LeafKey::generate().unwrap().csr(&web()).unwrap()).unwrap()
}

fn world() -> (Anchor, Issuer, Bundle) {
    let anchor = Anchor::create(TRUST_DOMAIN, now()).unwrap();
    let issuer = anchor.create_issuer(TRUST_DOMAIN, now()).unwrap();
    let bundle = Bundle::parse_pem(&anchor.certificate().to_pem()).unwrap();
    (anchor, issuer, bundle)
}

#[test]
fn signs_a_leaf_that_chains_to_the_anchor() {
    let (_, issuer, bundle) = world();
    let leaf = issuer.sign(&csr(), &web(), now(), VALIDITY).unwrap();
    assert_eq!(bundle.verify(&leaf.certificate, &leaf.intermediates, now()), Ok(()));
    assert_eq!(leaf.certificate.identities(), [web()]);
    assert_eq!(leaf.certificate.subject(), format!("CN={WEB}"));
    assert_eq!(leaf.certificate.issuer(), issuer.certificate().subject());
    assert_eq!(leaf.certificate.not_before(), now() - VALIDITY.skew);
    assert_eq!(leaf.not_after(), now() + VALIDITY.lifetime + VALIDITY.skew);
}

#[test]
fn what_is_said_of_an_issued_certificate_is_what_it_says() {
    let (_, issuer, _) = world();
    let issued = issuer.issue(&csr(), &web(), now() + Duration::from_millis(987), VALIDITY).unwrap();
    let read = Certificate::from_der(issued.der).unwrap();
    assert_eq!((issued.serial.as_str(), issued.not_after), (read.serial(), read.not_after()));
}

#[test]
fn a_leaf_can_prove_both_ends_and_sign_nothing() {
    let (_, issuer, _) = world();
    let leaf = issuer.sign(&csr(), &web(), now(), VALIDITY).unwrap();
    let (_, parsed) = X509Certificate::from_der(leaf.certificate.der()).unwrap();
    let usage = parsed.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.digital_signature() && usage.value.key_encipherment());
    assert!(!usage.value.key_cert_sign());
    let extended = parsed.extended_key_usage().unwrap().unwrap();
    assert!(extended.value.server_auth && extended.value.client_auth && !extended.value.any);
    assert!(parsed.basic_constraints().unwrap().is_none());
    let names_its_issuer =
        |extension: &ParsedExtension<'_>| matches!(extension, ParsedExtension::AuthorityKeyIdentifier(_));
    assert!(parsed.iter_extensions().any(|extension| names_its_issuer(extension.parsed_extension())));
}

#[test]
fn an_issuer_can_sign_leaves_only_for_90_days() {
    let (anchor, issuer, _) = world();
    let (_, parsed) = X509Certificate::from_der(issuer.certificate().der()).unwrap();
    let constraints = parsed.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && constraints.value.ca);
    assert_eq!(constraints.value.path_len_constraint, Some(0));
    assert_eq!(issuer.not_after(), now() + 90 * DAY);
    assert_eq!(anchor.certificate().not_after(), now() + 3652 * DAY);
}

#[test]
fn serial_numbers_are_positive_and_never_repeat() {
    let (_, issuer, _) = world();
    let serials: std::collections::HashSet<String> = (0..100)
        .map(|_| issuer.sign(&csr(), &web(), now(), VALIDITY).unwrap().certificate.serial().to_owned())
        .collect();
    assert_eq!(serials.len(), 100);
    for serial in serials {
        assert_eq!(serial.len(), 32);
        assert!(matches!(serial.as_bytes()[0], b'4'..=b'7'), "{serial} is not positive");
    }
}

#[test]
fn a_leaf_never_outlives_its_issuer() {
    let (_, issuer, _) = world();
    let late = issuer.not_after() - Duration::from_secs(60);
    assert_eq!(issuer.sign(&csr(), &web(), late, VALIDITY).unwrap().not_after(), issuer.not_after());
    let forever = Validity { lifetime: Duration::MAX, skew: Duration::ZERO };
    assert_eq!(issuer.sign(&csr(), &web(), now(), forever).unwrap().not_after(), issuer.not_after());
}

#[test]
fn an_issuer_never_outlives_its_anchor() {
    let (anchor, ..) = world();
    let late = anchor.certificate().not_after() - DAY;
    let issuer = anchor.create_issuer(TRUST_DOMAIN, late).unwrap();
    assert_eq!(issuer.not_after(), anchor.certificate().not_after());
}

#[test]
fn an_issuer_that_outlives_its_anchor_on_purpose_is_believed_after_the_anchors_end() {
    let (anchor, _, bundle) = world();
    let late = anchor.certificate().not_after() + DAY;
    let capped = anchor.create_issuer(TRUST_DOMAIN, late).unwrap();
    assert!(matches!(capped.validate(&bundle, late), Err(InvalidIssuer::NotTrusted(NotTrusted::Expired { .. }))));
    let issuer = anchor.create_issuer_until(TRUST_DOMAIN, late, late + DAY).unwrap();
    assert_eq!(issuer.validate(&bundle, late), Ok(()));
    assert!(issuer.validate(&bundle, late + 2 * DAY).is_err());
}

#[test]
fn comes_back_from_its_pem_and_still_signs() {
    let (anchor, issuer, bundle) = world();
    let anchor = Anchor::parse_pem(&anchor.certificate().to_pem(), &anchor.key_pem()).unwrap();
    assert_eq!(anchor.create_issuer(TRUST_DOMAIN, now()).unwrap().validate(&bundle, now()), Ok(()));
    let issuer = Issuer::parse_pem(&issuer.chain_pem(), &issuer.key_pem()).unwrap();
    assert_eq!(issuer.validate(&bundle, now()), Ok(()));
}

#[test]
fn refuses_an_issuer_of_another_anchor() {
    let (_, issuer, _) = world();
    let (.., others) = world();
    let refused = issuer.validate(&others, now());
    assert!(matches!(refused, Err(InvalidIssuer::NotTrusted(NotTrusted::Chain { .. }))), "{refused:?}");
}

#[test]
fn refuses_an_expired_issuer_and_one_of_the_future() {
    let (_, issuer, bundle) = world();
    let expired = issuer.validate(&bundle, issuer.not_after() + DAY);
    assert!(matches!(expired, Err(InvalidIssuer::NotTrusted(NotTrusted::Expired { .. }))), "{expired:?}");
    let early = issuer.validate(&bundle, now() - DAY);
    assert!(matches!(early, Err(InvalidIssuer::NotTrusted(NotTrusted::NotYetValid { .. }))), "{early:?}");
}

#[test]
fn refuses_the_key_of_another_issuer() {
    let (anchor, issuer, _) = world();
    let other = anchor.create_issuer(TRUST_DOMAIN, now()).unwrap();
    let refused = Issuer::parse_pem(&issuer.chain_pem(), &other.key_pem());
    assert_eq!(refused.unwrap_err(), InvalidIssuer::KeyMismatch);
}

#[test]
fn refuses_a_leaf_as_an_issuer() {
    let (_, issuer, _) = world();
    let key = LeafKey::generate().unwrap();
    let csr = Csr::parse_der(&key.csr(&web()).unwrap()).unwrap();
    let leaf = issuer.sign(&csr, &web(), now(), VALIDITY).unwrap();
    let key = super::super::certificate::pem("PRIVATE KEY", key.private_key().secret_der());
    let refused = Issuer::parse_pem(&leaf.certificate.to_pem(), &key);
    assert!(matches!(refused, Err(InvalidIssuer::NotAnAuthority(_))), "{refused:?}");
}

#[test]
fn refuses_empty_and_broken_pem() {
    let (_, issuer, _) = world();
    assert_eq!(Issuer::parse_pem("", "").unwrap_err(), InvalidIssuer::NoCertificate);
    assert_eq!(Issuer::parse_pem(&issuer.chain_pem(), "").unwrap_err(), InvalidIssuer::Key);
    assert_eq!(Issuer::parse_pem(&issuer.chain_pem(), &issuer.chain_pem()).unwrap_err(), InvalidIssuer::Key);
    let long = issuer.chain_pem().repeat(CHAIN_MAX + 1);
    assert_eq!(Issuer::parse_pem(&long, &issuer.key_pem()).unwrap_err(), InvalidIssuer::ChainTooLong);
}
