//! Heads of requests and responses, as far as our own code reads them: hyper's parser is fuzzed by its own project.
//!
//! A request that one proxy makes HTTP/2 must be at the next what it was, whatever its headers say.
#![no_main]

use hawser::mesh::route;
use hawser::proxy::{http as proxied, orig_proto};
use http::header::{HOST, HeaderName, HeaderValue};
use http::{HeaderMap, Request, Response, Version};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|given: (bool, &[u8], &[u8], Vec<(u8, &[u8], &[u8])>)| {
    let (is_old, method, uri, headers) = given;
    let Ok(mut request) = Request::builder().method(method).uri(uri).body(()) else { return };
    *request.version_mut() = if is_old { Version::HTTP_10 } else { Version::HTTP_11 };
    for (which, name, value) in headers {
        // A name of use now and then: a fuzzer finds no word of twelve letters.
        let known = ["connection", "host", "te", "transfer-encoding", "l5d-orig-proto", "l5d-client-id", "content-length"];
        let name = known.get(usize::from(which)).map_or(name, |known| known.as_bytes());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            request.headers_mut().append(name, value);
        }
    }
    let _host = route::host(request.uri(), request.headers());
    respond(request.headers());
    if proxied::host::settle(&mut request).is_err() || !orig_proto::may_upgrade(&request) {
        return;
    }
    assert!(request.headers().get_all(HOST).iter().count() <= 1);
    orig_proto::strip_connection_headers(request.headers_mut());
    request.headers_mut().remove(orig_proto::ORIG_PROTO);
    let before = request.clone();
    orig_proto::upgrade_request(&mut request);
    orig_proto::downgrade_request(&mut request).expect("a request that was upgraded is known as one");
    assert_eq!(request.version(), before.version());
    assert_eq!(request.method(), before.method());
    let path = |request: &Request<()>| request.uri().path_and_query().map(ToString::to_string);
    // An absolute target without a path has one at the other end, and means the same.
    assert!(path(&request) == path(&before) || path(&before).is_none_or(|path| path == "*" || path.is_empty()));
    for (name, value) in before.headers() {
        if name != "transfer-encoding" {
            assert!(request.headers().get_all(name).iter().any(|found| found == value), "{name} is lost");
        }
    }
});

fn respond(headers: &HeaderMap) {
    let mut response = Response::new(());
    *response.headers_mut() = headers.clone();
    orig_proto::upgrade_response(&mut response);
    orig_proto::downgrade_response(&mut response, Version::HTTP_11);
    assert!(!response.headers().contains_key(orig_proto::ORIG_PROTO));
    let _status = proxied::grpc_status(response.headers());
}
