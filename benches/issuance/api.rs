//! An API server that knows whose token it is by reading it: `of.NAMESPACE.ACCOUNT_…`. In plaintext, in this process.

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

pub(crate) async fn start() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    super::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            let connection =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(review));
            super::spawn(async move { connection.await.is_ok() });
        }
    });
    format!("http://{address}")
}

async fn review(request: http::Request<Incoming>) -> Result<http::Response<Full<Bytes>>, hyper::Error> {
    let asked = request.into_body().collect().await?.to_bytes();
    let asked: Value = serde_json::from_slice(&asked).unwrap();
    let account = account(asked["spec"]["token"].as_str().unwrap());
    let answer = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}, "spec": asked["spec"],
        "status": {
            "authenticated": true,
            "audiences": [hawser::manifest::names::TOKEN_AUDIENCE],
            "user": {"username": format!("system:serviceaccount:shop:{account}"), "uid": "1", "groups": ["system:serviceaccounts"]},
        },
    });
    let response = http::Response::builder().status(201).header("content-type", "application/json");
    Ok(response.body(Full::from(answer.to_string())).unwrap())
}

pub(crate) fn account(token: &str) -> String {
    token.split('.').nth(2).and_then(|part| part.split('_').next()).unwrap().to_owned()
}
