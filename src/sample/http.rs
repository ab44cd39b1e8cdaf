//! The sample's HTTP server and client, of HTTP/1.1 and HTTP/2.
//!
//! `/` answers with what it got, as JSON ([`Echo`]); `/healthz` is for probes; `/slow?ms=N` answers late;
//! `/stream?chunks=N&ms=M` sends a chunk every M ms; `/status/N` answers with that status.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};

use crate::net::drain::Drain;
use crate::net::serve;

type Body = BoxBody<Bytes, Infallible>;

/// What the server saw of a request.
#[derive(Debug, Deserialize, Serialize)]
struct Echo {
    server: String,
    /// The address the connection came from, as the app sees it.
    peer: SocketAddr,
    version: String,
    method: String,
    uri: String,
    headers: BTreeMap<String, Vec<String>>,
    body: String,
}

pub(super) fn serve(listener: TcpListener, name: String, drain: &Drain) {
    let draining = drain.clone();
    drain.spawn(serve::serve(listener, super::CONNECTIONS_MAX, drain.clone(), move |stream, peer| {
        let (name, drain) = (name.clone(), draining.clone());
        async move {
            let service = service_fn(move |request| answer(name.clone(), peer, request));
            let builder = auto::Builder::new(TokioExecutor::new());
            if let Err(error) = drain.serve(builder.serve_connection(TokioIo::new(stream), service)).await {
                tracing::info!(%peer, %error, "a connection ended badly");
            }
        }
    }));
}

async fn answer(name: String, peer: SocketAddr, request: Request<Incoming>) -> hyper::Result<Response<Body>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let path = head.uri.path();
    if path != "/healthz" {
        tracing::info!(%peer, method = %head.method, uri = %head.uri, bytes = body.len(), "request");
    }
    let pause = Duration::from_millis(parameter(&head.uri, "ms").unwrap_or(0));
    Ok(match path {
        "/healthz" => response(StatusCode::OK, "ok\n"),
        "/stream" => {
            let chunks = parameter(&head.uri, "chunks").unwrap_or(10);
            let chunks = stream::iter(0..chunks).then(move |chunk| async move {
                tokio::time::sleep(pause).await;
                Ok(Frame::data(Bytes::from(format!("chunk {chunk}\n"))))
            });
            Response::new(BodyExt::boxed(StreamBody::new(chunks)))
        }
        path if path.starts_with("/status/") => {
            let status =
                path.trim_start_matches("/status/").parse().ok().and_then(|code| StatusCode::from_u16(code).ok());
            response(status.unwrap_or(StatusCode::BAD_REQUEST), "as you wish\n")
        }
        _ => {
            tokio::time::sleep(pause).await;
            let echo = Echo {
                server: name,
                peer,
                version: format!("{:?}", head.version),
                method: head.method.to_string(),
                uri: head.uri.to_string(),
                headers: text_of(&head.headers),
                body: String::from_utf8_lossy(&body).into_owned(),
            };
            response(StatusCode::OK, serde_json::to_string(&echo).unwrap_or_else(|error| error.to_string()))
        }
    })
}

fn text_of(headers: &HeaderMap) -> BTreeMap<String, Vec<String>> {
    let mut texts = BTreeMap::<_, Vec<_>>::new();
    for (name, value) in headers {
        texts.entry(name.to_string()).or_default().push(String::from_utf8_lossy(value.as_bytes()).into_owned());
    }
    texts
}

fn parameter(uri: &Uri, name: &str) -> Option<u64> {
    uri.query()?.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)?.1.parse().ok()
}

pub(super) fn response(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()).boxed());
    *response.status_mut() = status;
    response
}

/// One connection to a server.
pub(super) enum Client {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Client {
    pub(super) async fn connect(authority: &str, version: Version) -> anyhow::Result<Self> {
        let stream = TokioIo::new(TcpStream::connect(authority).await.context("cannot connect")?);
        Ok(if version == Version::HTTP_2 {
            let (sender, connection) =
                http2::handshake(TokioExecutor::new(), stream).await.context("cannot start HTTP/2")?;
            super::client::spawn(ended(connection));
            Self::Http2(sender)
        } else {
            let (sender, connection) = http1::handshake(stream).await.context("cannot start HTTP")?;
            super::client::spawn(ended(connection));
            Self::Http1(sender)
        })
    }

    /// Sends one request and reads all of the answer; any status but 2xx is a failure.
    pub(super) async fn call(
        &mut self,
        uri: &Uri,
        headers: &[(HeaderName, HeaderValue)],
        payload: &str,
    ) -> anyhow::Result<String> {
        let method = if payload.is_empty() { "GET" } else { "POST" };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let host = uri.authority().map_or("", |authority| authority.as_str());
        let mut request = Request::builder().method(method);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let body = Full::new(Bytes::copy_from_slice(payload.as_bytes()));
        let response = match self {
            Self::Http1(sender) => {
                sender.ready().await.context("the connection has ended")?;
                sender.send_request(request.uri(path).header(http::header::HOST, host).body(body)?).await
            }
            Self::Http2(sender) => {
                sender.ready().await.context("the connection has ended")?;
                sender.send_request(request.uri(format!("http://{host}{path}")).body(body)?).await
            }
        };
        let response = response.context("cannot send the request")?;
        let status = response.status();
        let body = response.into_body().collect().await.context("cannot read the answer")?.to_bytes();
        let body = String::from_utf8_lossy(&body).into_owned();
        anyhow::ensure!(status.is_success(), "status {status}: {}", body.trim_end());
        Ok(body)
    }
}

async fn ended(connection: impl Future<Output = hyper::Result<()>>) {
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection ended badly");
    }
}
