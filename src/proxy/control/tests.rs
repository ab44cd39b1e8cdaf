use std::convert::Infallible;
use std::sync::atomic::AtomicUsize;

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use rustls::sign::CertifiedKey;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;

use super::*;
use crate::mesh::connection::Security;
use crate::pki::{Anchor, Bundle, Csr, LeafKey, Validity};
use crate::proxy::credentials::Credentials;
use crate::proxy::tls::Alpn;

const DESTINATION: &str = "hawser-destination.hawser.serviceaccount.identity.hawser.cluster.local";
const WEB: &str = "web.shop.serviceaccount.identity.hawser.cluster.local";
const DEADLINE: Duration = Duration::from_secs(20);

/// An anchor, and who believes it.
struct World {
    anchor: Anchor,
    bundle: watch::Receiver<Arc<Bundle>>,
}

impl World {
    fn new() -> Self {
        let anchor = Anchor::create("cluster.local", std::time::SystemTime::now()).unwrap();
        let bundle = Bundle::parse_pem(&anchor.certificate().to_pem()).unwrap();
        Self { anchor, bundle: watch::channel(Arc::new(bundle)).1 }
    }

    /// TLS as `name` has it, or as a proxy that is not certified yet.
    fn tls(&self, name: Option<&str>) -> Tls {
        Tls::new(self.bundle.clone(), watch::channel(name.map(|name| self.credentials(name))).1)
    }

    fn credentials(&self, name: &str) -> Arc<Credentials> {
        let now = std::time::SystemTime::now();
        let (identity, key): (Identity, _) = (name.parse().unwrap(), LeafKey::generate().unwrap());
        let csr = Csr::parse_der(&key.csr(&identity).unwrap()).unwrap();
        let validity = Validity { lifetime: Duration::from_secs(3600), skew: Duration::ZERO };
        let issuer = self.anchor.create_issuer("cluster.local", now).unwrap();
        let leaf = issuer.sign(&csr, &identity, now, validity).unwrap();
        let chain = std::iter::once(leaf.certificate.der().clone()).chain(leaf.intermediates.clone()).collect();
        let certified_key = Arc::new(CertifiedKey::new(chain, any_ecdsa_type(&key.private_key()).unwrap()));
        Arc::new(Credentials { identity, certified_key, not_after: leaf.not_after(), leaf: leaf.certificate })
    }
}

/// A service that answers each request with what it was asked and by whom, and closes a connection after `requests_max`.
async fn serve(listener: TcpListener, tls: Option<Tls>, requests_max: usize) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let Some(tls) = &tls else {
            answer(stream, String::new(), requests_max).await;
            continue;
        };
        if let Ok(accepted) = tls.accept(stream, Alpn::None).await {
            let client = match accepted.security {
                Security::Mutual(tls) => format!(" of {}", tls.client_identity.unwrap()),
                _ => String::new(),
            };
            answer(accepted.stream, client, requests_max).await;
        }
    }
}

async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin, client: String, requests_max: usize) {
    let (done, mut is_done) = watch::channel(());
    let requests = AtomicUsize::new(0);
    let service = service_fn(|request: Request<Incoming>| {
        if requests.fetch_add(1, Ordering::Relaxed) + 1 == requests_max {
            done.send_replace(());
        }
        let answer = format!("{}{client}", request.uri());
        async move { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(answer)))) }
    });
    let served =
        hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
    let mut served = std::pin::pin!(served);
    tokio::select! {
        _ = &mut served => return,
        _ = is_done.changed() => served.as_mut().graceful_shutdown(),
    }
    let _ = served.await;
}

/// A channel to `port` of this machine, secured as one to another pod would be.
fn secured(port: u16, tls: Tls, server: &str, is_mutual: bool) -> Channel {
    let channel = plain(port);
    let inner = Arc::into_inner(channel.inner).unwrap();
    let secure = Secure { tls, server: server.parse().unwrap(), is_mutual };
    Channel { inner: Arc::new(Inner { secure: Some(secure), ..inner }), requests: None }
}

fn plain(port: u16) -> Channel {
    let nobody = World::new().tls(None);
    Channel::new(format!("localhost.:{port}").parse().unwrap(), None, &nobody, Drain::new()).unwrap()
}

async fn ask(channel: &Channel) -> Result<String, Status> {
    let request = Request::post("/package.Service/Method").body(Body::empty()).unwrap();
    let response = timeout(DEADLINE, channel.send(request)).await.expect("no answer in time")?;
    let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
    Ok(String::from_utf8(body.to_bytes().to_vec()).unwrap())
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[tokio::test]
async fn speaks_plain_http_within_the_pod_and_names_the_service_without_its_dot() {
    let (listener, port) = listen().await;
    let drain = Drain::new();
    drain.spawn(serve(listener, None, usize::MAX));
    assert_eq!(ask(&plain(port)).await.unwrap(), format!("http://localhost:{port}/package.Service/Method"));
}

#[tokio::test]
async fn a_request_waits_for_a_service_that_is_about_to_start() {
    let (listener, port) = listen().await;
    let address = listener.local_addr().unwrap();
    drop(listener);
    let (channel, drain) = (plain(port), Drain::new());
    let waiting = channel.clone();
    let answered = drain.spawn(async move { ask(&waiting).await });
    while channel.attempts_failed() == 0 {
        tokio::task::yield_now().await;
    }
    drain.spawn(serve(TcpListener::bind(address).await.unwrap(), None, usize::MAX));
    assert!(answered.await.unwrap().is_ok());
}

#[tokio::test]
async fn a_connection_that_has_ended_is_made_anew() {
    let (listener, port) = listen().await;
    let drain = Drain::new();
    drain.spawn(serve(listener, None, 1));
    let channel = plain(port);
    for _ in 0..3 {
        assert!(ask(&channel).await.is_ok());
    }
}

#[tokio::test]
async fn asks_for_the_first_certificate_without_one_and_for_all_else_with_it() {
    let (listener, port) = listen().await;
    let (world, drain) = (World::new(), Drain::new());
    drain.spawn(serve(listener, Some(world.tls(Some(DESTINATION))), 1));
    let identity = secured(port, world.tls(None), DESTINATION, false);
    assert!(ask(&identity).await.is_ok());

    let (publish, credentials) = watch::channel(None);
    let destination = secured(port, Tls::new(world.bundle.clone(), credentials), DESTINATION, true);
    let mut asked = std::pin::pin!(ask(&destination));
    for _ in 0..100 {
        assert!(futures_util::poll!(&mut asked).is_pending(), "asked without a certificate");
        tokio::task::yield_now().await;
    }
    publish.send_replace(Some(world.credentials(WEB)));
    assert_eq!(asked.await.unwrap(), format!("http://localhost:{port}/package.Service/Method of {WEB}"));
}

#[tokio::test]
async fn says_nothing_to_a_server_that_is_somebody_else() {
    let (listener, port) = listen().await;
    let (world, drain) = (World::new(), Drain::new());
    drain.spawn(serve(listener, Some(world.tls(Some(WEB))), 1));
    let channel = secured(port, world.tls(None), DESTINATION, false);
    let refused = channel.inner.connect().await.unwrap_err();
    assert!(matches!(refused, Error::Tls(_, tls::Error::WrongServer { .. })), "{refused:?}");
}

#[test]
fn refuses_an_address_outside_the_pod_without_an_identity_to_expect() {
    let nobody = World::new().tls(None);
    let address = "destination.hawser.svc.cluster.local.:8086".parse().unwrap();
    let refused = Channel::new(address, None, &nobody, Drain::new());
    assert!(matches!(refused, Err(InvalidControl::NoServerIdentity(_))));
}

#[tokio::test(start_paused = true)]
async fn retries_often_at_first_and_rarely_later() {
    let mut retry = Retry::new();
    let began = Instant::now();
    while began.elapsed() < EAGER_FOR {
        let wait = retry.delay();
        assert!(wait <= RETRY_LONGEST_EAGER, "{wait:?} after {:?}", began.elapsed());
        tokio::time::sleep(wait).await;
    }
    assert!(retry.delay() >= RETRY_LONGEST / 2);
    retry.reset();
    assert!(retry.delay() < 2 * RETRY_FIRST);
}
