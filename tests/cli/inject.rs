//! `hawser inject` and `uninject`: files, folders and standard input, reports and refusals.

use hawser::manifest::yaml;

use crate::support::{Hawser, text};

const WEB: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  template:
    spec:
      containers: [{name: web, image: web:1}]
";
const HOST: &str = "kind: Pod\nmetadata: {name: node}\nspec: {hostNetwork: true, containers: [{name: a}]}\n";

/// Standard output and standard error of a run that succeeds.
fn run(args: &[&str], input: &str) -> (String, String) {
    let output = Hawser::new(args.iter().copied()).stdin(input).output();
    assert!(output.status.success(), "{}", text(&output.stderr));
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn writes_annotations_and_reports_each_object() {
    let others =
        "---\nkind: ConfigMap\nmetadata: {name: cfg}\n---\nkind: Namespace\nmetadata: {name: shop}\n---\na: 1\n";
    let (printed, said) = run(&["inject", "-", "--proxy-log-level", "debug"], &format!("{WEB}{others}"));
    let documents = yaml::parse(&printed).unwrap();
    let annotations = &documents[0]["spec"]["template"]["metadata"]["annotations"];
    assert_eq!(annotations["linkerd.io/inject"], "enabled");
    assert_eq!(annotations["config.linkerd.io/proxy-log-level"], "debug");
    assert_eq!(documents[2]["metadata"]["annotations"]["linkerd.io/inject"], "enabled");
    assert_eq!(
        said,
        "\ndeployment \"web\" annotated\nconfigmap \"cfg\" skipped\nnamespace \"shop\" annotated\n\
         document missing \"kind\" field, skipped\n\n"
    );
}

#[test]
fn services_only_take_opaque_ports() {
    let service = "kind: Service\nmetadata: {name: db}\nspec: {}\n";
    let (printed, _) = run(&["inject", "-", "--opaque-ports", "sql,5432"], service);
    assert!(printed.contains("config.linkerd.io/opaque-ports: sql,5432"), "{printed}");
    assert!(run(&["inject", "-"], service).1.contains("service \"db\" skipped"));
}

#[test]
fn reads_folders_and_lists_and_prints_json() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("deep")).unwrap();
    let web = &yaml::parse(WEB).unwrap()[0];
    std::fs::write(folder.path().join("a.json"), format!("{{\"kind\": \"List\", \"items\": [{web}]}}")).unwrap();
    std::fs::write(folder.path().join("deep/b.yml"), WEB.replace("web", "cart")).unwrap();
    std::fs::write(folder.path().join("notes.txt"), ":\n- not: [yaml").unwrap();
    let (printed, _) = run(&["inject", folder.path().to_str().unwrap(), "-o", "json"], "");
    let lines: Vec<serde_json::Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["items"][0]["spec"]["template"]["metadata"]["annotations"]["linkerd.io/inject"], "enabled");
    assert_eq!(lines[1]["metadata"]["name"], "cart");
}

#[test]
fn writes_the_whole_sidecar_with_a_bundle_and_takes_it_out_again() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("bundle.crt");
    let anchor = hawser::pki::Anchor::create("cluster.local", std::time::SystemTime::now()).unwrap();
    std::fs::write(&bundle, anchor.certificate().to_pem()).unwrap();
    let (injected, said) = run(&["inject", "--manual", "--trust-bundle", bundle.to_str().unwrap(), "-"], WEB);
    assert!(said.contains("deployment \"web\" injected"), "{said}");
    assert!(injected.contains("linkerd-proxy") && injected.contains("BEGIN CERTIFICATE"));
    let (plain, said) = run(&["uninject", "-"], &injected);
    assert_eq!(yaml::parse(&plain).unwrap(), yaml::parse(WEB).unwrap());
    assert!(said.contains("deployment \"web\" uninjected"));
    assert!(run(&["uninject", "-"], WEB).1.contains("deployment \"web\" skipped"));
}

#[test]
fn a_sidecar_of_ours_is_replaced() {
    let sidecar = "initContainers: [{name: linkerd-init}, {name: linkerd-proxy}]\n      containers:";
    let (printed, said) = run(&["inject", "-"], &WEB.replace("containers:", sidecar));
    assert!(!printed.contains("linkerd-proxy"), "{printed}");
    assert!(said.contains("deployment \"web\" annotated"));
}

#[test]
fn refuses_and_prints_nothing() {
    let no_cluster = ["inject", "--manual", "--kubeconfig", "/no/such/kubeconfig", "-"];
    for (args, input, said) in [
        (&["inject", "-"][..], format!("{WEB}---\n{HOST}"), "pod \"node\" cannot be injected: hostNetwork is enabled"),
        (&["inject", "-"], WEB.replace("name: web, image", "name: istio-proxy, image"), "there is a sidecar already"),
        (&["inject", "-"], "a: [\n".into(), "cannot read the YAML of standard input"),
        (&["inject", "-"], String::new(), "there is no manifest"),
        (&["inject", "/no/such/file"], String::new(), "cannot read `/no/such/file`"),
        (&["inject", "-", "--proxy-uid", "0"], WEB.into(), "`proxy-uid` cannot be \"0\""),
        (&no_cluster, WEB.into(), "/no/such/kubeconfig"),
    ] {
        let output = Hawser::new(args.iter().copied()).stdin(input).output();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty(), "{args:?}");
        let stderr = text(&output.stderr);
        assert!(stderr.contains(said), "{args:?}: {stderr}");
    }
}
