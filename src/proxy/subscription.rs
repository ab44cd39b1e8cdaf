//! Follows a stream of the control plane for as long as anyone cares, whatever becomes of the control plane.
//!
//! In: how to subscribe. Out: every message, and word of each interruption: what was last known stays known. A stream that is silent
//! for too long is given up, since a peer that vanished looks just like that.
//!
//! Start at [`follow`].

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Code, Response, Status, Streaming};

use crate::net::backoff::Backoff;
use crate::net::fair;

/// A control plane that restarts is back within a second or two, so the first attempts come quickly;
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// and one that is away for long must not find its proxies waiting for minutes.
const RETRY_LONGEST: Duration = Duration::from_secs(10);

/// How long a stream may take for what; none is without limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// Until its first message.
    pub initial: Option<Duration>,
    /// Between messages.
    pub idle: Option<Duration>,
    /// As a whole.
    pub lifetime: Option<Duration>,
}

/// What becomes of a subscription.
#[derive(Debug)]
pub enum Event<T> {
    Message(T),
    /// The stream failed or was cut off, and is being made anew. Ending it in good order, or at its limits, is none.
    Interrupted(Status),
}

/// Subscribes, and again each time the stream ends; returns only with a status that asking again would not change.
pub async fn follow<T, F>(
    limits: Limits,
    is_final: impl Fn(Code) -> bool,
    mut subscribe: impl FnMut() -> F,
    mut observe: impl FnMut(Event<T>),
) -> Status
where
    F: Future<Output = Result<Response<Streaming<T>>, Status>>,
{
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
    loop {
        let mut has_begun = false;
        let ended = once(limits, &mut subscribe, |message| {
            has_begun = true;
            observe(Event::Message(message));
        })
        .await;
        if has_begun {
            backoff.reset();
        }
        if let Err(status) = ended {
            if is_final(status.code()) {
                return status;
            }
            observe(Event::Interrupted(status));
        }
        sleep(backoff.delay()).await;
    }
}

/// Follows one stream to its end.
async fn once<T, F>(limits: Limits, subscribe: &mut impl FnMut() -> F, mut observe: impl FnMut(T)) -> Result<(), Status>
where
    F: Future<Output = Result<Response<Streaming<T>>, Status>>,
{
    let began_at = Instant::now();
    let after = |from: Instant, limit: Option<Duration>| limit.map(|limit| from + limit);
    let end_by = after(began_at, limits.lifetime);
    let silent = || Status::deadline_exceeded("the stream's first message did not come in time");

    let first = async {
        let mut stream = subscribe().await?.into_inner();
        let message = stream.message().await?;
        Ok::<_, Status>((stream, message))
    };
    let first = match limits.initial {
        Some(limit) => fair::timeout(limit, first).await.map_err(|_| silent())?,
        None => first.await,
    };
    let (mut stream, message) = first?;
    match message {
        Some(message) => observe(message),
        None => return Ok(()),
    }
    loop {
        let next_by = [end_by, after(Instant::now(), limits.idle)].into_iter().flatten().min();
        match before(next_by, stream.message()).await {
            Some(Ok(Some(message))) => observe(message),
            Some(Err(status)) => return Err(status),
            Some(Ok(None)) | None => return Ok(()),
        }
    }
}

/// What `work` comes to; none if not by then.
async fn before<F: Future>(deadline: Option<Instant>, work: F) -> Option<F::Output> {
    match deadline {
        Some(deadline) => timeout_at(deadline, work).await.ok(),
        None => Some(work.await),
    }
}
