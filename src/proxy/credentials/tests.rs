use std::collections::HashSet;
use std::sync::Mutex;

use tokio::time::Instant;

use super::*;
use crate::pki::{Anchor, Csr, Issuer, Validity};

const WEB: &str = "web.shop.serviceaccount.identity.hawser.cluster.local";
const THIEF: &str = "thief.shop.serviceaccount.identity.hawser.cluster.local";
const HOUR: Duration = Duration::from_secs(60 * 60);

/// 2026-01-01.
fn start() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_767_225_600)
}

/// An identity service that answers as it is told.
struct Authority {
    issuer: Issuer,
    bundle: Arc<Bundle>,
    began: Instant,
    /// The public keys it was asked to certify: the CSRs, for each has its own key.
    asked: Mutex<Vec<(Duration, Vec<u8>)>>,
    is_away: Mutex<bool>,
    has_too_much: Mutex<bool>,
}

impl Authority {
    fn new() -> Self {
        let anchor = Anchor::create("cluster.local", start()).unwrap();
        Self {
            issuer: anchor.create_issuer("cluster.local", start()).unwrap(),
            bundle: Arc::new(Bundle::parse_pem(&anchor.certificate().to_pem()).unwrap()),
            began: Instant::now(),
            asked: Mutex::default(),
            is_away: Mutex::default(),
            has_too_much: Mutex::default(),
        }
    }

    fn now(&self) -> SystemTime {
        start() + self.began.elapsed()
    }

    fn certify(&self, request: &CertifyRequest) -> Result<CertifyResponse, Error> {
        self.asked.lock().unwrap().push((self.began.elapsed(), request.certificate_signing_request.clone()));
        if *self.is_away.lock().unwrap() {
            return Err(Error::Timeout);
        }
        if *self.has_too_much.lock().unwrap() {
            return Err(Error::Refused(Status::resource_exhausted("too many requests")));
        }
        Ok(self.sign(&request.certificate_signing_request, &request.identity))
    }

    fn sign(&self, csr: &[u8], identity: &str) -> CertifyResponse {
        let validity = Validity { lifetime: HOUR, skew: Duration::ZERO };
        let csr = Csr::parse_der(csr).unwrap();
        let leaf = self.issuer.sign(&csr, &identity.parse().unwrap(), self.now(), validity).unwrap();
        CertifyResponse {
            leaf_certificate: leaf.certificate.der().to_vec(),
            intermediate_certificates: leaf.intermediates.iter().map(|der| der.to_vec()).collect(),
            valid_until: Some(leaf.not_after().into()),
        }
    }

    fn attempts(&self) -> Vec<Duration> {
        self.asked.lock().unwrap().iter().map(|(at, _)| *at).collect()
    }
}

fn settings(folder: &tempfile::TempDir) -> Settings {
    let token_file = folder.path().join("token");
    std::fs::write(&token_file, "token").unwrap();
    Settings {
        identity: WEB.parse().unwrap(),
        token_file,
        service: "localhost:8080".parse().unwrap(),
        server: None,
        refresh_min: Duration::from_secs(10),
        refresh_max: 24 * HOUR,
    }
}

/// Runs `renew` against `authority` for `time`, and returns what it published last.
async fn run_for(
    time: Duration,
    authority: &Authority,
    settings: &Settings,
    credentials: &watch::Sender<Option<Arc<Credentials>>>,
    metrics: &Metrics,
) -> Option<Arc<Credentials>> {
    let (_, bundle) = watch::channel(authority.bundle.clone());
    let certify = |request| async move { authority.certify(&request) };
    let renewing = renew(settings, certify, || authority.now(), &bundle, credentials, metrics);
    assert!(timeout(time, renewing).await.is_err(), "renewing ended");
    credentials.borrow().clone()
}

#[tokio::test(start_paused = true)]
async fn gets_a_certificate_at_once_and_its_successor_at_70_percent_with_another_key() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, metrics) = (Authority::new(), Metrics::default());
    let credentials = watch::Sender::new(None);
    let first = run_for(Duration::from_secs(1), &authority, &settings(&folder), &credentials, &metrics).await.unwrap();
    assert_eq!(first.identity.as_str(), WEB);
    assert_eq!(first.not_after, start() + HOUR);

    let authority = Authority::new();
    let last = run_for(10 * HOUR, &authority, &settings(&folder), &credentials, &metrics).await.unwrap();
    assert_ne!(first.leaf.serial(), last.leaf.serial());
    let attempts = authority.attempts();
    assert!((13..=16).contains(&attempts.len()), "{attempts:?}");
    for pair in attempts.windows(2) {
        let part = (pair[1] - pair[0]).as_secs_f64() / HOUR.as_secs_f64();
        assert!((0.64..0.76).contains(&part), "renewed after {part} of the life");
    }
    let asked: HashSet<Vec<u8>> = authority.asked.lock().unwrap().iter().map(|(_, csr)| csr.clone()).collect();
    assert_eq!(asked.len(), attempts.len(), "a key was used twice");
    assert_eq!(metrics.refreshes.get_or_create(&Refresh { result: "error" }).get(), 0);
}

#[tokio::test(start_paused = true)]
async fn asks_again_within_a_second_while_the_control_plane_starts() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, metrics) = (Authority::new(), Metrics::default());
    *authority.is_away.lock().unwrap() = true;
    let held =
        run_for(Duration::from_secs(20), &authority, &settings(&folder), &watch::Sender::new(None), &metrics).await;
    assert!(held.is_none());
    let attempts = authority.attempts();
    assert!(attempts[1] < Duration::from_millis(200), "{attempts:?}");
    assert!(attempts.windows(2).all(|pair| pair[1] - pair[0] < Duration::from_secs(1)), "{attempts:?}");
    let failed = metrics.refreshes.get_or_create(&Refresh { result: "error" }).get();
    assert_eq!(failed, attempts.len() as u64);
}

#[tokio::test(start_paused = true)]
async fn asks_a_service_that_has_too_much_to_do_rarely_and_not_in_step_with_others() {
    let folder = tempfile::tempdir().unwrap();
    let mut first_waits = HashSet::new();
    for _ in 0..10 {
        let (authority, metrics) = (Authority::new(), Metrics::default());
        *authority.has_too_much.lock().unwrap() = true;
        let (settings, credentials) = (settings(&folder), watch::Sender::new(None));
        let held = run_for(Duration::from_secs(300), &authority, &settings, &credentials, &metrics).await;
        assert!(held.is_none());
        let attempts = authority.attempts();
        assert!((8..=30).contains(&attempts.len()), "{attempts:?}");
        assert!(attempts.windows(2).all(|pair| pair[1] - pair[0] >= SLOWED_FIRST / 2), "{attempts:?}");
        first_waits.insert(attempts[1] - attempts[0]);
        *authority.has_too_much.lock().unwrap() = false;
        assert!(run_for(Duration::from_secs(10), &authority, &settings, &credentials, &metrics).await.is_some());
    }
    assert!(first_waits.len() > 5, "{first_waits:?}");
}

#[tokio::test(start_paused = true)]
async fn keeps_a_certificate_until_its_end_and_not_beyond() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, metrics) = (Authority::new(), Metrics::default());
    let (settings, credentials) = (settings(&folder), watch::Sender::new(None));
    run_for(Duration::from_secs(1), &authority, &settings, &credentials, &metrics).await.unwrap();
    *authority.is_away.lock().unwrap() = true;
    let held = run_for(HOUR - Duration::from_secs(60), &authority, &settings, &credentials, &metrics).await;
    assert!(held.is_some());
    let held = run_for(Duration::from_secs(120), &authority, &settings, &credentials, &metrics).await;
    assert!(held.is_none());
    *authority.is_away.lock().unwrap() = false;
    assert!(run_for(Duration::from_secs(10), &authority, &settings, &credentials, &metrics).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn waits_for_a_token_that_is_not_there_yet() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, metrics) = (Authority::new(), Metrics::default());
    let (settings, credentials) = (settings(&folder), watch::Sender::new(None));
    std::fs::write(&settings.token_file, "").unwrap();
    assert!(run_for(Duration::from_secs(5), &authority, &settings, &credentials, &metrics).await.is_none());
    std::fs::remove_file(&settings.token_file).unwrap();
    assert!(run_for(Duration::from_secs(5), &authority, &settings, &credentials, &metrics).await.is_none());
    assert!(authority.attempts().is_empty(), "asked without a token");
    std::fs::write(&settings.token_file, "token").unwrap();
    assert!(run_for(Duration::from_secs(5), &authority, &settings, &credentials, &metrics).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn refuses_what_it_did_not_ask_for() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, settings) = (Authority::new(), settings(&folder));
    let (key, request) = ask(&settings).await.unwrap();
    let good = authority.sign(&request.certificate_signing_request, WEB);
    let judge = |answer: &CertifyResponse| accept(answer, &key, &settings, &authority.bundle, start());
    assert!(judge(&good).is_ok());

    let stolen = authority.sign(&request.certificate_signing_request, THIEF);
    assert!(matches!(judge(&stolen), Err(InvalidAnswer::Identity { .. })));
    let (_, other) = ask(&settings).await.unwrap();
    let other = authority.sign(&other.certificate_signing_request, WEB);
    assert!(matches!(judge(&other), Err(InvalidAnswer::Key(_))));
    let foreign = Authority::new().sign(&request.certificate_signing_request, WEB);
    assert!(matches!(judge(&foreign), Err(InvalidAnswer::NotTrusted(_))));
    let alone = CertifyResponse { intermediate_certificates: vec![], ..good.clone() };
    assert!(matches!(judge(&alone), Err(InvalidAnswer::NotTrusted(_))));
    let long = CertifyResponse { intermediate_certificates: vec![vec![0]; INTERMEDIATES_MAX + 1], ..good.clone() };
    assert!(matches!(judge(&long), Err(InvalidAnswer::Intermediates(_))));
    let endless = CertifyResponse { valid_until: None, ..good.clone() };
    assert!(matches!(judge(&endless), Err(InvalidAnswer::NoValidUntil)));
    let over = CertifyResponse { valid_until: Some(start().into()), ..good.clone() };
    assert!(matches!(judge(&over), Err(InvalidAnswer::Over)));
    let pem = CertifyResponse { leaf_certificate: b"-----BEGIN CERTIFICATE-----".to_vec(), ..good };
    assert!(matches!(judge(&pem), Err(InvalidAnswer::Certificate(_))));
}

#[test]
fn renewal_heeds_the_settings_but_never_waits_for_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { refresh_max: HOUR, ..settings(&folder) };
    let seconds = Duration::from_secs;
    assert_eq!(renewal(seconds(100), &settings, 0.7), seconds(70));
    assert_eq!(renewal(24 * HOUR, &settings, 0.7), HOUR);
    assert_eq!(renewal(seconds(13), &settings, 0.7), seconds(10));
    assert_eq!(renewal(seconds(10), &settings, 0.7), Duration::from_millis(8500));
    assert_eq!(renewal(Duration::ZERO, &settings, 0.7), RENEWAL_MIN);
}
