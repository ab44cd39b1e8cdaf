//! What is kept of objects as people and Kubernetes write them.

use serde_json::{Value, json};

use super::*;

fn pod(change: impl FnOnce(&mut Value)) -> Pod {
    let mut pod = json!({
        "metadata": {"namespace": "shop", "name": "web-5f495d69f7-csntk", "labels": {}, "annotations": {}},
        "spec": {
            "serviceAccountName": "web",
            "nodeName": "node-1",
            "containers": [{"name": "app", "ports": [{"name": "http", "containerPort": 8080}]}],
        },
        "status": {"phase": "Running", "hostIP": "172.30.0.1", "podIPs": [{"ip": "10.1.0.1"}, {"ip": "fd00::1"}]},
    });
    change(&mut pod);
    Pod::of(&serde_json::from_value(pod).unwrap()).unwrap()
}

fn owned_by(kind: &str, name: &str) -> Owner {
    pod(|pod| {
        pod["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "1", "controller": true}]);
        pod["metadata"]["labels"]["pod-template-hash"] = json!("5f495d69f7");
    })
    .owner
}

fn owner(kind: &str, name: &str) -> Owner {
    Owner { kind: kind.into(), name: name.into() }
}

#[test]
fn a_deployment_is_told_from_the_name_of_its_replica_set() {
    assert_eq!(owned_by("ReplicaSet", "web-5f495d69f7"), owner("deployment", "web"));
    assert_eq!(owned_by("ReplicaSet", "my-web-5f495d69f7"), owner("deployment", "my-web"));
    assert_eq!(owned_by("ReplicaSet", "standalone"), owner("replicaset", "standalone"));
}

#[test]
fn other_owners_are_themselves_and_a_job_is_not_called_job() {
    assert_eq!(owned_by("StatefulSet", "db"), owner("statefulset", "db"));
    assert_eq!(owned_by("Job", "load"), owner("k8s_job", "load"));
    assert_eq!(pod(|_| {}).owner, owner("pod", "web-5f495d69f7-csntk"));
}

#[test]
fn a_pod_is_meshed_by_its_label_and_its_proxy_says_where_it_listens() {
    let meshed = pod(|pod| {
        pod["metadata"]["labels"]["linkerd.io/control-plane-ns"] = json!("hawser");
        pod["spec"]["initContainers"] = json!([{"name": "linkerd-proxy", "env": [
            {"name": "LINKERD2_PROXY_INBOUND_LISTEN_ADDR", "value": "[::]:4143"},
            {"name": "LINKERD2_PROXY_ADMIN_LISTEN_ADDR", "value": "0.0.0.0:4191"},
            {"name": "LINKERD2_PROXY_CONTROL_LISTEN_ADDR", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        ]}]);
    });
    let mesh =
        Mesh { control_namespace: "hawser".into(), inbound_port: Some(4143), admin_port: Some(4191), tap_port: None };
    assert_eq!(meshed.mesh, Some(mesh));
    assert_eq!(pod(|_| {}).mesh, None);
    let empty = pod(|pod| pod["metadata"]["labels"]["linkerd.io/control-plane-ns"] = json!(""));
    assert_eq!(empty.mesh, None);
}

#[test]
fn port_annotations_may_name_ports_and_ranges_and_what_they_get_wrong_is_left_out() {
    let annotated = pod(|pod| {
        pod["metadata"]["annotations"] = json!({
            "config.linkerd.io/opaque-ports": " http, 3000-3002,nonsense,70000",
            "config.linkerd.io/skip-inbound-ports": "9090",
            "config.linkerd.io/proxy-require-identity-inbound-ports": "8080",
        });
    });
    assert_eq!(annotated.opaque_ports.unwrap().to_string(), "8080,3000-3002");
    assert!(annotated.skipped_ports.contains(9090) && annotated.identity_ports.contains(8080));
    assert_eq!(pod(|_| {}).opaque_ports, None);
    let none = pod(|pod| pod["metadata"]["annotations"]["config.linkerd.io/opaque-ports"] = json!(""));
    assert_eq!(none.opaque_ports, Some(PortSet::default()), "an empty annotation overrides the default");
}

#[test]
fn a_default_policy_that_does_not_exist_is_none() {
    let policy = |text: &str| {
        pod(|pod| pod["metadata"]["annotations"]["config.linkerd.io/default-inbound-policy"] = json!(text))
            .default_policy
    };
    assert_eq!(policy("deny"), Some(DefaultPolicy::Deny));
    assert_eq!(policy("allow"), None);
}

#[test]
fn http_probes_are_kept_by_port_without_their_query() {
    let probed = pod(|pod| {
        pod["spec"]["containers"][0]["readinessProbe"] = json!({"httpGet": {"path": "/ready?full=1", "port": "http"}});
        pod["spec"]["containers"][0]["livenessProbe"] = json!({"httpGet": {"port": 8080}});
        pod["spec"]["initContainers"] =
            json!([{"name": "linkerd-proxy", "startupProbe": {"httpGet": {"path": "/ready", "port": 4191}}}]);
    });
    let paths = |port| probed.probes[&port].iter().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(paths(8080), ["/", "/ready"]);
    assert_eq!(paths(4191), ["/ready"]);
}

#[test]
fn host_ports_lead_to_the_pod_and_a_finished_or_ending_pod_is_not_alive() {
    let bound = pod(|pod| pod["spec"]["containers"][0]["ports"][0]["hostPort"] = json!(80));
    assert_eq!(bound.host_ports, [("172.30.0.1:80".parse().unwrap(), 8080)]);
    assert!(bound.is_alive);
    assert!(!pod(|pod| pod["status"]["phase"] = json!("Succeeded")).is_alive);
    assert!(!pod(|pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z")).is_alive);
}

#[test]
fn a_change_that_no_answer_depends_on_is_none() {
    let before = pod(|_| {});
    let after = pod(|pod| {
        pod["metadata"]["resourceVersion"] = json!("2");
        pod["metadata"]["annotations"]["example.com/touched"] = json!("now");
        pod["status"]["message"] = json!("still here");
    });
    assert_eq!(before, after);
}

#[test]
fn a_slice_keeps_endpoints_that_are_ready_or_do_not_say() {
    let slice = json!({
        "metadata": {"namespace": "shop", "name": "web-x", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}, {"name": "dns", "port": 53, "protocol": "UDP"}],
        "endpoints": [
            {"addresses": ["10.1.0.1"], "conditions": {"ready": true}, "targetRef": {"kind": "Pod", "name": "web-1"}},
            {"addresses": ["10.1.0.2"], "conditions": {"ready": false}},
            {"addresses": ["10.1.0.3"], "hints": {"forZones": [{"name": "a"}]}, "zone": "a"},
        ],
    });
    let slice = Slice::of(&serde_json::from_value(slice).unwrap()).unwrap();
    assert_eq!(slice.service, Key::new("shop", "web"));
    assert_eq!((slice.port("http"), slice.port("dns")), (Some(8080), None));
    let addresses: Vec<String> = slice.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect();
    assert_eq!(addresses, ["10.1.0.1", "10.1.0.3"]);
    assert_eq!(slice.endpoints[0].pod, Some(Key::new("shop", "web-1")));
    assert_eq!(slice.endpoints[1].for_zones, ["a"]);
}

#[test]
fn a_slice_of_no_service_is_none() {
    let slice = json!({"metadata": {"namespace": "shop", "name": "x"}, "addressType": "IPv4", "endpoints": []});
    assert_eq!(Slice::of(&serde_json::from_value(slice).unwrap()), None);
}

#[test]
fn a_headless_service_has_no_address_and_udp_ports_are_not_ours() {
    let service = json!({
        "metadata": {"namespace": "shop", "name": "db"},
        "spec": {
            "clusterIP": "None", "clusterIPs": ["None"], "internalTrafficPolicy": "Local",
            "ports": [{"name": "sql", "port": 5432}, {"name": "dns", "port": 53, "protocol": "UDP"}],
        },
    });
    let service = Service::of(&serde_json::from_value(service).unwrap()).unwrap();
    assert!(service.cluster_ips.is_empty() && service.is_local_only && !service.is_external_name);
    assert!(service.port(5432).is_some() && service.port(53).is_none());
}
