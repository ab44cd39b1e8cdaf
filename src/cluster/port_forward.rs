//! Reaches a port of a pod through the API server: bytes, one HTTP request, or a TLS handshake.
//!
//! In: a client, a pod and a port. Out: what the pod's own listener answered, or an [`Error`] that says who refused: the
//! API server, the kubelet, or the listener. Whoever may `create pods/portforward` in a namespace can ask; nothing has to
//! be exposed.
//!
//! Start at [`open`]. [`body_at`] and [`handshake`] are made of it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, Either, FutureExt as _, select};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::io::DuplexStream;

/// For one question to one pod, from opening the stream to the last byte. A proxy answers in milliseconds; one that does not
/// in this time is not well, and others wait for their turn.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// What is read of one answer. A full connection table of 21 000 entries is about 20 MB.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Which port of which pod.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PodPort {
    pub namespace: String,
    pub pod: String,
    pub port: u16,
}

/// Why a pod's port gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the API server did not forward to port {} of pod {}/{}", to.port, to.namespace, to.pod)]
    Forward { to: PodPort, source: kube::Error },
    /// The kubelet's words, such as that nothing listens there.
    #[error("cannot connect to port {} of pod {}/{}: {words}", to.port, to.namespace, to.pod)]
    Connect { to: PodPort, words: String },
    #[error("pod {}/{} did not answer on port {} within {} s", to.namespace, to.pod, to.port, ANSWER_TIMEOUT.as_secs())]
    Timeout { to: PodPort },
    #[error("pod {}/{} broke off the answer on port {}", to.namespace, to.pod, to.port)]
    Http { to: PodPort, source: hyper::Error },
    #[error("cannot read the answer of pod {}/{} on port {}", to.namespace, to.pod, to.port)]
    Body { to: PodPort, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("pod {}/{} answered {status} to `GET {path}`", to.namespace, to.pod)]
    Status { to: PodPort, path: String, status: http::StatusCode },
    #[error("the TLS handshake with port {} of pod {}/{} failed", to.port, to.namespace, to.pod)]
    Tls { to: PodPort, source: std::io::Error },
    #[error("{name:?} is not a name a server can be asked for")]
    ServerName { name: String, source: InvalidDnsNameError },
}

/// A byte stream to a port of a pod, and what the kubelet says when it cannot connect.
pub struct Forward {
    pub stream: DuplexStream,
    /// Resolves to the kubelet's words where the port does not answer, to none where the stream merely ended.
    pub refusal: BoxFuture<'static, Option<String>>,
}

/// Opens a stream to a port of a pod. That it opens does not mean that anything listens: see [`Forward::refusal`].
///
/// # Errors
/// [`Error::Forward`] where the API server does not let us, or has no such pod.
pub async fn open(client: &kube::Client, to: &PodPort) -> Result<Forward, Error> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &to.namespace);
    let mut forwarder =
        pods.portforward(&to.pod, &[to.port]).await.map_err(|source| Error::Forward { to: to.clone(), source })?;
    // Both are there exactly once, for the port just asked for.
    match (forwarder.take_stream(to.port), forwarder.take_error(to.port)) {
        (Some(stream), Some(refusal)) => Ok(Forward { stream, refusal: refusal.boxed() }),
        _ => Err(Error::Connect { to: to.clone(), words: "the port was not forwarded".into() }),
    }
}

/// The body of what a pod answers to `GET path`, by HTTP/1.1.
///
/// # Errors
/// See [`Error`]; any status but 200 is one.
pub async fn body_at(client: &kube::Client, to: &PodPort, path: &str) -> Result<Bytes, Error> {
    within_time(to, async {
        let Forward { stream, refusal } = open(client, to).await?;
        or_refusal(to, refusal, exchange(stream, to, path)).await
    })
    .await
}

async fn exchange(stream: DuplexStream, to: &PodPort, path: &str) -> Result<Bytes, Error> {
    let http = |source| Error::Http { to: to.clone(), source };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await.map_err(http)?;
    let exchange = async {
        let request = http::Request::get(path)
            // What a person's browser would say, and no name that a policy could match by accident.
            .header(http::header::HOST, format!("localhost:{}", to.port))
            .header(http::header::CONNECTION, "close")
            .body(Empty::new())
            .map_err(|error| Error::Body { to: to.clone(), source: error.into() })?;
        let response = sender.send_request(request).await.map_err(http)?;
        if response.status() != http::StatusCode::OK {
            return Err(Error::Status { to: to.clone(), path: path.to_owned(), status: response.status() });
        }
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        body.map(http_body_util::Collected::to_bytes).map_err(|source| Error::Body { to: to.clone(), source })
    };
    match select(Box::pin(exchange), Box::pin(connection)).await {
        Either::Left((answer, _)) => answer,
        // The connection has ended, and all of the answer that will ever come is there.
        Either::Right((_, exchange)) => exchange.await,
    }
}

/// What a TLS server showed in a handshake, unverified but for one thing: it has the key of the first certificate.
#[derive(Clone, Debug)]
pub struct Handshake {
    /// As sent, the server's own first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Such as `TLSv1.3`.
    pub version: String,
    /// Such as `TLS13_AES_128_GCM_SHA256`.
    pub cipher: String,
    /// The key-exchange group, such as `X25519MLKEM768`.
    pub group: String,
}

/// Makes a TLS handshake with a port of a pod, asking for `server_name`, and says what was shown.
///
/// Whether the chain is to be believed is for the caller to judge: one that is expired is to be looked at too.
///
/// # Errors
/// See [`Error`]; among them that the server cannot sign with the key of its certificate.
pub async fn handshake(client: &kube::Client, to: &PodPort, server_name: &str) -> Result<Handshake, Error> {
    let name = ServerName::try_from(server_name.to_owned())
        .map_err(|source| Error::ServerName { name: server_name.to_owned(), source })?;
    within_time(to, async {
        let Forward { stream, refusal } = open(client, to).await?;
        or_refusal(to, refusal, shake_hands(stream, to, name)).await
    })
    .await
}

async fn shake_hands(stream: DuplexStream, to: &PodPort, name: ServerName<'static>) -> Result<Handshake, Error> {
    let tls = |source| Error::Tls { to: to.clone(), source };
    let seen = Arc::new(Seen {
        provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
        chain: Mutex::new(Vec::new()),
    });
    let config = rustls::ClientConfig::builder_with_provider(seen.provider.clone())
        // Webhooks are served by whatever TLS the API server takes; the mesh's 1.3 is preferred by both.
        .with_safe_default_protocol_versions()
        .map_err(|error| tls(std::io::Error::other(error)))?
        .dangerous()
        .with_custom_certificate_verifier(seen.clone())
        .with_no_client_auth();
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(tls)?;
    let (_, session) = stream.get_ref();
    let chain = seen.chain.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(Handshake {
        chain,
        version: session.protocol_version().map(|version| format!("{version:?}").replace('_', ".")).unwrap_or_default(),
        cipher: session.negotiated_cipher_suite().map(|suite| format!("{:?}", suite.suite())).unwrap_or_default(),
        group: session.negotiated_key_exchange_group().map(|group| format!("{:?}", group.name())).unwrap_or_default(),
    })
}

/// Accepts any chain and keeps it; the signature over the handshake is verified, so that a stolen certificate without
/// its key is no answer.
#[derive(Debug)]
struct Seen {
    provider: Arc<CryptoProvider>,
    chain: Mutex<Vec<CertificateDer<'static>>>,
}

impl ServerCertVerifier for Seen {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain = std::iter::once(leaf).chain(intermediates).map(|certificate| certificate.clone().into_owned());
        *self.chain.lock().unwrap_or_else(PoisonError::into_inner) = chain.collect();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            leaf,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            leaf,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

async fn within_time<T>(to: &PodPort, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(ANSWER_TIMEOUT, work).await.unwrap_or_else(|_| Err(Error::Timeout { to: to.clone() }))
}

/// The result of `work`; where the kubelet could not connect, its words rather than that the stream ended.
async fn or_refusal<T>(
    to: &PodPort,
    refusal: BoxFuture<'static, Option<String>>,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match select(Box::pin(work), refusal).await {
        Either::Left((Ok(answer), _)) => Ok(answer),
        // The words travel beside the end of the stream; the sender is dropped with it, so that this does not wait.
        Either::Left((Err(error), refusal)) => Err(refusal.await.map_or(error, |words| connect_error(to, &words))),
        Either::Right((Some(words), _)) => Err(connect_error(to, &words)),
        Either::Right((None, work)) => work.await,
    }
}

/// The kubelet tells of its ways through namespaces and address families; what matters comes last.
fn connect_error(to: &PodPort, words: &str) -> Error {
    let words = words.trim();
    let cause = if words.contains("connection refused") {
        "nothing listens there"
    } else {
        words.rsplit_once("failed to connect to ").map_or(words, |(_, cause)| cause)
    };
    Error::Connect { to: to.clone(), words: cause.to_owned() }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn to() -> PodPort {
        PodPort { namespace: "shop".into(), pod: "web".into(), port: 4191 }
    }

    /// A pod that answers `response` to whatever it is sent.
    fn pod(response: &'static [u8]) -> (DuplexStream, impl Future<Output = ()>) {
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let serve = async move {
            let mut request = [0; 4096];
            let _ = theirs.read(&mut request).await;
            let _ = theirs.write_all(response).await;
        };
        (ours, serve)
    }

    #[tokio::test]
    async fn reads_the_body_of_an_answer() {
        let (stream, serve) = pod(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi");
        let to = to();
        let (answer, ()) = tokio::join!(exchange(stream, &to, "/connections"), serve);
        assert_eq!(answer.unwrap(), "hi");
    }

    #[tokio::test]
    async fn any_other_status_is_an_error_that_names_it() {
        let (stream, serve) = pod(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
        let to = to();
        let (answer, ()) = tokio::join!(exchange(stream, &to, "/connections"), serve);
        assert_eq!(answer.unwrap_err().to_string(), "pod shop/web answered 404 Not Found to `GET /connections`");
    }

    #[tokio::test]
    async fn half_an_answer_is_an_error() {
        let (stream, serve) = pod(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhi");
        let to = to();
        let (answer, ()) = tokio::join!(exchange(stream, &to, "/"), serve);
        assert!(matches!(answer, Err(Error::Body { .. })));
    }

    #[tokio::test]
    async fn bytes_that_are_no_tls_are_an_error() {
        let (stream, serve) = pod(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        let name = ServerName::try_from("web.shop".to_owned()).unwrap();
        let to = to();
        let (shown, ()) = tokio::join!(shake_hands(stream, &to, name), serve);
        assert!(matches!(shown, Err(Error::Tls { .. })));
    }

    #[tokio::test]
    async fn the_words_of_the_kubelet_go_before_the_end_of_the_stream() {
        let refusal = std::future::ready(Some(
            "error forwarding port 4191 to pod 0af1, uid : failed to execute portforward in network namespace \
             \"/run/netns/x\": failed to connect to localhost:4191 inside namespace \"0af1\": connect: connection refused\n"
                .to_owned(),
        ));
        let to = to();
        let ended = async { Err::<(), _>(Error::Timeout { to: to.clone() }) };
        let error = or_refusal(&to, refusal.boxed(), ended).await.unwrap_err();
        assert_eq!(error.to_string(), "cannot connect to port 4191 of pod shop/web: nothing listens there");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_never_answers_is_given_up() {
        let waited = within_time(&to(), std::future::pending::<Result<(), _>>()).await;
        assert!(matches!(waited, Err(Error::Timeout { .. })));
    }
}
