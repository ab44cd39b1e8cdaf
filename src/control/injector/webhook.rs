//! Answers admission reviews: a pod in, a JSON patch out.
//!
//! In: `AdmissionReview` over HTTPS, from the API server. Out: always `allowed`, with the patch that meshes the pod where it is to be meshed, and
//! a warning where it was to be and cannot. What is not a review gets an HTTP error, and never a panic.
//!
//! Start at [`listen`], then [`Webhook::review`].

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::BytesMut;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ObjectReference;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use rustls::ServerConfig;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::events::Events;
use super::facts::Facts;
use crate::manifest::inject::{self, Mesh, Meshed, Owner, Place, Skip, Surroundings};
use crate::mesh::identity::is_label;
use crate::mesh::workload;
use crate::net::drain::Drain;
use crate::net::listen::listen as bind;
use crate::net::serve::serve_latest;

/// API servers pool their connections, so that there are a few of each; whoever else comes must not keep them away.
const CONNECTIONS_MAX: usize = 1024;
/// A pod is at most 1.5 MiB in etcd; a review has it once, or twice with what surrounds it.
const REVIEW_BYTES_MAX: usize = 4 << 20;
/// Nearly every review is smaller than this. The few that are larger are read so many at a time: anybody may connect, and as many as may be
/// connected must not fill the memory of the injector, without which pods are created unmeshed.
const USUAL_BYTES_MAX: usize = 128 << 10;
const LARGE_MAX: usize = 8;
/// What hyper holds of a connection besides: a head, or a part of a body.
const HEARD_AT_ONCE_MAX: usize = 64 << 10;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Less than the 10 s after which the API server has given up.
const BODY_TIMEOUT: Duration = Duration::from_secs(8);

const CREATED_BY: &str = concat!("hawser/injector ", env!("CARGO_PKG_VERSION"));

/// Linkerd's names, so that its dashboards show ours.
#[derive(Clone, Default)]
pub struct Metrics {
    requests: Counter,
    responses: Family<Outcome, Counter>,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Outcome {
    skip: String,
    skip_reason: String,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "proxy_inject_admission_requests",
            "Admission reviews that the API server asked for",
            metrics.requests.clone(),
        );
        registry.register(
            "proxy_inject_admission_responses",
            "Admission reviews by what came of them",
            metrics.responses.clone(),
        );
        metrics
    }
}

/// What answers reviews.
pub struct Webhook {
    control_namespace: String,
    facts: Facts,
    events: Events,
    metrics: Metrics,
    /// Places for large reviews.
    large: Arc<Semaphore>,
}

/// Why a review is not answered as one.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refused {
    #[error("this is no admission review of a pod: {0}")]
    NotAReview(&'static str),
    /// The failurePolicy of the webhook decides.
    #[error("not ready: {0}")]
    NotReady(String),
}

impl Webhook {
    pub fn new(control_namespace: &str, facts: Facts, events: Events, metrics: Metrics) -> Self {
        let large = Arc::new(Semaphore::new(LARGE_MAX));
        Self { control_namespace: control_namespace.into(), facts, events, metrics, large }
    }

    /// Answers one review.
    ///
    /// # Errors
    /// Where `review` is none, or it cannot be told yet what to do with a pod that may want the mesh.
    pub async fn review(&self, review: &Value) -> Result<Value, Refused> {
        self.metrics.requests.inc();
        let request = review.get("request").ok_or(Refused::NotAReview("there is no request"))?;
        let text = |key: &str| request.get(key).and_then(Value::as_str);
        let uid = text("uid").ok_or(Refused::NotAReview("there is no uid"))?;
        let pod = request.get("object").filter(|pod| pod.is_object()).ok_or(Refused::NotAReview("there is no pod"))?;
        // It becomes part of a path at the API server, and whoever reaches this port may have written it.
        let namespace = text("namespace").filter(|namespace| is_label(namespace));
        let namespace = namespace.ok_or(Refused::NotAReview("there is no namespace"))?;
        if request.pointer("/kind/kind").and_then(Value::as_str) != Some("Pod") {
            return Err(Refused::NotAReview("its kind is another"));
        }
        let owner = Controller::of(pod);
        let outcome = self.mesh(pod, namespace, owner.as_ref().map(|owner| &owner.owner)).await?;
        if request.get("dryRun") != Some(&Value::Bool(true))
            && let Some(owner) = owner
        {
            self.tell(&outcome, owner.reference(namespace));
        }
        let (skip, skip_reason) = match &outcome {
            Ok(_) => ("false", ""),
            Err(skip) => ("true", skip.label()),
        };
        let labels = Outcome { skip: skip.into(), skip_reason: skip_reason.into() };
        self.metrics.responses.get_or_create(&labels).inc();
        Ok(answer(uid, pod, outcome))
    }

    async fn mesh(&self, pod: &Value, namespace: &str, owner: Option<&Owner>) -> Result<Result<Meshed, Skip>, Refused> {
        let annotations = inject::annotations(pod);
        let namespace_annotations = self.facts.namespace(namespace).await.map_err(Refused::NotReady)?;
        if let Err(skip) = inject::wish(&annotations, &namespace_annotations) {
            return Ok(Err(skip));
        }
        let bundle = self.facts.bundle().ok_or_else(|| Refused::NotReady("there is no trust bundle yet".into()))?;
        let values = self.facts.values();
        let mesh = Mesh {
            control_namespace: &self.control_namespace,
            values: &values,
            place: Place::App { bundle: &bundle },
            created_by: CREATED_BY,
        };
        let around = Surroundings { namespace: Some(namespace), namespace_annotations: &namespace_annotations, owner };
        Ok(inject::inject(pod, &mesh, &around))
    }

    fn tell(&self, outcome: &Result<Meshed, Skip>, about: ObjectReference) {
        match outcome {
            Ok(meshed) if meshed.warnings.is_empty() => {
                self.events.record(about, false, "Injected", "linkerd.io/inject is enabled: the pod is meshed");
            }
            Ok(meshed) => self.events.record(about, true, "Injected", &meshed.warnings.join("; ")),
            // As wanted: nothing to tell.
            Err(Skip::NotEnabled | Skip::Disabled(_)) => {}
            Err(skip) => {
                self.events.record(about, true, "InjectionSkipped", &format!("the pod is not meshed: {skip}"));
            }
        }
    }
}

/// The review's other half.
fn answer(uid: &str, pod: &Value, outcome: Result<Meshed, Skip>) -> Value {
    let mut response = json!({"uid": uid, "allowed": true});
    let mut warnings = Vec::new();
    match outcome {
        Ok(meshed) => {
            warnings.extend(meshed.warnings);
            response["patchType"] = "JSONPatch".into();
            response["patch"] = json!(ByteString(patch(pod, &meshed.pod).to_string().into_bytes()));
        }
        Err(Skip::NotEnabled | Skip::Disabled(_)) => {}
        Err(skip) => warnings.push(format!("the pod is not meshed: {skip}")),
    }
    if !warnings.is_empty() {
        let warnings: Vec<String> = warnings.iter().map(|warning| format!("hawser: {warning}")).collect();
        response["warnings"] = json!(warnings);
    }
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
}

/// The parts that meshing changes, each as a whole: short, and plain to whoever reads the audit log.
fn patch(before: &Value, after: &Value) -> Value {
    let mut operations = Vec::new();
    if before.get("metadata").is_none() {
        operations.push(json!({"op": "add", "path": "/metadata", "value": {}}));
    }
    for path in
        ["/metadata/annotations", "/metadata/labels", "/spec/containers", "/spec/initContainers", "/spec/volumes"]
    {
        // `add` replaces what is there.
        if let Some(value) = after.pointer(path).filter(|value| before.pointer(path) != Some(value)) {
            operations.push(json!({"op": "add", "path": path, "value": value}));
        }
    }
    Value::Array(operations)
}

/// What made the pod.
struct Controller<'a> {
    owner: Owner,
    reference: &'a Value,
}

impl<'a> Controller<'a> {
    fn of(pod: &'a Value) -> Option<Self> {
        let references = pod.pointer("/metadata/ownerReferences")?.as_array()?;
        let reference = references.iter().find(|reference| reference.get("controller") == Some(&Value::Bool(true)))?;
        let kind = reference.get("kind")?.as_str()?;
        let name = reference.get("name")?.as_str()?;
        let hash = pod.pointer("/metadata/labels/pod-template-hash").and_then(Value::as_str);
        let (kind, name) = workload::behind(kind, name, hash);
        Some(Self { owner: Owner { kind: kind.to_lowercase(), name: name.into() }, reference })
    }

    /// The object itself, for events: the one whose uid the pod knows.
    fn reference(&self, namespace: &str) -> ObjectReference {
        let text = |key: &str| self.reference.get(key).and_then(Value::as_str).map(str::to_owned);
        ObjectReference {
            api_version: text("apiVersion"),
            kind: text("kind"),
            name: text("name"),
            uid: text("uid"),
            namespace: Some(namespace.into()),
            ..ObjectReference::default()
        }
    }
}

/// Listens, and answers until the drain. Before there is a certificate connections are closed at once.
///
/// # Errors
/// Where the address is taken.
pub async fn listen(
    address: SocketAddr,
    webhook: Arc<Webhook>,
    tls: watch::Receiver<Option<Arc<ServerConfig>>>,
    drain: &Drain,
) -> anyhow::Result<SocketAddr> {
    let listener = bind(address).with_context(|| format!("cannot listen on {address} for reviews"))?;
    let address = listener.local_addr().context("cannot tell the address just bound")?;
    let draining = drain.clone();
    drain.spawn(serve_latest(listener, CONNECTIONS_MAX, drain.clone(), move |stream, peer| {
        let (webhook, drain) = (webhook.clone(), draining.clone());
        let config = tls.borrow().clone();
        async move {
            let Some(config) = config else { return };
            match timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(stream)).await {
                Ok(Ok(stream)) => carry(stream, webhook, drain).await,
                // That a client does not believe us shows first here.
                Ok(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
                Err(_) => tracing::debug!(%peer, "a TLS handshake took too long"),
            }
        }
    }));
    Ok(address)
}

async fn carry(stream: tokio_rustls::server::TlsStream<TcpStream>, webhook: Arc<Webhook>, drain: Drain) {
    let answer = service_fn(move |request| {
        let webhook = webhook.clone();
        async move { Ok::<_, Infallible>(respond(&webhook, request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEARD_AT_ONCE_MAX)
        .serve_connection(TokioIo::new(stream), answer);
    let _ = drain.serve(connection).await;
}

async fn respond(webhook: &Webhook, request: Request<Incoming>) -> Response<Full<Bytes>> {
    if request.method() != Method::POST {
        return text(StatusCode::METHOD_NOT_ALLOWED, "reviews are posted\n");
    }
    let (body, _place) = match timeout(BODY_TIMEOUT, read(request.into_body(), &webhook.large)).await {
        Ok(Some(read)) => read,
        Ok(None) => return text(StatusCode::PAYLOAD_TOO_LARGE, "the review cannot be read, or is too large\n"),
        Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "the review did not come in time\n"),
    };
    let Ok(review) = serde_json::from_slice::<Value>(&body) else {
        return text(StatusCode::BAD_REQUEST, "the review is no JSON\n");
    };
    match webhook.review(&review).await {
        Ok(answer) => {
            let mut response = Response::new(Full::new(Bytes::from(answer.to_string())));
            let json = http::HeaderValue::from_static("application/json");
            response.headers_mut().insert(http::header::CONTENT_TYPE, json);
            response
        }
        Err(error @ Refused::NotAReview(_)) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
        Err(error @ Refused::NotReady(_)) => {
            tracing::warn!(%error, "a pod could not be reviewed");
            text(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n"))
        }
    }
}

/// Reads a body, and with a large one takes a place for as long as that is held.
async fn read<B>(body: B, large: &Arc<Semaphore>) -> Option<(Bytes, Option<OwnedSemaphorePermit>)>
where
    B: hyper::body::Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut body = Limited::new(body, REVIEW_BYTES_MAX);
    let (mut read, mut place) = (BytesMut::new(), None);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.ok()?.into_data() else { continue };
        if place.is_none() && read.len() + data.len() > USUAL_BYTES_MAX {
            place = Some(large.clone().acquire_owned().await.ok()?);
        }
        read.extend_from_slice(&data);
    }
    Some((read.freeze(), place))
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests;
