//! The conformance suite of HTTP/2, h2spec, against the proxy in front of an HTTP/2 server. `make test-h2spec` builds it and runs this.

use std::collections::BTreeSet;
use std::process::Command;

use super::apps;
use super::world::Pod;

/// What does not pass, and why that is right or not ours to mend.
const EXCEPTIONS: [(&str, &str); 0] = [];

/// The names of the cases that failed: `http2/5.1: …`, from a report in JUnit's XML.
fn failed(report: &str) -> BTreeSet<String> {
    let attribute = |case: &str, name: &str| {
        let value = case.split(&format!(" {name}=\"")).nth(1).and_then(|rest| rest.split('"').next());
        value.unwrap_or_default().replace("&#34;", "\"").replace("&#39;", "'").replace("&gt;", ">")
    };
    report
        .split("<testcase")
        .skip(1)
        .filter(|case| case.contains("<failure") || case.contains("<error"))
        .map(|case| format!("{}: {}", attribute(case, "package"), attribute(case, "classname")))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs h2spec: make test-h2spec"]
async fn an_http2_server_behind_the_proxy_conforms() {
    let h2spec = std::env::var_os("H2SPEC").expect("H2SPEC is not set: use `make test-h2spec`");
    let (pod, app) = (Pod::start(), apps::http2().await);
    let address = pod.listen(app).await;
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.xml");
    let mut command = Command::new(h2spec);
    command.args(["--host", "127.0.0.1", "--port", &address.port().to_string(), "--junit-report"]).arg(&report);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let report = std::fs::read_to_string(report).unwrap_or_else(|error| panic!("{error}:\n{said}"));
    assert!(report.matches("<testcase").count() > 140, "h2spec has not run all of its cases:\n{said}");
    let expected: BTreeSet<String> = EXCEPTIONS.iter().map(|(case, _)| (*case).to_owned()).collect();
    assert_eq!(failed(&report), expected, "{said}");
}
