//! The flags about proxies that `install` and `inject` share: each reaches the installation, each is an annotation, and each refuses what it
//! cannot be.

use hawser::manifest::yaml;
use serde_json::{Value, json};

use crate::support::{Hawser, text};

const POD: &str = "kind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: web, image: web:1}]}\n";

/// Flag, a value, the annotation's name, where the installation's values have it, and a value that it cannot have.
const FLAGS: &[(&str, &str, &str, &str, &str)] = &[
    ("--proxy-image", "proxy:2", "proxy-image", "proxy/image/name", ""),
    ("--image-pull-policy", "Never", "image-pull-policy", "imagePullPolicy", "Sometimes"),
    ("--proxy-log-level", "debug", "proxy-log-level", "proxy/logLevel", ""),
    ("--proxy-cpu-request", "10m", "proxy-cpu-request", "proxy/resources/cpu/request", "some"),
    ("--proxy-cpu-limit", "500m", "proxy-cpu-limit", "proxy/resources/cpu/limit", "much"),
    ("--proxy-memory-request", "8Mi", "proxy-memory-request", "proxy/resources/memory/request", "8MiB"),
    ("--proxy-memory-limit", "64Mi", "proxy-memory-limit", "proxy/resources/memory/limit", "-1"),
    ("--proxy-uid", "3000", "proxy-uid", "proxy/uid", "0"),
    ("--proxy-gid", "3001", "proxy-gid", "proxy/gid", "wheel"),
    ("--inbound-port", "5143", "inbound-port", "proxy/ports/inbound", "0"),
    ("--outbound-port", "5140", "outbound-port", "proxy/ports/outbound", "65536"),
    ("--admin-port", "5191", "admin-port", "proxy/ports/admin", "admin"),
    ("--control-port", "5190", "control-port", "proxy/ports/control", "-1"),
    ("--skip-inbound-ports", "25,3000-3010", "skip-inbound-ports", "proxyInit/ignoreInboundPorts", "smtp"),
    ("--skip-outbound-ports", "3306", "skip-outbound-ports", "proxyInit/ignoreOutboundPorts", "10-1"),
    ("--opaque-ports", "5432", "opaque-ports", "proxy/opaquePorts", "70000"),
    ("--default-inbound-policy", "deny", "default-inbound-policy", "proxy/defaultInboundPolicy", "dney"),
    (
        "--require-identity-on-inbound-ports",
        "8080",
        "proxy-require-identity-inbound-ports",
        "proxy/requireIdentityOnInboundPorts",
        "http",
    ),
    ("--native-sidecar", "false", "proxy-enable-native-sidecar", "proxy/nativeSidecar", "perhaps"),
    ("--wait-before-exit-seconds", "7", "proxy-wait-before-exit-seconds", "proxy/waitBeforeExitSeconds", "7s"),
    ("--shutdown-grace-period", "30s", "shutdown-grace-period", "proxy/shutdownGracePeriod", "soon"),
    ("--access-log", "json", "access-log", "proxy/accessLog", "xml"),
];

#[test]
fn each_reaches_the_installation_and_changes_nothing_else() {
    let default = values(&[]);
    for (flag, value, _, path, _) in FLAGS {
        let mut chosen = values(&[&format!("{flag}={value}")]);
        let place = chosen.pointer_mut(&format!("/{path}")).unwrap();
        assert_eq!(place.to_string().trim_matches('"'), *value, "{flag}");
        *place = default.pointer(&format!("/{path}")).unwrap().clone();
        // Where hawser's own image is used, one policy is for all.
        chosen["proxy"]["image"]["pullPolicy"] = default["proxy"]["image"]["pullPolicy"].clone();
        assert_eq!(chosen, default, "{flag}");
    }
    assert_eq!(values(&["--enable-external-profiles"])["proxy"]["enableExternalProfiles"], true);
}

#[test]
fn each_is_an_annotation_of_what_is_injected() {
    for (flag, value, setting, ..) in FLAGS {
        let output = Hawser::new(["inject", &format!("{flag}={value}"), "-"]).stdin(POD).output();
        let pod = yaml::parse(&text(&output.stdout)).unwrap().remove(0);
        let expected = json!({"linkerd.io/inject": "enabled", format!("config.linkerd.io/{setting}"): value});
        assert_eq!(pod["metadata"]["annotations"], expected, "{}", text(&output.stderr));
    }
}

#[test]
fn each_refuses_what_it_cannot_be_and_prints_nothing() {
    for (flag, _, setting, _, wrong) in FLAGS.iter().filter(|flag| flag.0 != "--proxy-log-level") {
        for command in ["install", "inject"] {
            let flag_and_value = format!("{flag}={wrong}");
            let mut line = vec![command, &flag_and_value];
            line.extend((command == "inject").then_some("-"));
            let output = Hawser::new(line).stdin(POD).output();
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{command} {flag}={wrong}: {said}");
            assert!(said.contains(setting) || said.contains(flag), "{command} {flag}={wrong}: {said}");
            assert!(output.stdout.is_empty(), "{command} {flag}={wrong}");
        }
    }
}

/// The values that `install` notes for the injector.
fn values(flags: &[&str]) -> Value {
    let printed = Hawser::new([&["install"], flags].concat()).succeeds();
    let mut objects = yaml::parse(&printed).unwrap();
    let config = objects.iter_mut().find(|object| object["metadata"]["name"] == "hawser-config").unwrap();
    yaml::parse(config["data"]["values"].as_str().unwrap()).unwrap().remove(0)
}
