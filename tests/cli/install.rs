//! `hawser install`: what is printed, and what is refused.

use hawser::manifest::yaml;
use serde_json::{Value, json};

use crate::support::api::Api;
use crate::support::{Hawser, text};

fn install(flags: &[&str]) -> Hawser {
    Hawser::new([&["install"], flags].concat())
}

#[test]
fn prints_the_same_bytes_each_time_without_a_cluster() {
    let flags = ["--ha", "--set", "proxy.logLevel=debug"];
    let first = install(&flags).output();
    assert!(first.status.success() && first.stderr.is_empty(), "{}", text(&first.stderr));
    assert_eq!(first.stdout, install(&flags).output().stdout);
}

#[test]
fn prints_no_secret() {
    for flags in [&[][..], &["--ha"], &["-o", "json"]] {
        let printed = install(flags).succeeds();
        assert!(printed.contains("hawser-trust-anchor"));
        for secret in ["PRIVATE KEY", "BEGIN CERTIFICATE", "caBundle", "stringData", "tls.key"] {
            assert!(!printed.contains(secret), "{secret} with {flags:?}");
        }
    }
}

#[test]
fn golden_files_stay_as_they_are() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/install");
    for (name, flags) in [
        ("default", &["--image", "hawser:golden"][..]),
        ("ha", &["--image", "hawser:golden", "--ha", "-L", "mesh", "--identity-trust-domain", "example.com"]),
    ] {
        // The project's version is in some annotations; the files are not about it.
        let printed = install(flags).succeeds().replace(env!("CARGO_PKG_VERSION"), "VERSION");
        let golden = folder.join(format!("{name}.yaml"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&golden, &printed).unwrap();
        }
        let parsed = |text: &str| yaml::parse(text).unwrap();
        let expected = parsed(&std::fs::read_to_string(&golden).unwrap());
        let same = parsed(&printed) == expected;
        assert!(
            same,
            "{name} is not as the golden file says; UPDATE_GOLDEN=1 rewrites it: review the difference as code"
        );
    }
}

#[test]
fn later_layers_win() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("values.yaml");
    std::fs::write(&file, "controllerReplicas: 4\nproxy: {logLevel: hawser=trace}\n").unwrap();
    let flags =
        ["--ha", "--proxy-log-level", "hawser=debug", "-f", file.to_str().unwrap(), "--set", "controllerReplicas=5"];
    let printed = install(&flags).succeeds();
    assert!(printed.contains("replicas: 5") && !printed.contains("replicas: 3"));
    assert!(printed.contains("value: hawser=trace") && !printed.contains("hawser=debug"));
}

#[test]
fn takes_values_from_standard_input() {
    let printed = install(&["-f", "-"]).stdin("image: example.com/mesh:7\n").succeeds();
    assert!(printed.contains("image: example.com/mesh:7"));
}

#[test]
fn refuses_what_it_does_not_understand_and_prints_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.yaml");
    std::fs::write(&broken, "proxy: [\n").unwrap();
    for (flags, said) in [
        (&["--set", "proxy.loglevel=x"][..], "did you mean `proxy.logLevel`?"),
        (&["--set", "nonsense"], "is not of the form `name.name=value`"),
        (&["-f", "/no/such/file"], "cannot read values from `/no/such/file`"),
        (&["-f", broken.to_str().unwrap()], "line "),
        (&["--namespace", "No_Such"], "is no name for a namespace"),
        (&["--identity-trust-domain", "a_b"], "`identityTrustDomain` cannot be `a_b`"),
        (&["--proxy-cpu-limit", "much"], "it is no amount"),
        (&["--default-inbound-policy", "dney"], "it can be all-authenticated"),
        (&["--controller-replicas", "0"], "`controllerReplicas` cannot be `0`"),
    ] {
        let output = install(flags).output();
        assert_eq!(output.status.code(), Some(2), "{flags:?}");
        assert!(output.stdout.is_empty(), "{flags:?}");
        let stderr = text(&output.stderr);
        assert!(stderr.starts_with("error: ") && stderr.contains(said), "{flags:?}: {stderr}");
    }
}

#[test]
fn apply_says_when_there_is_no_cluster() {
    let stderr = install(&["--apply", "--kubeconfig", "/no/such/kubeconfig"]).fails(2);
    assert!(stderr.contains("/no/such/kubeconfig"), "{stderr}");
}

#[test]
fn apply_refuses_where_another_control_plane_is_in_the_way_and_says_what_to_do() {
    let named = |name: &str, labels: Value| {
        json!({"kind": "List", "apiVersion": "v1", "metadata": {},
            "items": [{"metadata": {"name": name, "labels": labels}}]})
    };
    let other = json!({"linkerd.io/control-plane-ns": "mesh"});
    for (kind, found, said) in [
        ("configmaps", named("linkerd-config", json!({})), "a Linkerd control plane is in namespace `hawser`"),
        ("deployments", named("linkerd-identity", json!({})), "a Linkerd control plane is in namespace `hawser`"),
        ("mutatingwebhookconfigurations", named("hawser-injector", other), "hawser is installed in namespace `mesh`"),
    ] {
        let api = Api::start(move |path| path.ends_with(kind).then(|| (200, found.clone())));
        let error = install(&["--apply"]).env("KUBECONFIG", api.kubeconfig()).fails(2);
        assert!(error.starts_with(&format!("error: cannot install into namespace `hawser`: {said}")), "{error}");
        assert!(error.contains("uninstall"), "{error}");
    }
}

#[test]
fn flags_of_the_control_plane_reach_the_roles() {
    for (flag, value, said) in [
        ("--cluster-domain", "cluster.example", "HAWSER_CLUSTER_DOMAIN\n          value: cluster.example\n"),
        ("--identity-trust-domain", "shop.example", "HAWSER_TRUST_DOMAIN\n          value: shop.example\n"),
        ("--controller-log-level", "debug", "HAWSER_LOG\n          value: debug\n"),
        ("--identity-issuance-lifetime", "2h", "issuanceLifetime: 2h\n"),
        ("--identity-clock-skew-allowance", "5s", "clockSkewAllowance: 5s\n"),
        ("--image", "registry.example/hawser:2", "image: registry.example/hawser:2\n"),
        ("--controller-replicas", "2", "replicas: 2\n"),
        ("--namespace", "mesh", "namespace: mesh\n"),
    ] {
        let printed = install(&[flag, value]).succeeds();
        assert!(printed.contains(said), "{flag} {value}");
        assert!(!install(&[]).succeeds().contains(said), "{flag} {value} is nothing new");
    }
}

/// Files as `hawser trust create` makes them, and the flags that bring them.
struct Files(tempfile::TempDir);

impl Files {
    fn make(domain: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        Hawser::new(["trust", "create", "-o", path, "--identity-trust-domain", domain]).succeeds();
        Self(folder)
    }

    fn flag(&self, flag: &str, file: &str) -> [String; 2] {
        [flag.to_owned(), self.0.path().join(file).display().to_string()]
    }

    fn anchors(&self) -> Vec<String> {
        self.flag("--identity-trust-anchors-file", "ca.crt").into()
    }

    fn issuer(&self) -> Vec<String> {
        [
            self.flag("--identity-issuer-certificate-file", "issuer.crt"),
            self.flag("--identity-issuer-key-file", "issuer.key"),
        ]
        .concat()
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.0.path().join(file)).unwrap()
    }
}

fn refused(flags: &[String], kubeconfig: Option<&Api>) -> String {
    let mut all = vec!["install".to_owned()];
    if let Some(api) = kubeconfig {
        all.extend(["--kubeconfig".to_owned(), api.kubeconfig().display().to_string()]);
    }
    let output = Hawser::new(all.into_iter().chain(flags.iter().cloned())).output();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stdout));
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    text(&output.stderr).to_owned()
}

#[test]
fn an_external_issuer_is_printed_as_its_anchors_and_no_secret() {
    let files = Files::make("cluster.local");
    let flags = [files.anchors(), vec!["--identity-external-issuer".into()]].concat();
    let printed = Hawser::new(["install".to_owned()].into_iter().chain(flags)).succeeds();
    let objects = yaml::parse(&printed).unwrap();
    let named = |kind: &str, name: &str| {
        objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
    };
    assert!(named("Secret", "hawser-identity-issuer").is_none() && !printed.contains("PRIVATE KEY"));
    let bundle = named("ConfigMap", "hawser-trust-bundle").unwrap();
    assert_eq!(bundle["data"]["ca-bundle.crt"], Value::from(files.read("ca.crt")));
}

#[test]
fn refuses_to_print_keys_and_to_install_what_nobody_could_sign_with() {
    let files = Files::make("cluster.local");
    let key = files.flag("--identity-trust-anchors-key-file", "ca.key").to_vec();
    for (flags, reason) in [
        ([files.anchors(), files.issuer()].concat(), "by `--apply` only"),
        ([files.anchors(), key].concat(), "by `--apply` only"),
        (files.anchors(), "nobody could sign"),
        (vec!["--identity-external-issuer".into()], "needs its trust anchors"),
        (files.issuer(), "--identity-trust-anchors-file"),
    ] {
        let why = refused(&flags, None);
        assert!(why.contains(reason), "{flags:?}: {why}");
    }
}

#[test]
fn refuses_files_that_do_not_fit_before_it_asks_a_cluster() {
    let (files, others, foreign) =
        (Files::make("cluster.local"), Files::make("cluster.local"), Files::make("example.com"));
    let apply = vec!["--apply".to_owned()];
    let broken = tempfile::tempdir().unwrap();
    std::fs::write(broken.path().join("ca.crt"), "no certificate").unwrap();
    let broken = Files(broken);
    let wrong_key = [
        files.flag("--identity-issuer-certificate-file", "issuer.crt"),
        others.flag("--identity-issuer-key-file", "issuer.key"),
    ];
    for (flags, reason) in [
        ([files.anchors(), others.issuer()].concat(), "cannot use the issuer"),
        ([files.anchors(), wrong_key.concat()].concat(), "the issuer's key is not that of its certificate"),
        ([foreign.anchors(), foreign.issuer()].concat(), "not for the trust domain cluster.local"),
        ([broken.anchors(), files.issuer()].concat(), "the trust bundle has no certificate"),
        (
            [vec!["--identity-trust-anchors-file".into(), "/nonexistent".into()], files.issuer()].concat(),
            "/nonexistent",
        ),
    ] {
        // There is no cluster to ask, which would be said instead.
        let why = refused(&[flags.clone(), apply.clone()].concat(), None);
        assert!(why.contains(reason), "{flags:?}: {why}");
    }
}

#[test]
fn an_encrypted_key_is_read_with_its_passphrase_and_refused_without() {
    let (files, others) = (tempfile::tempdir().unwrap(), Files::make("cluster.local"));
    for (name, passphrase) in [("right", "correct horse\n"), ("wrong", "battery staple\n")] {
        std::fs::write(files.path().join(name), passphrase).unwrap();
    }
    let path = |name: &str| files.path().join(name).display().to_string();
    Hawser::new(["trust", "create", "-o", &path(""), "--key-passphrase-file", &path("right")]).succeeds();
    let files = Files(files);
    let passphrase = |file: &str| files.flag("--identity-key-passphrase-file", file).to_vec();
    // There is no cluster; what is good otherwise is refused for the anchors, which are those of others.
    let flags = [others.anchors(), files.issuer(), vec!["--apply".to_owned()]].concat();
    for (more, reason) in [
        (vec![], "issuer.key` is encrypted: --identity-key-passphrase-file"),
        (passphrase("wrong"), "the passphrase is not that of the key"),
        (passphrase("missing"), "cannot read the passphrase from"),
        (passphrase("right"), "it does not chain to the trust anchors"),
    ] {
        let why = refused(&[flags.clone(), more].concat(), None);
        assert!(why.contains(reason), "{why}");
    }
}

#[test]
fn an_issuer_in_a_secret_is_judged_before_anything_is_applied() {
    let (files, others) = (Files::make("cluster.local"), Files::make("cluster.local"));
    let base64 = |text: String| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text);
    let bundle = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "hawser-trust-bundle"},
        "data": {"ca-bundle.crt": others.read("ca.crt")},
    });
    let secret = |ca: &Files| {
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": "hawser-identity-issuer", "namespace": "hawser"},
            "data": {
                "tls.crt": base64(files.read("issuer.crt")),
                "tls.key": base64(files.read("issuer.key")),
                "ca.crt": base64(ca.read("ca.crt")),
            },
        })
    };
    for (secret, reason) in [
        (None, "there is no secret `hawser/hawser-identity-issuer`"),
        (Some(secret(&others)), "cannot use the issuer"),
        (Some(secret(&files)), "proxies believe CN=root.cluster.local"),
    ] {
        let bundle = bundle.clone();
        let api = Api::start(move |path| match path {
            "/api/v1/namespaces/hawser/secrets/hawser-identity-issuer" => {
                let missing = json!({
                    "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404,
                    "message": "not found",
                });
                Some(secret.clone().map_or((404, missing), |secret| (200, secret)))
            }
            "/api/v1/namespaces/hawser/configmaps/hawser-trust-bundle" => Some((200, bundle.clone())),
            _ => None,
        });
        let why = refused(&["--apply".into(), "--identity-external-issuer".into()], Some(&api));
        assert!(why.contains(reason), "{why}");
        let applied = api.asked().into_iter().find(|head| head.starts_with("PATCH"));
        assert_eq!(applied, None);
    }
}
