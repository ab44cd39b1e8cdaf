//! What the parts of a certificate cost: each in a loop of one thread, by that thread's CPU time.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use hawser::mesh::Identity;
use hawser::pki::{Anchor, Asked, Bundle, Certificate, Csr, LeafKey, Validity};
use hawser::proxy::credentials::Credentials;
use hawser::proxy::tls::{Alpn, Tls};
use rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use rustls::sign::CertifiedKey;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

const WEB: &str = "web.shop.serviceaccount.identity.hawser.cluster.local";
/// How long each part is repeated.
const TIME: Duration = Duration::from_secs(1);
const HANDSHAKES: u32 = 2_000;

/// The parts, and microseconds of CPU each.
pub(crate) fn costs() -> Vec<(&'static str, f64)> {
    let now = SystemTime::now();
    let issuer = Anchor::create("cluster.local", now).unwrap().create_issuer("cluster.local", now).unwrap();
    let identity: Identity = WEB.parse().unwrap();
    let der = LeafKey::generate().unwrap().csr(&identity).unwrap();
    let csr = Csr::parse_der(&der).unwrap();
    let validity = Validity { lifetime: Duration::from_secs(86_400), skew: Duration::from_secs(20) };
    let issued = issuer.issue(&csr, &identity, now, validity).unwrap().der;
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
    // As long as what is signed of a certificate.
    let text = [7_u8; 500];
    let signature = key.sign(&random, &text).unwrap();
    let public = key.public_key().as_ref().to_vec();
    vec![
        (
            "a bare P-256 signature of 500 bytes: the limit",
            each(|| {
                key.sign(&random, &text).unwrap();
            }),
        ),
        (
            "a bare P-256 verification",
            each(|| {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &public).verify(&text, signature.as_ref()).unwrap();
            }),
        ),
        ("CSR: parse, and look at its names", each(|| Asked::parse_der(&der).unwrap().asks_for(WEB).unwrap())),
        (
            "CSR: parse, and verify its signature",
            each(|| {
                Csr::parse_der(&der).unwrap();
            }),
        ),
        (
            "sign: make the certificate",
            each(|| {
                issuer.issue(&csr, &identity, now, validity).unwrap();
            }),
        ),
        (
            "read a certificate: nobody does of what was just signed",
            each(|| {
                Certificate::from_der(issued.clone()).unwrap();
            }),
        ),
    ]
}

fn each(work: impl Fn()) -> f64 {
    for _ in 0..100 {
        work();
    }
    let (began, before, mut count) = (Instant::now(), thread_micros(), 0);
    while began.elapsed() < TIME {
        for _ in 0..10 {
            work();
        }
        count += 10;
    }
    (thread_micros() - before) / f64::from(count)
}

/// CPU time of this thread.
fn thread_micros() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse::<f64>().unwrap() / 1000.0
}

/// Microseconds of CPU for the server's side of a handshake in which both ends show a certificate, with the proxy's own code.
pub(crate) fn tls_cost() -> f64 {
    let [server, client] = ends();
    let (told, address) = std::sync::mpsc::channel();
    let serving = std::thread::spawn(move || {
        runtime().block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            told.send(listener.local_addr().unwrap()).unwrap();
            let mut before = 0.0;
            for number in 0..2 * HANDSHAKES {
                if number == HANDSHAKES {
                    before = thread_micros();
                }
                let (stream, _) = listener.accept().await.unwrap();
                let accepted = server.accept(stream, Alpn::None).await.unwrap();
                drop(accepted);
            }
            (thread_micros() - before) / f64::from(HANDSHAKES)
        })
    });
    let (address, name) = (address.recv().unwrap(), WEB.parse().unwrap());
    runtime().block_on(async {
        for _ in 0..2 * HANDSHAKES {
            let stream = TcpStream::connect(address).await.unwrap();
            let mut connected = client.connect(stream, &name, WEB, Alpn::None).await.unwrap();
            // Until the server has let go: a connection that is closed before is no handshake.
            let _ = connected.stream.read(&mut [0]).await;
        }
    });
    serving.join().unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Two ends that believe the same anchor, and are both [`WEB`].
fn ends() -> [Tls; 2] {
    let now = SystemTime::now();
    let anchor = Anchor::create("cluster.local", now).unwrap();
    let issuer = anchor.create_issuer("cluster.local", now).unwrap();
    let bundle = Arc::new(Bundle::parse_pem(&anchor.certificate().to_pem()).unwrap());
    [(); 2].map(|()| {
        let identity: Identity = WEB.parse().unwrap();
        let key = LeafKey::generate().unwrap();
        let csr = Csr::parse_der(&key.csr(&identity).unwrap()).unwrap();
        let validity = Validity { lifetime: Duration::from_secs(86_400), skew: Duration::from_secs(20) };
        let leaf = issuer.sign(&csr, &identity, now, validity).unwrap();
        let chain = std::iter::once(leaf.certificate.der().clone()).chain(leaf.intermediates.clone()).collect();
        let certified_key = Arc::new(CertifiedKey::new(chain, any_ecdsa_type(&key.private_key()).unwrap()));
        let not_after = leaf.not_after();
        let credentials = Credentials { identity, certified_key, leaf: leaf.certificate, not_after };
        let (bundle, credentials) =
            (watch::Sender::new(bundle.clone()), watch::Sender::new(Some(Arc::new(credentials))));
        let tls = Tls::new(bundle.subscribe(), credentials.subscribe());
        // What it is made of stays for as long as the process does.
        std::mem::forget((bundle, credentials));
        tls
    })
}
