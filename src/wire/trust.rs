//! Our own API of the identity role, beside Linkerd's: what to believe, told as it changes.
//!
//! ```proto
//! package hawser.identity;
//! service Trust { rpc Watch(WatchRequest) returns (stream Bundle); }
//! ```
//!
//! Proxies ask over mutual TLS and are told the bundle at once, and again each time it changes. Written by hand: three fields need no compiler.

use http::uri::PathAndQuery;
use tonic::codegen::{Body, Bytes, StdError};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

pub const WATCH: &str = "/hawser.identity.Trust/Watch";

#[derive(Clone, PartialEq, prost::Message)]
pub struct WatchRequest {
    /// The SHA-256 of the bundle that the proxy believes now, in hex.
    #[prost(string, tag = "1")]
    pub bundle_sha256: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Bundle {
    #[prost(string, tag = "1")]
    pub pem: String,
    /// The clock of the identity role as it sent this, in milliseconds since 1970.
    #[prost(uint64, tag = "2")]
    pub sent_at_ms: u64,
}

/// Subscribes over `channel`.
///
/// # Errors
/// What the service answers; `UNIMPLEMENTED` from one that is not hawser's.
pub async fn watch<S>(channel: S, request: WatchRequest) -> Result<Response<Streaming<Bundle>>, Status>
where
    S: tonic::client::GrpcService<tonic::body::Body>,
    S::Error: Into<StdError>,
    S::ResponseBody: Body<Data = Bytes> + Send + 'static,
    <S::ResponseBody as Body>::Error: Into<StdError> + Send,
{
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
    let codec = ProstCodec::<WatchRequest, Bundle>::default();
    grpc.server_streaming(Request::new(request), PathAndQuery::from_static(WATCH), codec).await
}
