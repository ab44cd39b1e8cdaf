//! Looks at the beginning of a call's response before it is passed on: gRPC says after the messages what became of a call.
//!
//! In: the body of a response whose head says no status. Out: what has been read of it, to be carried first, and the status if that was
//! among it. Waiting is for the first frame only, and what has not come right after it is not waited for: so a stream is held back until its
//! first message, and an answer of one message shows its status.
//!
//! Start at [`peek`].

use std::collections::VecDeque;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Response};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::grpc_status;

/// What is read ahead of a body, in bytes and in frames: as much as is kept of a request, without which there is no asking again.
const BYTES_MAX: usize = 64 * 1024;
const FRAMES_MAX: usize = 64;

/// What was read ahead.
#[derive(Debug, Default)]
pub struct Beginning {
    frames: VecDeque<Result<Frame<Bytes>, hyper::Error>>,
    pub grpc_status: Option<u16>,
}

/// Whether the status of a response comes with the end of its body.
pub fn has_status_at_end<B>(response: &Response<B>) -> bool {
    let is_call = |headers: &HeaderMap| {
        headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
    };
    is_call(response.headers()) && grpc_status(response.headers()).is_none()
}

/// Reads the first frame, and what has come with it.
pub async fn peek(body: &mut Incoming) -> Beginning {
    let mut beginning = Beginning::default();
    let (mut next, mut bytes) = (body.frame().await, 0);
    while let Some(frame) = next {
        if let Ok(frame) = &frame {
            bytes += frame.data_ref().map_or(0, Bytes::len);
            beginning.grpc_status = frame.trailers_ref().and_then(grpc_status);
        }
        let is_last = frame.as_ref().map_or(true, Frame::is_trailers);
        beginning.frames.push_back(frame);
        if is_last || bytes > BYTES_MAX || beginning.frames.len() >= FRAMES_MAX {
            break;
        }
        next = body.frame().now_or_never().flatten();
    }
    beginning
}

impl Beginning {
    pub(super) fn next(&mut self) -> Option<Result<Frame<Bytes>, hyper::Error>> {
        self.frames.pop_front()
    }

    pub(super) fn is_over(&self) -> bool {
        self.frames.is_empty()
    }

    /// The size of all there is, where `rest` follows.
    pub(super) fn size_hint(&self, rest: &Incoming) -> SizeHint {
        let data = self.frames.iter().flatten().filter_map(Frame::data_ref);
        let bytes: usize = data.map(Bytes::len).sum();
        let (rest, bytes) = (rest.size_hint(), bytes as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + bytes);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + bytes);
        }
        hint
    }
}
