//! What of each request is logged, and what of a trace is left as it is.

use std::time::Duration;

use hawser::mesh::Protocol;
use hawser::proxy::access_log::Format;

use super::world::{CART, Pod};
use super::{apps, get, header};

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_logged_when_its_response_has_passed_and_a_refused_one_too() {
    let ((pod, lines), app) = (Pod::logging(Format::Json), apps::http1().await);
    let next = || {
        let line = lines.recv_timeout(Duration::from_secs(30)).expect("no line came");
        serde_json::from_str::<serde_json::Value>(&line).unwrap()
    };
    let answer = get(pod.connect(header(app, Protocol::Http1)).await, "user-agent: test\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let line = next();
    assert_eq!((&line["status"], &line["client.id"]), (&200.into(), &CART.into()));
    assert_eq!(
        (&line["method"], &line["uri"], &line["host"]),
        (&"GET".into(), &"/cart?id=1".into(), &"web.shop".into())
    );
    assert_ne!(line["response_bytes"], "0");
    let answer = get(pod.dial(app).await, "").await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    let line = next();
    assert_eq!((&line["status"], &line["client.id"], &line["response_bytes"]), (&403.into(), &"-".into(), &"0".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_headers_of_a_trace_pass_as_they_are() {
    let (pod, app) = (Pod::start(), apps::http1().await);
    let trace = [
        "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "tracestate: vendor=1,other=2",
        "b3: 80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1",
        "x-b3-traceid: 80f198ee56343ba864fe8b2a57d3eff7",
        "x-b3-sampled: 1",
        "baggage: user=7",
    ];
    let headers = trace.map(|header| format!("{header}\r\n")).concat();
    let answer = get(pod.connect(header(app, Protocol::Http1)).await, &headers).await;
    for header in trace {
        assert!(answer.contains(&format!("{header}\n")), "{header} is not in what the app saw: {answer}");
    }
}
