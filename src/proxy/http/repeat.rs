//! Requests that can be sent again: a copy of the head, and of the body as much as has passed.
//!
//! In: a request on its way. Out: the same request, and what it takes to send it once more should it turn out that no server has acted on
//! it. A body that has grown too long to be kept goes on, and cannot be repeated.
//!
//! Start at [`keep`]. Who keeps a copy decides what makes it right to send it.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue, UPGRADE};
use http::{HeaderMap, Method, Request, Response};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

use super::Body;
use super::headers;

/// In a response that a peer's proxy gave in its app's place: why the request can go to another endpoint. No app has a say in it, and none
/// sees it.
pub const UNSERVED: HeaderName = HeaderName::from_static("hawser-unserved");

/// What is kept of a body, in bytes. Nearly all calls are shorter, and thousands under way at a time fit into a proxy's memory.
const KEPT_MAX: usize = 64 * 1024;
/// Shorter frames are copied: as slices each could hold on to a whole read buffer, and a client that sends single bytes to a great many.
const SLICE_MIN: usize = 4096;
/// What a frame counts for at least: its place in the record.
const FRAME_MIN: usize = 64;

/// Why an app has not served a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unserved {
    /// It has seen nothing of it.
    Unsent,
    /// It closed the connection without a word, and the request does the same twice as once (RFC 9110 section 9.2.2).
    Unanswered,
}

/// What it takes to send a request once more.
#[derive(Debug)]
pub struct Again {
    head: Request<()>,
    body: Option<Arc<Mutex<Record<Incoming>>>>,
}

/// A body that can be carried again from its beginning.
#[derive(Debug)]
pub struct Recorded<B = Incoming> {
    record: Arc<Mutex<Record<B>>>,
    /// Which carrying this is; only the latest gets anything.
    turn: u32,
    /// How many frames of the record this one has carried.
    at: usize,
}

/// What has passed of a body, and what is to come.
#[derive(Debug)]
struct Record<B> {
    frames: Vec<Carried>,
    length: usize,
    rest: B,
    turn: u32,
    is_kept: bool,
    has_ended: bool,
}

#[derive(Clone, Debug)]
enum Carried {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl Unserved {
    pub fn header(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Unsent => "unsent",
            Self::Unanswered => "unanswered",
        })
    }

    /// What a peer's proxy says of its app.
    pub fn of<B>(response: &Response<B>) -> Option<Self> {
        match headers::get(response.headers(), &UNSERVED)?.as_bytes() {
            b"unsent" => Some(Self::Unsent),
            b"unanswered" => Some(Self::Unanswered),
            _ => None,
        }
    }
}

/// The same request, and what it takes to repeat it. None where it would become something else than a request.
pub fn keep(mut request: Box<Request<Body>>) -> (Box<Request<Body>>, Option<Again>) {
    if request.method() == Method::CONNECT || headers::has(request.headers(), &UPGRADE) {
        return (request, None);
    }
    let head = head(&request, ());
    let record = std::mem::take(request.body_mut()).into_incoming().map(|incoming| {
        let recorded = Recorded::new(incoming);
        let record = recorded.record.clone();
        *request.body_mut() = Body::from(recorded);
        record
    });
    (request, Some(Again { head, body: record }))
}

impl Again {
    /// The request once more, in the place of the one before. None where too much of its body has passed, or its client broke off.
    pub fn request(&self) -> Option<Box<Request<Body>>> {
        let body = match &self.body {
            None => Body::default(),
            Some(record) => Body::from(Recorded::again(record)?),
        };
        Some(Box::new(head(&self.head, body)))
    }

    /// Whether all of the body that has passed is kept, and is no more than so many bytes.
    pub fn has_kept_within(&self, body_max: usize) -> bool {
        self.body.as_ref().is_none_or(|record| {
            let record = lock(record);
            record.is_kept && record.bytes() <= body_max
        })
    }

    /// Whether all of the body has passed, once.
    pub fn has_passed(&self) -> bool {
        self.body.as_ref().is_none_or(|record| {
            let record = lock(record);
            record.has_ended || http_body::Body::is_end_stream(&record.rest)
        })
    }
}

/// Nobody will repeat the body: what has passed is let go of as soon as the last carrying has it.
impl Drop for Again {
    fn drop(&mut self) {
        if let Some(record) = &self.body {
            lock(record).is_kept = false;
        }
    }
}

fn head<A, B>(of: &Request<A>, body: B) -> Request<B> {
    let mut copy = Request::new(body);
    *copy.method_mut() = of.method().clone();
    *copy.uri_mut() = of.uri().clone();
    *copy.version_mut() = of.version();
    *copy.headers_mut() = of.headers().clone();
    copy
}

impl<B> Recorded<B> {
    fn new(rest: B) -> Self {
        let record = Record { frames: Vec::new(), length: 0, rest, turn: 0, is_kept: true, has_ended: false };
        Self { record: Arc::new(Mutex::new(record)), turn: 0, at: 0 }
    }

    /// The body once more from its beginning, if it has been kept.
    fn again(record: &Arc<Mutex<Record<B>>>) -> Option<Self> {
        let turn = {
            let mut record = lock(record);
            if !record.is_kept {
                return None;
            }
            record.turn += 1;
            record.turn
        };
        Some(Self { record: record.clone(), turn, at: 0 })
    }
}

impl<B: http_body::Body<Data = Bytes> + Unpin> http_body::Body for Recorded<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        let record = &mut *lock(&this.record);
        if record.turn != this.turn {
            return Poll::Ready(None);
        }
        if let Some(carried) = record.frames.get(this.at) {
            this.at += 1;
            return Poll::Ready(Some(Ok(carried.clone().into())));
        }
        if !record.is_kept {
            record.frames = Vec::new();
            this.at = 0;
        }
        let frame = ready!(Pin::new(&mut record.rest).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => record.keep(frame),
            Some(Err(_)) => record.is_kept = false,
            None => record.has_ended = true,
        }
        this.at = record.frames.len();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let record = lock(&self.record);
        record.turn != self.turn || (self.at >= record.frames.len() && record.rest.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let record = lock(&self.record);
        let data = |carried: &Carried| if let Carried::Data(data) = carried { data.len() as u64 } else { 0 };
        let kept: u64 = record.frames.iter().skip(self.at).map(data).sum();
        let rest = record.rest.size_hint();
        let mut whole = SizeHint::new();
        whole.set_lower(kept + rest.lower());
        if let Some(upper) = rest.upper() {
            whole.set_upper(kept + upper);
        }
        whole
    }
}

impl<B> Record<B> {
    /// The data that is kept.
    fn bytes(&self) -> usize {
        let data = |carried: &Carried| if let Carried::Data(data) = carried { data.len() } else { 0 };
        self.frames.iter().map(data).sum()
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        if !self.is_kept {
            return;
        }
        if let Some(data) = frame.data_ref() {
            self.length += data.len().max(FRAME_MIN);
            let data = if data.len() < SLICE_MIN { Bytes::copy_from_slice(data) } else { data.clone() };
            self.frames.push(Carried::Data(data));
        } else if let Some(trailers) = frame.trailers_ref() {
            self.frames.push(Carried::Trailers(trailers.clone()));
        }
        if self.length > KEPT_MAX {
            self.is_kept = false;
            self.frames = Vec::new();
        }
    }
}

impl From<Carried> for Frame<Bytes> {
    fn from(carried: Carried) -> Self {
        match carried {
            Carried::Data(data) => Self::data(data),
            Carried::Trailers(trailers) => Self::trailers(trailers),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{FutureExt as _, stream};
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    fn body(
        frames: &[&'static str],
    ) -> Recorded<impl http_body::Body<Data = Bytes, Error = Infallible> + Unpin + use<>> {
        let frames: Vec<_> = frames.iter().map(|data| Ok(Frame::data(Bytes::from_static(data.as_bytes())))).collect();
        Recorded::new(StreamBody::new(stream::iter(frames)))
    }

    async fn next<B>(body: &mut Recorded<B>) -> Option<Bytes>
    where
        B: http_body::Body<Data = Bytes, Error = Infallible> + Unpin,
    {
        body.frame().await.map(|frame| frame.unwrap().into_data().unwrap())
    }

    #[tokio::test]
    async fn a_body_of_which_a_part_has_passed_begins_again_and_goes_on() {
        let mut first = body(&["one ", "two ", "three"]);
        assert_eq!(next(&mut first).await.unwrap(), "one ");
        let mut second = Recorded::again(&first.record).unwrap();
        assert_eq!(next(&mut second).await.unwrap(), "one ");
        let third = Recorded::again(&first.record).unwrap();
        assert_eq!(third.collect().now_or_never().unwrap().unwrap().to_bytes(), "one two three");
        assert_eq!(
            (next(&mut first).await, next(&mut second).await),
            (None, None),
            "what came before gets nothing more"
        );
    }

    #[tokio::test]
    async fn what_is_too_long_passes_whole_but_once() {
        const CHUNK: &str = const { str_of_4096() };
        let mut long = body(&[CHUNK; 17]);
        for _ in 0..16 {
            next(&mut long).await.unwrap();
        }
        assert!(lock(&long.record).is_kept);
        assert_eq!(next(&mut long).await.unwrap().len(), CHUNK.len());
        assert!(Recorded::again(&long.record).is_none());
        assert!(lock(&long.record).frames.is_empty() && next(&mut long).await.is_none());
    }

    const fn str_of_4096() -> &'static str {
        match std::str::from_utf8(&[b'x'; 4096]) {
            Ok(text) => text,
            Err(_) => unreachable!(),
        }
    }

    #[tokio::test]
    async fn frames_of_single_bytes_count_for_what_they_occupy() {
        let mut dribble = body(&["x"; KEPT_MAX / FRAME_MIN + 1]);
        while next(&mut dribble).await.is_some() {}
        assert!(Recorded::again(&dribble.record).is_none());
    }

    #[tokio::test]
    async fn a_body_that_nobody_will_repeat_is_let_go_of_once_it_has_passed() {
        let mut first = body(&["one ", "two ", "three"]);
        next(&mut first).await;
        let mut second = Recorded::again(&first.record).unwrap();
        lock(&first.record).is_kept = false;
        assert_eq!(next(&mut second).await.unwrap(), "one ");
        assert_eq!(next(&mut second).await.unwrap(), "two ");
        assert!(lock(&second.record).frames.is_empty());
        assert_eq!(next(&mut second).await.unwrap(), "three");
    }

    #[test]
    fn requests_that_become_something_else_are_not_kept() {
        let kept = |request: http::request::Builder| keep(Box::new(request.body(Body::default()).unwrap()));
        assert!(kept(Request::get("/").header("upgrade", "websocket")).1.is_none());
        assert!(kept(Request::connect("web:80")).1.is_none());
        let (request, again) = kept(Request::post("/buy").header("x", "y"));
        let again = again.unwrap().request().unwrap();
        assert_eq!(
            (again.method(), again.uri(), again.headers()),
            (request.method(), request.uri(), request.headers())
        );
    }
}
