use serde_json::{Value, json};

use super::*;
use crate::manifest::documents::{Edit, Outcome, edit_text};
use crate::manifest::yaml;

const BUNDLE: &str = "-----BEGIN CERTIFICATE-----\nbm90IHJlYWw=\n-----END CERTIFICATE-----\n";

fn mesh(values: &Values) -> Mesh<'_> {
    Mesh { control_namespace: "hawser", values, place: Place::App { bundle: BUNDLE }, created_by: "hawser/test" }
}

fn values() -> Values {
    // A version of its own, so that the golden files stay as they are when the project's changes.
    Values { image: "hawser:golden".into(), ..Values::default() }
}

fn pod(annotations: &[(&str, &str)]) -> Value {
    let annotations: Map<String, Value> = annotations.iter().map(|(k, v)| ((*k).to_owned(), (*v).into())).collect();
    json!({"metadata": {"annotations": annotations}, "spec": {"containers": [{"name": "app"}]}})
}

fn injected(pod: &Value, namespace_annotations: &[(&str, &str)]) -> Result<Meshed, Skip> {
    let namespace_annotations = namespace_annotations.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    let around = Surroundings { namespace: Some("shop"), namespace_annotations: &namespace_annotations, owner: None };
    inject(pod, &mesh(&values()), &around)
}

/// The proxy's variables, as `NAME=value`.
fn environment(pod: &Value) -> Vec<String> {
    let containers = ["/spec/initContainers", "/spec/containers"].map(|at| pod.pointer(at).and_then(Value::as_array));
    let proxy = containers.into_iter().flatten().flatten().find(|c| c["name"] == "linkerd-proxy").unwrap();
    let text = |variable: &Value| {
        format!("{}={}", variable["name"].as_str().unwrap(), variable["value"].as_str().unwrap_or("…"))
    };
    proxy["env"].as_array().unwrap().iter().map(text).collect()
}

#[test]
fn golden_files_stay_as_they_are() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/inject");
    let values = values();
    let mut seen = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let input = entry.unwrap().path();
        let Some(name) = input.file_name().unwrap().to_str().unwrap().strip_suffix(".in.yaml") else { continue };
        seen += 1;
        let mesh = mesh(&values);
        let edit = Edit::Mesh { wish: "enabled", settings: &[], mesh: &mesh };
        let (documents, reports) = edit_text(&edit, &std::fs::read_to_string(&input).unwrap()).unwrap();
        let said: String = reports
            .iter()
            .flat_map(|report| {
                report.warnings.iter().map(|warning| format!("# {warning}\n")).chain([format!("# {report}\n")])
            })
            .collect();
        let text = said + &yaml::write(&documents);
        let golden = folder.join(format!("{name}.out.yaml"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&golden, &text).unwrap();
        }
        let expected = std::fs::read_to_string(&golden).unwrap();
        let same = yaml::parse(&text).unwrap() == yaml::parse(&expected).unwrap();
        assert!(same, "{name} is not as the golden file says; UPDATE_GOLDEN=1 rewrites it");
        let comments =
            |text: &str| text.lines().filter(|line| line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(comments(&text), comments(&expected), "{name}");
    }
    assert!(seen >= 4);
}

#[test]
fn the_pods_word_counts_more_than_the_namespaces() {
    assert!(injected(&pod(&[]), &[("linkerd.io/inject", "enabled")]).is_ok());
    assert!(injected(&pod(&[("linkerd.io/inject", "enabled")]), &[("linkerd.io/inject", "disabled")]).is_ok());
    let refused = injected(&pod(&[("linkerd.io/inject", "disabled")]), &[("linkerd.io/inject", "enabled")]);
    assert_eq!(refused.unwrap_err(), Skip::Disabled(On::Pod));
    assert_eq!(injected(&pod(&[]), &[]).unwrap_err(), Skip::NotEnabled);
}

#[test]
fn says_why_a_pod_stays_as_it_is() {
    let enabled = [("linkerd.io/inject", "enabled")];
    let with = |change: &dyn Fn(&mut Value)| {
        let mut pod = pod(&enabled);
        change(&mut pod);
        injected(&pod, &[]).unwrap_err().to_string()
    };
    assert!(with(&|pod| pod["spec"]["hostNetwork"] = true.into()).starts_with("hostNetwork is enabled"));
    assert_eq!(with(&|pod| pod["spec"]["containers"] = json!([])), "there are no containers");
    assert_eq!(
        with(&|pod| pod["spec"]["initContainers"] = json!([{"name": "istio-init"}])),
        "there is a sidecar already (container `istio-init`)"
    );
    assert_eq!(
        injected(&pod(&[("linkerd.io/inject", "yes")]), &[]).unwrap_err().to_string(),
        "the annotation `linkerd.io/inject` on the pod is \"yes\"; it can be enabled, disabled or ingress"
    );
}

#[test]
fn settings_of_the_namespace_are_copied_unless_the_pod_has_its_own() {
    let namespace = [
        ("linkerd.io/inject", "enabled"),
        ("config.linkerd.io/proxy-log-level", "debug"),
        ("config.linkerd.io/skip-inbound-ports", "25"),
        ("config.linkerd.io/admission-webhooks", "enabled"),
        ("example.com/team", "shop"),
    ];
    let meshed = injected(&pod(&[("config.linkerd.io/skip-inbound-ports", "26")]), &namespace).unwrap();
    let annotations = annotations(&meshed.pod);
    assert_eq!(annotations["config.linkerd.io/proxy-log-level"], "debug");
    assert_eq!(annotations["config.linkerd.io/skip-inbound-ports"], "26");
    assert!(!annotations.contains_key("example.com/team"));
    assert!(environment(&meshed.pod).contains(&"LINKERD2_PROXY_LOG=debug".into()));
}

#[test]
fn a_mistyped_policy_keeps_everybody_out_and_says_so() {
    let meshed =
        injected(&pod(&[("linkerd.io/inject", "enabled"), ("config.linkerd.io/default-inbound-policy", "dney")]), &[])
            .unwrap();
    assert!(environment(&meshed.pod).contains(&"LINKERD2_PROXY_INBOUND_DEFAULT_POLICY=deny".into()));
    assert!(meshed.warnings[0].contains("nobody may call this pod"), "{:?}", meshed.warnings);
}

#[test]
fn pods_without_an_api_token_can_be_meshed() {
    let mut pod = pod(&[("linkerd.io/inject", "enabled")]);
    pod["spec"]["automountServiceAccountToken"] = false.into();
    let meshed = injected(&pod, &[]).unwrap().pod;
    assert!(meshed["spec"]["volumes"].to_string().contains(names::TOKEN_AUDIENCE));
}

#[test]
fn neither_container_gets_the_apps_api_token() {
    let meshed = injected(&pod(&[("linkerd.io/inject", "enabled")]), &[]).unwrap().pod;
    for container in meshed["spec"]["initContainers"].as_array().unwrap() {
        let mounts = container["volumeMounts"].as_array().unwrap();
        let there = mounts.iter().find(|m| m["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount").unwrap();
        assert_eq!(there["name"], "linkerd-identity-end-entity", "an empty folder");
    }
}

#[test]
fn a_meshed_pod_is_not_meshed_twice() {
    let meshed = injected(&pod(&[("linkerd.io/inject", "enabled")]), &[]).unwrap().pod;
    assert_eq!(injected(&meshed, &[]).unwrap_err(), Skip::ExistingSidecar("linkerd-init".into()));
}

#[test]
fn a_long_workload_name_costs_the_label_not_the_pod() {
    let owner = Owner { kind: "replicaset".into(), name: "x".repeat(64) };
    let none = Annotations::new();
    let around = Surroundings { namespace: None, namespace_annotations: &none, owner: Some(&owner) };
    let meshed = inject(&pod(&[("linkerd.io/inject", "enabled")]), &mesh(&values()), &around).unwrap().pod;
    assert_eq!(meshed["metadata"]["labels"], json!({"linkerd.io/control-plane-ns": "hawser"}));
}

#[test]
fn nothing_in_a_pod_makes_it_panic() {
    let strange = [
        json!(null),
        json!([]),
        json!("pod"),
        json!({"spec": []}),
        json!({"spec": {"containers": {}}}),
        json!({"metadata": 1, "spec": {"containers": [1, null, {"name": 1, "ports": 2}]}}),
        json!({"metadata": {"annotations": [1], "labels": "x"}, "spec": {"containers": [{"name": "a", "ports": [{"containerPort": "http"}, {"containerPort": 70000}, 5]}], "initContainers": 3, "volumes": "x"}}),
        json!({"metadata": {"annotations": {"config.linkerd.io/opaque-ports": ",,,-,é"}}, "spec": {"containers": [{"name": "a", "livenessProbe": {"httpGet": []}}], "hostNetwork": "yes"}}),
    ];
    for pod in strange {
        let _ = injected(&pod, &[("linkerd.io/inject", "enabled")]);
    }
}

#[test]
fn uninject_gives_back_what_inject_was_given() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/inject");
    let values = values();
    let mesh = mesh(&values);
    for name in ["deployment", "settings", "plain-sidecar"] {
        let text = std::fs::read_to_string(folder.join(format!("{name}.in.yaml"))).unwrap();
        // Settings that people wrote go too, so the comparison is with an uninjected original.
        let (plain, _) = edit_text(&Edit::Remove, &text).unwrap();
        for edit in [
            Edit::Mesh { wish: "enabled", settings: &[], mesh: &mesh },
            Edit::Annotate { wish: "ingress", settings: &[("config.linkerd.io/proxy-uid".into(), "7".into())] },
        ] {
            let (once, _) = edit_text(&edit, &text).unwrap();
            let (twice, _) = edit_text(&edit, &yaml::write(&once)).unwrap();
            assert!(once == twice, "{name}: injecting again changes nothing");
            let (back, reports) = edit_text(&Edit::Remove, &yaml::write(&once)).unwrap();
            assert_eq!(yaml::write(&back), yaml::write(&plain), "{name}");
            assert!(reports.iter().all(|report| report.outcome == Outcome::Uninjected));
        }
    }
}

#[test]
fn uninject_keeps_the_choice_to_stay_out() {
    let text = "kind: Pod\nmetadata: {name: a, annotations: {linkerd.io/inject: disabled, config.linkerd.io/proxy-uid: \"7\"}}\nspec: {containers: [{name: a}]}\n";
    let (back, _) = edit_text(&Edit::Remove, text).unwrap();
    assert_eq!(back[0]["metadata"]["annotations"], json!({"linkerd.io/inject": "disabled"}));
}

#[test]
fn a_pod_or_namespace_can_have_connections_end_with_their_certificates() {
    const NAME: &str = "config.linkerd.io/proxy-connections-end-with-certificates";
    const SET: &str = "HAWSER_CONNECTIONS_END_WITH_CERTIFICATES=true";
    let is_set = |own: &[(&str, &str)], namespace: &[(&str, &str)]| {
        let enabled = [own, &[("linkerd.io/inject", "enabled")]].concat();
        environment(&injected(&pod(&enabled), namespace).unwrap().pod).contains(&SET.to_owned())
    };
    assert!(!is_set(&[], &[]), "by default they may outlive them");
    assert!(is_set(&[(NAME, "true")], &[]) && is_set(&[], &[(NAME, "true")]));
    assert!(!is_set(&[(NAME, "false")], &[(NAME, "true")]));
}
