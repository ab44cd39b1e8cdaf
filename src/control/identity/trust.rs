//! Tells proxies the bundle, and each change of it, so that no proxy need be restarted to believe a new anchor.
//!
//! In: the bundle as [`super::authority`] reads it from the cluster. Out: a stream for each proxy that asks. A bundle is public: what matters is
//! who says it, which the proxy knows by the identity role's certificate. Nothing is queued: who reads slowly is told the latest.
//!
//! Start at [`Trust::answer`].

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use hyper::body::Incoming;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::limits::Place;
use crate::net::drain::Drain;
use crate::pki::Bundle;
use crate::wire::trust::{Bundle as Told, WatchRequest};

/// The service. Clones are the same.
#[derive(Clone, Debug)]
pub struct Trust {
    bundle: watch::Receiver<Option<Arc<Bundle>>>,
    subscribers: Gauge,
    drain: Drain,
}

impl Trust {
    pub fn new(bundle: watch::Receiver<Option<Arc<Bundle>>>, registry: &mut Registry, drain: Drain) -> Self {
        let subscribers = Gauge::default();
        registry.register(
            "hawser_identity_trust_subscribers",
            "Proxies that are told the bundle live",
            subscribers.clone(),
        );
        Self { bundle, subscribers, drain }
    }

    /// Answers a request whose path is [`crate::wire::trust::WATCH`].
    pub(super) async fn answer(
        &self,
        request: http::Request<Incoming>,
        place: Place,
    ) -> http::Response<tonic::body::Body> {
        let place = Arc::new(place);
        let watch = |asked: Request<WatchRequest>| {
            tracing::debug!(bundle = asked.get_ref().bundle_sha256, "a proxy wants to be told the bundle");
            let stream = self.stream(place.clone());
            async move { Ok::<_, Status>(Response::new(stream)) }
        };
        let mut grpc = tonic::server::Grpc::new(ProstCodec::<Told, WatchRequest>::default());
        grpc.server_streaming(tower::service_fn(watch), request).await
    }

    fn stream(&self, place: Arc<Place>) -> BoxStream<'static, Result<Told, Status>> {
        let mut bundle = self.bundle.clone();
        bundle.mark_changed();
        let state = (bundle, (Counted::new(self.subscribers.clone()), place), self.drain.clone());
        let told = stream::unfold(state, |(mut bundle, counted, drain)| async move {
            loop {
                tokio::select! {
                    changed = bundle.changed() => changed.ok()?,
                    () = drain.started() => return None,
                }
                let latest = bundle.borrow_and_update().clone();
                if let Some(latest) = latest {
                    let told = Told { pem: latest.to_pem(), sent_at_ms: now_ms() };
                    return Some((Ok(told), (bundle, counted, drain)));
                }
            }
        });
        told.boxed()
    }
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// One of the subscribers, for as long as its stream lives.
struct Counted(Gauge);

impl Counted {
    fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
