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
/// A stream that was shorter than the longest wait is a failure though it began: whoever ends each at once is not to be asked ten times a second,
/// by every proxy of the cluster.
const LASTED_MIN: Duration = RETRY_LONGEST;

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
        let mut begun_at = None;
        let ended = once(limits, &mut subscribe, |message| {
            begun_at.get_or_insert_with(Instant::now);
            observe(Event::Message(message));
        })
        .await;
        if begun_at.is_some_and(|begun_at| begun_at.elapsed() >= LASTED_MIN) {
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::convert::Infallible;

    use bytes::{BufMut as _, Bytes, BytesMut};
    use futures_util::{StreamExt as _, stream};
    use http_body::Frame;
    use http_body_util::StreamBody;
    use prost::Message as _;
    use tonic::codec::Codec as _;
    use tonic_prost::ProstCodec;

    use super::*;
    use crate::wire::trust::Bundle;

    /// A stream of one message that ends after `lasts`.
    fn stream(lasts: Duration) -> Response<Streaming<Bundle>> {
        let message = Bundle { pem: "told".into(), sent_at_ms: 1 }.encode_to_vec();
        let mut framed = BytesMut::new();
        framed.put_u8(0);
        framed.put_u32(message.len().try_into().unwrap());
        framed.put_slice(&message);
        let first = stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from(framed)))]);
        let rest = stream::once(sleep(lasts)).filter_map(|()| std::future::ready(None));
        let decoder = ProstCodec::<Bundle, Bundle>::default().decoder();
        let body = Box::pin(StreamBody::new(first.chain(rest)));
        Response::new(Streaming::new_response(decoder, body, http::StatusCode::OK, None, None))
    }

    /// When streams that last so long each were asked for, of those within `time`.
    async fn asked(time: Duration, lasts: impl Fn(usize) -> Duration) -> Vec<Instant> {
        let asked = RefCell::new(Vec::new());
        let subscribe = || {
            asked.borrow_mut().push(Instant::now());
            let lasts = lasts(asked.borrow().len());
            async move { Ok(stream(lasts)) }
        };
        let following = follow(Limits::default(), |_| false, subscribe, |_| {});
        assert!(tokio::time::timeout(time, following).await.is_err());
        asked.into_inner()
    }

    #[tokio::test(start_paused = true)]
    async fn streams_that_end_at_once_are_asked_for_more_and_more_rarely() {
        let asked = asked(Duration::from_secs(600), |_| Duration::ZERO).await;
        assert!((50..150).contains(&asked.len()), "{} times in ten minutes", asked.len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_lasted_is_asked_for_again_at_once() {
        // Six that end at once make the waits long; the seventh lasts.
        let asked =
            asked(Duration::from_secs(120), |number| if number == 7 { LASTED_MIN } else { Duration::ZERO }).await;
        let waited = asked[7] - asked[6] - LASTED_MIN;
        assert!(waited < RETRY_FIRST * 2, "{waited:?}");
        assert!(asked[6] - asked[5] > RETRY_FIRST * 4);
    }
}
