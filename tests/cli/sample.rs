//! The sample apps do what the cluster tests take for granted.

use std::time::Duration;

use serde_json::Value;

use crate::support::{Hawser, Running, eventually, free_port};

fn serve(what: &str) -> (Running, String) {
    let address = format!("127.0.0.1:{}", free_port());
    (Hawser::new(["run", "sample", what, "--listen", &address, "--name", "me"]).starts(), address)
}

fn once(url: &str, more: &[&str]) -> Value {
    let args = ["run", "sample", "once", url, "--within", "20"].into_iter().chain(more.iter().copied());
    serde_json::from_str(&Hawser::new(args).succeeds()).unwrap()
}

#[test]
fn an_http_server_tells_the_request_it_got() {
    let (_server, address) = serve("http");
    let echo = once(&format!("http://{address}/a?b"), &["--header", "x-colour: red", "--payload", "hello"]);
    assert_eq!((&echo["server"], &echo["version"]), (&"me".into(), &"HTTP/1.1".into()));
    assert_eq!(echo["uri"], "/a?b");
    assert_eq!(echo["headers"]["x-colour"][0], "red");
    assert_eq!(echo["body"], "hello");
    let echo = once(&format!("h2c://{address}/a?b"), &["--header", "x-colour: red", "--payload", "hello"]);
    assert_eq!((&echo["version"], &echo["method"]), (&"HTTP/2.0".into(), &"POST".into()));
    assert_eq!((&echo["headers"]["x-colour"][0], &echo["body"]), (&"red".into(), &"hello".into()));
}

#[test]
fn a_status_other_than_success_fails_the_client() {
    let (_server, address) = serve("http");
    once(&format!("http://{address}/"), &[]);
    let error = Hawser::new(["run", "sample", "once", &format!("http://{address}/status/503")]).fails(2);
    assert!(error.contains("status 503"), "{error}");
}

#[test]
fn a_grpc_server_answers_and_streams() {
    let (_server, address) = serve("grpc");
    let unary = once(&format!("grpc://{address}"), &["--payload", "hello"]);
    assert_eq!((&unary["text"], &unary["server"]), (&"hello".into(), &"me".into()));
    let streamed = once(&format!("grpc://{address}"), &["--payload", "hello", "--stream", "3"]);
    assert_eq!((&streamed["text"], &streamed["messages"]), (&"hello 2".into(), &3.into()));
}

#[test]
fn a_server_that_speaks_first_greets() {
    let (_server, address) = serve("smtp");
    let said = once(&format!("smtp://{address}"), &["--payload", "hello"]);
    assert_eq!((&said["greeting"], &said["answer"]), (&"220 hello from me".into(), &"250 hello".into()));
}

#[test]
fn a_load_counts_failures_and_recovers() {
    let server_address = format!("127.0.0.1:{}", free_port());
    let report = format!("127.0.0.1:{}", free_port());
    let url = format!("http://{server_address}/");
    let _load = Hawser::new(["run", "sample", "load", &url, "--rate", "50", "--report", &report]).starts();
    let counters = || once(&format!("http://{report}/"), &[]);
    eventually("calls fail while there is no server", Duration::from_secs(20), || {
        let counters = counters();
        if counters["failures"].as_u64() > Some(2) { Ok(()) } else { Err(counters) }
    });
    let _server = Hawser::new(["run", "sample", "http", "--listen", &server_address]).starts();
    eventually("calls succeed once there is one", Duration::from_secs(20), || {
        let counters = counters();
        if counters["failing"] == 0 && counters["last_answer"] != "" { Ok(()) } else { Err(counters) }
    });
}
