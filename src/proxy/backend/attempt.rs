//! One attempt to have a request answered by one endpoint: within its time limits, and where it fails, what may follow.
//!
//! Start at [`within`].

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::Error;
use crate::mesh::limits::{Limits, Retry, Timeouts};
use crate::proxy::client;
use crate::proxy::client::http::{Answered, Client, Failed};
use crate::proxy::http::peek::{self, Beginning};
use crate::proxy::http::repeat::Again;
use crate::proxy::http::{Body, Late, cause, reset};
use crate::proxy::metrics::{Outcome, Started};

/// How often it is looked whether a request has been sent in full, in parts of the limit that counts from then.
const LOOKS: u32 = 8;
/// What a lost connection amounts to.
const BAD_GATEWAY: u16 = 502;
const UNAVAILABLE: u16 = 14;

/// A response, as far as it has been read.
pub(super) struct Head {
    pub response: Response<Incoming>,
    /// What has been read of its body.
    pub beginning: Option<Box<Beginning>>,
    pub started: Started,
    /// Since when the request has been there in full, where the limits need to know.
    pub whole_at: Option<Instant>,
}

/// Why an attempt brought no response.
pub(super) enum Broken {
    /// No byte was sent, so the request may go elsewhere.
    Unsent { request: Box<Request<Body>>, error: Arc<client::Error> },
    /// The server had some of it, and may have acted on it.
    Begun(Begun),
}

/// Why the server that had a request, or a part of it, gave no response.
pub(super) enum Begun {
    Lost(hyper::Error),
    /// It took longer than all attempts together, or only longer than this one may.
    Late {
        late: Late,
        may_retry: bool,
    },
}

impl Begun {
    /// The request for another endpoint, and why, where the server said that it has done nothing: by the one reset that means so
    /// (RFC 9113 section 8.7).
    pub(super) fn refused(
        self,
        address: SocketAddr,
        again: Option<&Again>,
    ) -> Result<(Box<Request<Body>>, Arc<client::Error>), Self> {
        match self {
            Self::Lost(source) if reset(&source) == Some(h2::Reason::REFUSED_STREAM) => {
                match again.and_then(Again::request) {
                    Some(request) => Ok((request, Arc::new(client::Error::Http { address, source }))),
                    None => Err(Self::Lost(source)),
                }
            }
            begun => Err(begun),
        }
    }

    /// Whether the request is asked again for this.
    pub(super) fn is_retried(&self, retry: &Retry) -> bool {
        match self {
            // What is asked again when a gateway says so is asked again when there is none to say so.
            Self::Lost(_) => retry.is_wanted(BAD_GATEWAY, Some(UNAVAILABLE)),
            Self::Late { may_retry, .. } => *may_retry,
        }
    }

    /// As the metrics of profiles' routes have it.
    pub(super) fn outcome(&self) -> Outcome {
        let error = match self {
            Self::Lost(source) => cause(source).into(),
            Self::Late { .. } => "timeout".into(),
        };
        Outcome { status: 0, grpc_status: None, error }
    }

    pub(super) fn at(self, address: SocketAddr) -> Error {
        match self {
            Self::Lost(source) => Error::Lost { address, source },
            Self::Late { late, .. } => Error::Late { address, late },
        }
    }
}

impl From<Failed> for Broken {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Unsent { request, error } => Self::Unsent { request, error },
            Failed::Lost(source) => Self::Begun(Begun::Lost(source)),
        }
    }
}

/// Sends a request, and waits for the head of its response; where calls are judged, for what says how a call ended too.
pub(super) async fn send(
    client: &Arc<Client>,
    request: Box<Request<Body>>,
    judges_calls: bool,
) -> Result<Head, Failed> {
    let Answered { mut response, started } = client.send(request).await?;
    let beginning = if judges_calls && peek::has_status_at_end(&response) {
        Some(Box::new(peek::peek(response.body_mut()).await))
    } else {
        None
    };
    Ok(Head { response, beginning, started, whole_at: None })
}

/// Waits for the head of a response within the limits of one attempt.
pub(super) async fn within(
    limits: &Limits,
    again: Option<&Again>,
    sent: Pin<&mut impl Future<Output = Result<Head, Failed>>>,
) -> Result<Head, Broken> {
    let Timeouts { request: _, response, idle } = limits.timeouts;
    let attempt = limits.retry.as_ref().and_then(|retry| retry.timeout);
    if (response, idle, attempt) == (None, None, None) {
        return Ok(sent.await?);
    }
    let whole_at = OnceLock::new();
    let answered_late = async {
        let limits = [response.map(|limit| (limit, Late::Response)), idle.map(|limit| (limit, Late::Idle))];
        let Some((limit, late)) = limits.into_iter().flatten().min_by_key(|(limit, _)| *limit) else {
            return std::future::pending().await;
        };
        // The server's time is what counts, not that of a client which is still sending.
        while again.is_some_and(|again| !again.has_passed()) {
            tokio::time::sleep(limit / LOOKS).await;
        }
        whole_at.get_or_init(Instant::now);
        tokio::time::sleep(limit).await;
        late
    };
    let given_up = async {
        match attempt {
            Some(attempt) => tokio::time::sleep(attempt).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        // A quick server answers before anybody has looked.
        sent = sent => {
            let has_passed = || again.is_none_or(Again::has_passed).then(Instant::now);
            Ok(Head { whole_at: whole_at.get().copied().or_else(has_passed), ..sent? })
        }
        late = answered_late => Err(Broken::Begun(Begun::Late { late, may_retry: false })),
        () = given_up => Err(Broken::Begun(Begun::Late { late: Late::Response, may_retry: true })),
    }
}
