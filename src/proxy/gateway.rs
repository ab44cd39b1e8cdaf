//! A gateway: takes peers, which may be of other clusters, on to the services that they name.
//!
//! In: a client that policy has let in, and the name it gave in its transport header. Out: its bytes or requests on their way out through
//! this very proxy, balanced, with routes and limits, over new connections on which the gateway proves who it is.
//!
//! ```text
//!   permit ─> within the suffixes? ─> no loop? ─> discover ─> as the app's own would go out
//! ```
//!
//! What comes back to a gateway goes round for ever, so it is refused: by who sends it, and for HTTP by what each gateway on the way wrote
//! into `forwarded`. Nothing is asked of the control plane about a name before its client has been let in.
//!
//! Start at [`Gateway::onward`].

use std::fmt;
use std::sync::{Arc, OnceLock};

use http::header::{FORWARDED, HOST, HeaderValue};
use http::uri::Authority;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use tokio::time::Instant;

use super::discovery::{self, Discovered};
use super::http::{Body, Open};
use super::outbound::{self, Outbound, Requests, Way};
use crate::mesh::name::Suffixes;
use crate::mesh::{Identity, Name, forwarded};
use crate::net::stream::Stream;

/// The port that an authority of HTTP does not name.
const HTTP_PORT: u16 = 80;

/// What this pod does as a gateway. Clones are the same.
#[derive(Clone)]
pub struct Gateway {
    suffixes: Arc<Suffixes>,
    outbound: Arc<Outbound>,
}

/// Where one connection's client wants to be taken.
pub struct Onward {
    gateway: Gateway,
    name: Name,
    own: Identity,
    is_within: bool,
    is_loop: bool,
    /// What is written into requests, made once.
    forwarded: Option<HeaderValue>,
    host: Option<(HeaderValue, Authority)>,
    /// The connection, where it is on record.
    open: Option<Arc<Open>>,
    /// When the connection must have ended, and what it has become.
    ends_at: Option<Instant>,
    /// Once the name is known.
    requests: OnceLock<Arc<Requests>>,
}

/// Why a client is not taken on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("refusing to be a gateway to {0}")]
    Domain(Name),
    #[error(transparent)]
    Discovery(#[from] discovery::Error),
    #[error("refusing to be a gateway to {0}: what comes from this very gateway would go round in circles")]
    Loop(Name),
    #[error(transparent)]
    Outbound(#[from] outbound::Error),
    /// Which the client is told in the same way.
    #[error("the server reset the stream")]
    Reset(#[from] hyper::Error),
}

impl Error {
    /// What a request is answered, whether its connection ends with that, and under which label it is counted.
    pub fn status(&self) -> (StatusCode, bool, &'static str) {
        match self {
            Self::Domain(_) => (StatusCode::NOT_FOUND, false, self.label()),
            Self::Loop(_) => (StatusCode::LOOP_DETECTED, true, self.label()),
            Self::Discovery(error) => {
                let (status, label) = error.status();
                (status, true, label)
            }
            Self::Outbound(_) | Self::Reset(_) => (StatusCode::BAD_GATEWAY, true, self.label()),
        }
    }

    /// The value of the label `error`.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Domain(_) => "gateway domain invalid",
            Self::Loop(_) => "gateway loop",
            Self::Discovery(error) => error.status().1,
            Self::Reset(_) => "i/o",
            Self::Outbound(error) => match outbound::label(error) {
                label @ ("certificate ended" | "failfast" | "i/o" | "loadshed") => label,
                "undiscovered" => "failfast",
                _ => "unexpected",
            },
        }
    }
}

impl Gateway {
    /// None for a pod that is no gateway.
    pub fn new(suffixes: Suffixes, outbound: Arc<Outbound>) -> Option<Self> {
        (!suffixes.is_empty()).then(|| Self { suffixes: Arc::new(suffixes), outbound })
    }

    /// The way for one connection of `client` to this proxy, which is `own`.
    pub fn onward(
        &self,
        name: Name,
        own: Identity,
        client: Option<&Identity>,
        open: Option<Arc<Open>>,
        ends_at: Option<Instant>,
    ) -> Onward {
        let host = if name.port() == HTTP_PORT { name.host().to_owned() } else { name.to_string() };
        let forwarded = HeaderValue::from_str(&forwarded::element(&own, client, &host)).ok();
        let host = HeaderValue::from_str(&host).ok().zip(host.parse().ok());
        let (is_within, is_loop) = (self.suffixes.contain(&name), client == Some(&own));
        Onward {
            gateway: self.clone(),
            name,
            own,
            is_within,
            is_loop,
            forwarded,
            host,
            open,
            ends_at,
            requests: OnceLock::new(),
        }
    }
}

impl Onward {
    /// Answers one request of a client that may be served.
    ///
    /// # Errors
    /// Where it does not go on, or the server reset its stream.
    pub async fn answer(&self, mut request: Box<Request<Body>>) -> Result<Response<Body>, Error> {
        self.check()?;
        if request.headers().get_all(FORWARDED).iter().any(|value| forwarded::has_passed(value.as_bytes(), &self.own)) {
            return Err(Error::Loop(self.name.clone()));
        }
        self.rewrite(&mut request);
        Ok(self.requests().await?.answer(request).await?)
    }

    /// Opens a way on for bytes of a client that may send them.
    ///
    /// # Errors
    /// Where there is none.
    pub async fn open(&self) -> Result<Way, Error> {
        self.check()?;
        Ok(self.gateway.outbound.way(self.discover().await?).await?)
    }

    /// Carries bytes on a way that is open.
    ///
    /// # Errors
    /// Where they could not be carried to their end.
    pub async fn carry(&self, way: Way, client: impl Stream) -> Result<(), outbound::Error> {
        self.gateway.outbound.carry_on(way, client).await
    }

    fn check(&self) -> Result<(), Error> {
        if !self.is_within {
            return Err(Error::Domain(self.name.clone()));
        }
        if self.is_loop {
            return Err(Error::Loop(self.name.clone()));
        }
        Ok(())
    }

    async fn discover(&self) -> Result<Discovered, Error> {
        Ok(self.gateway.outbound.discovery.discover_name(&self.name).await?)
    }

    /// What answers requests. All that come before the name is known wait for that together.
    async fn requests(&self) -> Result<Arc<Requests>, Error> {
        if let Some(requests) = self.requests.get() {
            return Ok(requests.clone());
        }
        let discovered = Box::pin(self.discover()).await?;
        let (outbound, open) = (self.gateway.outbound.clone(), self.open.clone());
        let requests = || Arc::new(Requests::of_client(outbound, discovered, open, self.ends_at));
        Ok(self.requests.get_or_init(requests).clone())
    }

    /// Says in a request that it came by here, and for HTTP/1 who is asked: its client knows the service by another name.
    fn rewrite(&self, request: &mut Request<Body>) {
        if let Some(forwarded) = &self.forwarded {
            request.headers_mut().append(FORWARDED, forwarded.clone());
        }
        let (Some((host, authority)), false) = (&self.host, request.version() == Version::HTTP_2) else { return };
        // What asks for a tunnel names its end, not the service.
        if request.method() == Method::CONNECT {
            return;
        }
        request.headers_mut().insert(HOST, host.clone());
        if request.uri().authority().is_some() {
            let mut parts = std::mem::take(request.uri_mut()).into_parts();
            parts.authority = Some(authority.clone());
            if let Ok(uri) = Uri::from_parts(parts) {
                *request.uri_mut() = uri;
            }
        }
    }
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Gateway").field(&self.suffixes).finish()
    }
}
