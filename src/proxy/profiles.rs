//! What the profiles of services say of the requests that come to this pod: which route each falls under, for its metrics and for nothing else.
//!
//! In: a request, which names its service in the header of its client's proxy, or as its host. Out: what counts it, if its service's profile has a
//! route for it. A name is looked up when it is first asked for, and followed for as long as it is used; only so many are, and only below the
//! suffixes that the settings give. What a connection has asked for before it finds by comparing texts: no lock of all, no hash.
//!
//! The first requests of a name wait for its profile, but only so long; after that none does until it is known.
//!
//! Start at [`Lately::counted`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::HOST;
use http::{HeaderMap, Method, Request, Uri};
use tokio::sync::watch;
use tonic::client::GrpcService;
use tonic::codegen::{Body, StdError};
use tonic::{Code, Response, Status, Streaming};

use super::discovery::Routing;
use super::discovery::plan::ProfileRoute;
use super::http::headers;
use super::metrics::{Metrics, Started};
use super::respond::DST_CANONICAL;
use super::subscription::{self, Event, Limits};
use crate::mesh::Name;
use crate::mesh::connection::Direction;
use crate::mesh::name::Suffixes;
use crate::net::drain::Drain;
use crate::wire::destination::destination_client::DestinationClient;
use crate::wire::destination::{DestinationProfile, GetDestination};

/// Names that are followed at a time; each is a stream of the control plane, and who may send requests may name what they like. Whoever comes
/// when there are so many goes uncounted until one has not been used for a while: so there is a bound on how fast they are asked for, too.
const NAMES_MAX: usize = 64;
/// Names that one connection remembers: those of one service, with and without namespace and port.
const LATELY_MAX: usize = 8;
/// Longer ones are no names of services (RFC 1035 section 2.3.4, and a port).
const NAME_MAX: usize = 262;

/// What following profiles takes.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who asks, passed on as it is.
    pub context: String,
    /// The names that are looked up.
    pub suffixes: Suffixes,
    /// How long requests wait for a profile.
    pub initial_timeout: Duration,
    /// How long a name that nobody uses is followed.
    pub idle_timeout: Duration,
    pub limits: Limits,
}

/// The profiles of all names that are in use. Clones are the same.
#[derive(Clone)]
pub struct Profiles(Arc<Shared>);

struct Shared {
    settings: Settings,
    ask: Box<Ask>,
    drain: Drain,
    names: Mutex<HashMap<Name, Arc<Followed>>>,
}

type Ask =
    dyn Fn(GetDestination) -> BoxFuture<'static, Result<Response<Streaming<DestinationProfile>>, Status>> + Send + Sync;

/// The profile of one name.
#[derive(Debug)]
struct Followed {
    /// None before anything has been told.
    told: watch::Sender<Option<Told>>,
    /// Somebody has waited in vain.
    is_late: AtomicBool,
}

/// What a profile says; none where it has no routes, or nobody tells it.
type Told = Option<Arc<Routing>>;

/// What one connection has asked for lately.
#[derive(Debug, Default)]
pub struct Lately(Mutex<Vec<(Bytes, Option<Arc<Followed>>)>>);

impl Profiles {
    /// Asks over `channel`, until the drain starts.
    pub fn new<S>(channel: S, settings: Settings, drain: Drain) -> Self
    where
        S: GrpcService<tonic::body::Body> + Clone + Send + Sync + 'static,
        S::Future: Send,
        S::Error: Into<StdError>,
        S::ResponseBody: Body<Data = Bytes> + Send + 'static,
        <S::ResponseBody as Body>::Error: Into<StdError> + Send,
    {
        let client = DestinationClient::new(channel);
        let ask: Box<Ask> = Box::new(move |question| {
            let mut client = client.clone();
            Box::pin(async move { client.get_profile(question).await })
        });
        Self(Arc::new(Shared { settings, ask, drain, names: Mutex::default() }))
    }

    /// The profile of what a request says it is for; none where that is no name, or none to be looked up, or there are too many.
    fn follow(&self, said: &[u8]) -> Option<Arc<Followed>> {
        let shared = &self.0;
        let name: Name = std::str::from_utf8(said).ok()?.parse().ok()?;
        if !shared.settings.suffixes.contain(&name) {
            return None;
        }
        let mut names = shared.names();
        if let Some(known) = names.get(&name) {
            return Some(known.clone());
        }
        if names.len() >= NAMES_MAX {
            return None;
        }
        let followed = Arc::new(Followed { told: watch::Sender::new(None), is_late: AtomicBool::new(false) });
        names.insert(name.clone(), followed.clone());
        let (shared, following) = (shared.clone(), followed.clone());
        shared.drain.clone().spawn(async move { shared.keep(name, &following).await });
        Some(followed)
    }

    /// How many names are followed.
    pub fn followed(&self) -> usize {
        self.0.names().len()
    }
}

impl Shared {
    fn names(&self) -> MutexGuard<'_, HashMap<Name, Arc<Followed>>> {
        lock(&self.names)
    }

    /// Keeps a profile current until nobody has used it for a while.
    async fn keep(&self, name: Name, followed: &Arc<Followed>) {
        let unused = async {
            loop {
                tokio::time::sleep(self.settings.idle_timeout).await;
                let mut names = self.names();
                // Who holds it took it under this lock. The map and this task do.
                if Arc::strong_count(followed) <= 2 {
                    names.remove(&name);
                    return;
                }
            }
        };
        tokio::select! {
            () = self.drain.started() => {}
            () = self.learn(&name, followed) => {}
            () = unused => {}
        }
    }

    async fn learn(&self, name: &Name, followed: &Followed) {
        let context_token = self.settings.context.clone();
        let question = GetDestination { path: name.to_string(), context_token, ..GetDestination::default() };
        let is_final = |code| matches!(code, Code::InvalidArgument | Code::FailedPrecondition);
        let status = subscription::follow(
            self.settings.limits,
            is_final,
            || (self.ask)(question.clone()),
            |event| match event {
                Event::Message(said) => followed.told.send_modify(|told| {
                    let before = told.as_ref().and_then(Option::as_deref);
                    *told = Some(Routing::of(said, name.port(), Direction::Inbound, before).map(Arc::new));
                }),
                Event::Interrupted(status) => {
                    tracing::debug!(%name, %status, "the stream about a profile is interrupted")
                }
            },
        )
        .await;
        tracing::debug!(%name, %status, "a name has no profile");
        followed.told.send_replace(Some(None));
        std::future::pending().await
    }
}

impl Followed {
    /// What is known, or comes to be known in time.
    async fn told(&self, patience: Duration) -> Told {
        let mut told = self.told.subscribe();
        let is_late = tokio::time::timeout(patience, told.wait_for(Option::is_some)).await.is_err();
        if is_late {
            self.is_late.store(true, Ordering::Relaxed);
        }
        let told = told.borrow();
        told.clone().flatten()
    }
}

impl Lately {
    /// What counts a request of this connection that begins now; none where its service has no route for it.
    pub async fn counted<B>(&self, profiles: &Profiles, request: &Request<B>, metrics: &Metrics) -> Option<Started> {
        let followed = self.followed(profiles, request)?;
        let known = followed.told.borrow().clone();
        let routing = match known {
            Some(told) => told?,
            None if followed.is_late.load(Ordering::Relaxed) => return None,
            None => Box::pin(followed.told(profiles.0.settings.initial_timeout)).await?,
        };
        Some(route(&routing, request.method(), request.uri().path())?.requests.start(metrics))
    }

    fn followed<B>(&self, profiles: &Profiles, request: &Request<B>) -> Option<Arc<Followed>> {
        let said = said(request.headers(), request.uri()).filter(|said| said.len() <= NAME_MAX)?;
        let mut lately = lock(&self.0);
        if let Some((_, followed)) = lately.iter().find(|(known, _)| known.as_ref() == said) {
            return followed.clone();
        }
        let followed = profiles.follow(said);
        if lately.len() >= LATELY_MAX {
            lately.remove(0);
        }
        lately.push((Bytes::copy_from_slice(said), followed.clone()));
        followed
    }
}

/// The first route that the request falls under, of those that somebody wrote down.
fn route<'r>(routing: &'r Routing, method: &Method, path: &str) -> Option<&'r ProfileRoute> {
    routing.written().iter().map(|route| &**route).find(|route| route.condition.matches(method, path))
}

/// What a request says it is for: as its client's proxy has it, as its target, or as its host.
fn said<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> Option<&'a [u8]> {
    let canonical = headers::get(headers, &DST_CANONICAL).map(|said| said.as_bytes());
    let target = || uri.authority().map(|said| said.as_str().as_bytes());
    canonical.or_else(target).or_else(|| headers::get(headers, &HOST).map(|said| said.as_bytes()))
}

impl std::fmt::Debug for Profiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Profiles")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
