//! The sample's gRPC server and client: service `hawser.sample.Echo`, one unary call and one that streams.
//!
//! The messages are written by hand: two fields need no compiler of their own.

use std::time::Duration;

use anyhow::Context as _;
use futures_util::{Stream, StreamExt as _, stream};
use http::uri::PathAndQuery;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::net::drain::Drain;
use crate::net::serve;

const SAY: &str = "/hawser.sample.Echo/Say";
const COUNT: &str = "/hawser.sample.Echo/Count";
/// Between two messages of a stream: long enough that they travel one by one.
const COUNT_PAUSE: Duration = Duration::from_millis(20);
/// Nobody needs more numbers to believe that a stream works.
const COUNT_MAX: u32 = 1_000;

#[derive(Clone, PartialEq, prost::Message)]
struct Say {
    #[prost(string, tag = "1")]
    text: String,
    /// How many messages to stream.
    #[prost(uint32, tag = "2")]
    times: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Said {
    #[prost(string, tag = "1")]
    text: String,
    #[prost(string, tag = "2")]
    server: String,
    /// The `l5d-client-id` header of the request, if there was one.
    #[prost(string, tag = "3")]
    client_id: String,
}

pub(super) fn serve(listener: TcpListener, name: String, drain: &Drain) {
    let draining = drain.clone();
    drain.spawn(serve::serve(listener, super::CONNECTIONS_MAX, drain.clone(), move |stream, peer| {
        let (name, drain) = (name.clone(), draining.clone());
        async move {
            let service = service_fn(|request| answer(name.clone(), request));
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = drain.serve(connection).await {
                tracing::info!(%peer, %error, "a connection ended badly");
            }
        }
    }));
}

async fn answer(name: String, request: http::Request<Incoming>) -> hyper::Result<http::Response<tonic::body::Body>> {
    let said = |request: Request<Say>| {
        let client_id = request.metadata().get("l5d-client-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
        tracing::info!(client_id, "request");
        let said = Said { text: request.get_ref().text.clone(), server: name.clone(), client_id: client_id.into() };
        (said, request.into_inner().times)
    };
    let mut grpc = tonic::server::Grpc::new(ProstCodec::<Said, Say>::default());
    Ok(match request.uri().path() {
        SAY => {
            let say = |request| {
                let (said, _) = said(request);
                async { Ok::<_, Status>(Response::new(said)) }
            };
            grpc.unary(tower::service_fn(say), request).await
        }
        COUNT => {
            let count = |request| {
                let (said, times) = said(request);
                async move { Ok::<_, Status>(Response::new(repeat(said, times.min(COUNT_MAX)))) }
            };
            grpc.server_streaming(tower::service_fn(count), request).await
        }
        path => Status::unimplemented(format!("no method {path}")).into_http(),
    })
}

fn repeat(said: Said, times: u32) -> impl Stream<Item = Result<Said, Status>> {
    stream::iter(0..times).then(move |at| {
        let said = Said { text: format!("{} {at}", said.text), ..said.clone() };
        async move {
            tokio::time::sleep(COUNT_PAUSE).await;
            Ok(said)
        }
    })
}

/// One gRPC connection to a server.
pub(super) struct Client {
    grpc: tonic::client::Grpc<Channel>,
}

impl Client {
    pub(super) async fn connect(authority: &str) -> anyhow::Result<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{authority}"))?;
        let channel = endpoint.connect().await.context("cannot connect")?;
        Ok(Self { grpc: tonic::client::Grpc::new(channel) })
    }

    /// Says `text` once, or has it streamed back `times` times; the answer is JSON.
    pub(super) async fn call(&mut self, text: &str, times: u32) -> anyhow::Result<String> {
        self.grpc.ready().await.context("the connection has ended")?;
        let request = Request::new(Say { text: text.into(), times });
        let codec = ProstCodec::<Say, Said>::default();
        let (said, received) = if times == 0 {
            let said: Response<Said> = self.grpc.unary(request, PathAndQuery::from_static(SAY), codec).await?;
            (said.into_inner(), 1)
        } else {
            let mut stream =
                self.grpc.server_streaming(request, PathAndQuery::from_static(COUNT), codec).await?.into_inner();
            let (mut last, mut received) = (None, 0);
            while let Some(said) = stream.message().await? {
                (last, received) = (Some(said), received + 1);
            }
            anyhow::ensure!(received == times, "the stream ended after {received} of {times} messages");
            (last.context("the stream was empty")?, received)
        };
        let answer = serde_json::json!({
            "server": said.server, "text": said.text, "client_id": said.client_id, "messages": received,
        });
        Ok(answer.to_string())
    }
}
