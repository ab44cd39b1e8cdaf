//! Requests that a gateway takes on, instead of to an app.
//!
//! In: a request that policy permits, and where its client wants to be taken. Out: the response that came back. Who the client says it is
//! goes no further: whoever serves the request sees the gateway, which made the connection.

use std::sync::Arc;

use http::{Request, Response, StatusCode};
use tokio::sync::OwnedSemaphorePermit;

use super::body::{Body, Ends, Kept, grpc_status};
use super::{CLIENT_IP, Failed, Session, filter, forget_client_id};
use crate::mesh::policy::Permit;
use crate::proxy::access_log::Entry;
use crate::proxy::gateway::Onward;
use crate::proxy::metrics::Started;
use crate::proxy::orig_proto::{self, OrigProto};
use crate::proxy::respond::Asked;

/// A response that came back, what its request was before HTTP/2, and its place among those under way.
pub(super) type Returned = (Response<Body>, Option<OrigProto>, OwnedSemaphorePermit);

impl Session {
    /// Takes a request on.
    pub(super) async fn pass_on(
        &self,
        onward: &Onward,
        permit: &Permit,
        mut request: Box<Request<Body>>,
    ) -> Result<Returned, Failed> {
        let place = self.http.in_flight.clone().try_acquire_owned().map_err(|_| Failed::InFlight)?;
        filter(permit, &mut request)?;
        forget_client_id(request.headers_mut());
        request.headers_mut().remove(CLIENT_IP);
        let was = orig_proto::downgrade_request(&mut request);
        Ok((onward.answer(request).await?, was, place))
    }

    /// The response for the client.
    pub(super) fn pass_back(
        self: &Arc<Self>,
        (mut response, was, place): Returned,
        asked: Asked,
        started: Started,
        mut access: Option<Box<Entry>>,
    ) -> Response<Body> {
        let status = response.status();
        if let Some(access) = &mut access {
            access.answered(status);
        }
        match was {
            Some(_) => orig_proto::upgrade_response(&mut response),
            // A switch of protocols is said in headers of the connection.
            None if status == StatusCode::SWITCHING_PROTOCOLS => {}
            None => orig_proto::strip_connection_headers(response.headers_mut()),
        }
        let mut place = Some(place);
        let ends = Ends {
            started: Some(started),
            status: status.as_u16(),
            is_grpc: asked.is_grpc(),
            grpc_status: grpc_status(response.headers()),
            access,
            kept: Kept::until(move |_| drop(place.take())),
        };
        response.map(|body| Body::returned(body, ends))
    }
}
