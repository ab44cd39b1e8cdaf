//! The whole installation as manifests.
//!
//! In: the values and the namespace. Out: every object, in an order that one pass of `kubectl apply` accepts, the same for the same
//! input: no clock, no chance, no cluster. There is no secret in it: the Secrets have no data, for the roles make
//! what is in them.
//!
//! Start at [`render`].

use serde_json::{Value, json};

use super::fill::{Fillings, Unfilled, fill};
use super::inject::{self, Annotations, Mesh, Place, Role, Skip, Surroundings};
use super::values::Values;
use super::{names, templates, yaml};

/// What is wrong with what is built in: never with what people chose.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read a built-in template")]
    Template(#[from] yaml::Invalid),
    #[error("cannot fill a built-in template")]
    Fill(#[from] Unfilled),
    #[error("cannot mesh the pods of {0}")]
    Mesh(&'static str, #[source] Skip),
}

/// A role's Deployment, and what differs between them.
struct Part {
    role: Role,
    name: &'static str,
    /// The value of [`names::COMPONENT`].
    component: &'static str,
    template: &'static str,
}

const PARTS: [Part; 3] = [
    Part { role: Role::Identity, name: names::IDENTITY, component: "identity", template: templates::IDENTITY },
    Part {
        role: Role::Destination,
        name: names::DESTINATION,
        component: "destination",
        template: templates::DESTINATION,
    },
    Part { role: Role::Injector, name: names::INJECTOR, component: "proxy-injector", template: templates::INJECTOR },
];

/// What must exist before what: those that others name come first, and the webhook last.
const ORDER: [&str; 12] = [
    "Namespace",
    "ServiceAccount",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "Secret",
    "ConfigMap",
    "Service",
    "PodDisruptionBudget",
    "Deployment",
    "MutatingWebhookConfiguration",
];

/// Every object of an installation in `namespace`, in the order to apply them.
///
/// # Errors
/// None that the values can cause; the tests cover the templates.
pub fn render(values: &Values, namespace: &str) -> Result<Vec<Value>, Error> {
    let shared = fillings(values, namespace);
    let mut objects = filled(templates::NAMESPACE, &shared)?;
    objects.extend(filled(templates::CONFIG, &shared)?);
    for part in &PARTS {
        let mut own = shared.clone();
        own.insert("name", part.name.into());
        own.insert("component", part.component.into());
        own.insert("resources", resources(values, part.role));
        let affinity = filled(templates::ANTI_AFFINITY, &own)?.into_iter().next();
        own.insert("affinity", affinity.filter(|_| values.enable_pod_anti_affinity).unwrap_or(Value::Null));
        for mut object in filled(part.template, &own)? {
            if object["kind"] == "Deployment" {
                let template = &mut object["spec"]["template"];
                *template = meshed(template, part, values, namespace)?;
            }
            objects.push(object);
        }
        if values.enable_pod_disruption_budget {
            objects.extend(filled(templates::DISRUPTION_BUDGET, &own)?);
        }
    }
    if values.identity.issuer.external {
        objects.retain(|object| !(object["kind"] == "Secret" && object["metadata"]["name"] == names::ISSUER_SECRET));
        objects.iter_mut().for_each(keep_from_the_issuer);
    }
    if let Some(anchors) = &values.identity_trust_anchors_pem {
        let bundle = objects.iter_mut().find(|object| object["metadata"]["name"] == names::BUNDLE_CONFIG_MAP);
        if let Some(bundle) = bundle {
            bundle["data"] = json!({names::BUNDLE_KEY: anchors});
        }
    }
    for object in &mut objects {
        sign(object, namespace);
    }
    objects.sort_by_key(|object| ORDER.iter().position(|kind| object["kind"] == *kind).unwrap_or(ORDER.len()));
    Ok(objects)
}

/// What somebody else keeps, the identity role may read only.
fn keep_from_the_issuer(object: &mut Value) {
    if object["kind"] != "Role" {
        return;
    }
    let Some(rules) = object["rules"].as_array_mut() else { return };
    let mut of_issuer = None;
    for rule in rules.iter_mut() {
        let Some(named) = rule["resourceNames"].as_array_mut() else { continue };
        let before = named.len();
        named.retain(|name| name != names::ISSUER_SECRET);
        if named.len() < before {
            let mut reading = rule.clone();
            reading["resourceNames"] = json!([names::ISSUER_SECRET]);
            reading["verbs"] = json!(["get", "list", "watch"]);
            of_issuer = Some(reading);
        }
    }
    rules.extend(of_issuer);
}

fn filled(template: &str, fillings: &Fillings) -> Result<Vec<Value>, Error> {
    let mut documents = yaml::parse(template)?;
    for document in &mut documents {
        fill(document, fillings)?;
    }
    Ok(documents)
}

fn fillings(values: &Values, namespace: &str) -> Fillings {
    let some = |list: &[Value]| if list.is_empty() { Value::Null } else { list.into() };
    Fillings::from([
        ("namespace", namespace.into()),
        ("version", env!("CARGO_PKG_VERSION").into()),
        ("values", values.to_yaml().into()),
        ("replicas", values.controller_replicas.into()),
        ("image", values.image.as_str().into()),
        ("image_pull_policy", json!(values.image_pull_policy)),
        ("image_pull_secrets", some(&values.image_pull_secrets)),
        ("node_selector", json!(values.node_selector)),
        ("tolerations", some(&values.tolerations)),
        ("priority_class_name", json!(values.priority_class_name)),
        ("uid", values.controller_uid.into()),
        ("trust_domain", values.trust_domain().into()),
        ("cluster_domain", values.cluster_domain.as_str().into()),
        ("cluster_networks", values.cluster_networks.as_str().into()),
        ("default_inbound_policy", values.proxy.default_inbound_policy.as_str().into()),
        ("opaque_ports", values.proxy.opaque_ports.as_str().into()),
        ("log_level", values.controller_log_level.as_str().into()),
        ("log_format", values.controller_log_format.as_str().into()),
        ("any_address", if values.disable_ipv6 { "0.0.0.0" } else { "[::]" }.into()),
        ("api_server_ports", values.proxy_init.kube_api_server_ports.as_str().into()),
        ("accept_api_server_tokens", values.identity.accept_api_server_tokens.to_string().into()),
        ("issuance_lifetime", values.identity.issuer.issuance_lifetime.as_str().into()),
        ("clock_skew_allowance", values.identity.issuer.clock_skew_allowance.as_str().into()),
        ("issuer_lifetime", values.identity.issuer.lifetime.as_str().into()),
        ("issuer_renew_before", values.identity.issuer.renew_before.as_str().into()),
        ("anchor_lifetime", values.identity.anchor.lifetime.as_str().into()),
        ("anchor_rotate_before", values.identity.anchor.rotate_before.as_str().into()),
        ("webhook_failure_policy", json!(values.webhook_failure_policy)),
        ("webhook_timeout", values.proxy_injector.timeout_seconds.into()),
    ])
}

fn resources(values: &Values, role: Role) -> Value {
    match role {
        Role::Destination => &values.destination_resources,
        Role::Identity => &values.identity_resources,
        Role::Injector => &values.proxy_injector_resources,
    }
    .to_requirements()
}

/// The pods of a role are meshed like all others, except that their proxies cannot wait for a control plane that is not there yet.
fn meshed(template: &Value, part: &Part, values: &Values, namespace: &str) -> Result<Value, Error> {
    let mut template = template.clone();
    let labels = inject::object_at(&mut template["metadata"], "labels");
    for (key, value) in &values.pod_labels {
        labels.entry(key.as_str()).or_insert_with(|| value.as_str().into());
    }
    let annotations = inject::object_at(&mut template["metadata"], "annotations");
    for (key, value) in &values.pod_annotations {
        annotations.entry(key.as_str()).or_insert_with(|| value.as_str().into());
    }
    // The roles' own pods must come up without a native sidecar's order being turned off for apps.
    let mut values = values.clone();
    values.proxy.native_sidecar = true;
    let mesh = Mesh {
        control_namespace: namespace,
        values: &values,
        place: Place::ControlPlane(part.role),
        created_by: CREATED_BY,
    };
    let owner = inject::Owner { kind: "deployment".into(), name: part.name.into() };
    let around =
        Surroundings { namespace: Some(namespace), namespace_annotations: &Annotations::new(), owner: Some(&owner) };
    let meshed = inject::inject(&template, &mesh, &around).map_err(|skip| Error::Mesh(part.name, skip))?;
    Ok(meshed.pod)
}

/// Who made what is applied by people.
pub const CREATED_BY: &str = concat!("hawser/cli ", env!("CARGO_PKG_VERSION"));

/// Says on each object whose it is: `uninstall` and `check` find the installation by that.
fn sign(object: &mut Value, namespace: &str) {
    let labels = inject::object_at(&mut object["metadata"], "labels");
    labels.insert(names::CONTROL_PLANE_NS.into(), namespace.into());
    labels.insert(names::PART_OF.into(), names::PART_OF_HAWSER.into());
    let annotations = inject::object_at(&mut object["metadata"], "annotations");
    annotations.insert(names::CREATED_BY.into(), CREATED_BY.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ha() -> Values {
        let mut values = Values::default();
        values.make_highly_available();
        values
    }

    #[test]
    fn carries_no_data_for_secrets_and_the_bundle() {
        for object in render(&ha(), "hawser").unwrap() {
            if object["kind"] == "Secret" || object["metadata"]["name"] == names::BUNDLE_CONFIG_MAP {
                assert!(object.get("data").is_none() && object.get("stringData").is_none(), "{object}");
            }
            if object["kind"] == "MutatingWebhookConfiguration" {
                assert!(object["webhooks"][0]["clientConfig"].get("caBundle").is_none());
            }
        }
    }

    #[test]
    fn every_object_says_whose_it_is_and_is_in_the_namespace() {
        let cluster_wide = ["Namespace", "ClusterRole", "ClusterRoleBinding", "MutatingWebhookConfiguration"];
        for object in render(&ha(), "mesh").unwrap() {
            assert_eq!(object["metadata"]["labels"][names::CONTROL_PLANE_NS], "mesh");
            let is_cluster_wide = cluster_wide.iter().any(|kind| object["kind"] == *kind);
            assert_eq!(object["metadata"].get("namespace").is_none(), is_cluster_wide, "{object}");
        }
    }

    #[test]
    fn nobody_may_create_or_list_all_secrets() {
        for object in render(&Values::default(), "hawser").unwrap() {
            for rule in object["rules"].as_array().into_iter().flatten() {
                let of = |key: &str| rule[key].as_array().cloned().unwrap_or_default();
                assert!(!of("verbs").contains(&"*".into()) && !of("resources").contains(&"*".into()));
                if of("resources").contains(&"secrets".into()) {
                    assert!(!of("resourceNames").is_empty() && !of("verbs").contains(&"create".into()), "{rule}");
                    assert_eq!(object["kind"], "Role");
                }
            }
        }
    }

    #[test]
    fn an_issuer_that_is_brought_is_neither_made_nor_written_and_its_anchors_are_published() {
        let mut values = Values { identity_trust_anchors_pem: Some("PEM".into()), ..Values::default() };
        values.identity.issuer.external = true;
        let objects = render(&values, "hawser").unwrap();
        let named = |kind: &str, name: &str| {
            objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
        };
        assert!(named("Secret", names::ISSUER_SECRET).is_none() && named("Secret", names::ANCHOR_SECRET).is_some());
        assert_eq!(named("ConfigMap", names::BUNDLE_CONFIG_MAP).unwrap()["data"][names::BUNDLE_KEY], "PEM");
        let rules = named("Role", names::IDENTITY).unwrap()["rules"].as_array().unwrap();
        let of_issuer: Vec<&Value> =
            rules.iter().filter(|rule| rule["resourceNames"].to_string().contains(names::ISSUER_SECRET)).collect();
        assert_eq!(of_issuer.len(), 1);
        assert_eq!(of_issuer[0]["verbs"], json!(["get", "list", "watch"]));
    }

    #[test]
    fn only_roles_can_speak_to_the_api_server() {
        let deployments = render(&Values::default(), "hawser").unwrap();
        for deployment in deployments.iter().filter(|object| object["kind"] == "Deployment") {
            let spec = &deployment["spec"]["template"]["spec"];
            assert_eq!(spec["automountServiceAccountToken"], false);
            for container in spec["initContainers"].as_array().unwrap() {
                let mounts = container["volumeMounts"].to_string();
                assert!(!mounts.contains("kubernetes.io/serviceaccount"), "{mounts}");
            }
        }
    }

    #[test]
    fn a_role_reaches_itself_within_its_pod() {
        let environment = |name: &str| {
            let objects = render(&Values::default(), "hawser").unwrap();
            let deployment =
                objects.iter().find(|o| o["kind"] == "Deployment" && o["metadata"]["name"] == name).unwrap();
            let proxy = &deployment["spec"]["template"]["spec"]["initContainers"][1];
            assert_eq!((&proxy["name"], &proxy["startupProbe"]), (&json!("linkerd-proxy"), &Value::Null));
            proxy["env"]
                .as_array()
                .unwrap()
                .iter()
                .map(|v| format!("{}={}", v["name"], v["value"]))
                .collect::<Vec<_>>()
                .join("\n")
        };
        let identity = environment("hawser-identity");
        assert!(identity.contains("\"LINKERD2_PROXY_IDENTITY_SVC_ADDR\"=\"localhost.:8080\""));
        assert!(
            identity.contains("\"LINKERD2_PROXY_POLICY_SVC_ADDR\"=\"hawser-policy.hawser.svc.cluster.local.:8090\"")
        );
        assert!(identity.contains("HAWSER_TRUST_BUNDLE_FILE") && !identity.contains("IDENTITY_TRUST_ANCHORS"));
        let destination = environment("hawser-destination");
        assert!(destination.contains("\"LINKERD2_PROXY_DESTINATION_SVC_ADDR\"=\"localhost.:8086\""));
        assert!(destination.contains("\"LINKERD2_PROXY_POLICY_SVC_ADDR\"=\"localhost.:8090\""));
    }
}
