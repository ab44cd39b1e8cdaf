//! `hawser edges`: who talks to whom, and whether it is secured.
//!
//! Read from the proxies' own connection tables at the time of asking; see [`crate::mesh::edges`] for how the two ends become one, and
//! show.rs for how they are printed.

mod show;

use std::collections::{BTreeSet, HashSet};
use std::io::Write;
use std::str::FromStr;
use std::time::SystemTime;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::Api;
use kube::api::ListParams;
use serde::Serialize;

use super::{Global, Outcome, output};
use crate::checks::proxy_pod::{ProxyPod, State as ProxyState};
use crate::cluster::client::{self, Cluster, is_status};
use crate::cluster::port_forward::{self, PodPort};
use crate::cluster::snapshot::{self, Scope};
use crate::mesh::edges::{self, Grouping, Link, Report};
use crate::mesh::places::{self, Kind, Places, Spot};

/// Where our proxies tell of their connections.
const CONNECTIONS: &str = "/connections";

/// Show who talks to whom, and whether it is secured
///
/// Asks the proxy of every meshed pod what it measured of its connections, those open now and those closed lately, and
/// joins what both ends say. An edge is √ only where each end has proven itself to the other; else it says why not. The proxies' own
/// channels to the control plane are edges of the control plane's namespace.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only edges of workloads of this type (deploy, sts, ds, job, po …), or of one: deploy/web; `po` shows pods
    #[arg(value_name = "TYPE[/NAME]")]
    target: Option<Target>,
    /// The namespace at either end [default: that of the context]
    #[arg(long, short, conflicts_with = "all_namespaces")]
    namespace: Option<String>,
    /// Edges of all namespaces
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    /// How to print the edges
    #[arg(long, short, default_value = "table")]
    output: Format,
    /// List each open connection by itself
    #[arg(long)]
    connections: bool,
    /// Leave out connections that have closed
    #[arg(long)]
    live: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Format {
    Json,
    Table,
    /// With identities, handshakes and counts
    Wide,
}

/// Which workloads an edge must touch.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Target {
    kind: Kind,
    name: Option<String>,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, name) = text.split_once('/').map_or((text, None), |(kind, name)| (kind, Some(name.to_owned())));
        let kind = match kind.to_ascii_lowercase().as_str() {
            "cj" | "cronjob" | "cronjobs" => Kind::CronJob,
            "ds" | "daemonset" | "daemonsets" => Kind::DaemonSet,
            "deploy" | "deployment" | "deployments" => Kind::Deployment,
            "job" | "jobs" => Kind::Job,
            "po" | "pod" | "pods" => Kind::Pod,
            "rc" | "replicationcontroller" | "replicationcontrollers" => Kind::ReplicationController,
            "replicaset" | "replicasets" | "rs" => Kind::ReplicaSet,
            "statefulset" | "statefulsets" | "sts" => Kind::StatefulSet,
            _ => {
                return Err(
                    "expected one of deploy, sts, ds, job, cj, rs, rc or po, as `deploy` or `deploy/NAME`".into()
                );
            }
        };
        Ok(Self { kind, name })
    }
}

pub(super) fn run(global: &Global, args: &Args, out: &mut impl Write) -> anyhow::Result<Outcome> {
    let seen = super::block_on(async {
        let cluster = client::connect(&global.cluster()).await?;
        look(&cluster, args).await
    })?;
    for pod in &seen.unanswered {
        output::say(&format!("no answer from {}/{}: {}", pod.namespace, pod.pod, pod.reason));
    }
    show::print(&seen, args, SystemTime::now(), out)?;
    Ok(Outcome::Yes)
}

/// What the proxies told.
struct View {
    links: Vec<Link>,
    grouping: Grouping,
    answered: usize,
    unanswered: Vec<Unanswered>,
    /// How many connections proxies had no room to list.
    dropped: u64,
}

#[derive(Clone, Debug, Serialize)]
struct Unanswered {
    namespace: String,
    pod: String,
    reason: String,
}

async fn look(cluster: &Cluster, args: &Args) -> anyhow::Result<View> {
    let client = &cluster.client;
    let scope = match (&args.namespace, args.all_namespaces) {
        (_, true) => Scope::All,
        (Some(namespace), _) => Scope::Namespace(namespace.clone()),
        (None, _) => Scope::Namespace(client.default_namespace().to_owned()),
    };
    let (pods, places) = everyone(client, &scope).await?;
    let mut asked: HashSet<(String, String)> = HashSet::new();
    let (mut reports, mut unanswered) = (Vec::new(), Vec::new());
    let mut wanted: BTreeSet<(String, String)> = pods
        .iter()
        .filter(|pod| places::is_meshed(pod))
        .map(key)
        .filter(|(namespace, _)| scope.includes(namespace))
        .collect();
    // Twice: whoever is at the other end of what the pods of the scope told is asked too, so that both ends are heard.
    for _ in 0..2 {
        let chosen = pods.iter().filter(|pod| wanted.contains(&key(pod)) && !places::has_ended(pod));
        let chosen: Vec<&Pod> = chosen.filter(|pod| asked.insert(key(pod))).collect();
        let progress = output::bar(chosen.len(), "asking proxies");
        for answer in snapshot::each(chosen, |pod| ask(client, pod), || progress.advance()).await {
            match answer {
                Ok(report) => reports.push(report),
                Err(pod) => unanswered.push(pod),
            }
        }
        wanted = reports.iter().flat_map(|report| report.others(&places)).collect();
    }
    if reports.is_empty() && !unanswered.is_empty() {
        let first = &unanswered[0];
        bail!("no proxy answered; the first, of {}/{}, says: {}", first.namespace, first.pod, first.reason);
    }
    let mut links = edges::join(&reports, &places);
    links.retain(|link| is_wanted(link, &scope, args));
    let grouping = match &args.target {
        Some(Target { kind: Kind::Pod, .. }) => Grouping::Pod,
        _ => Grouping::Workload,
    };
    let dropped = reports.iter().map(|report| report.dropped).sum();
    Ok(View { links, grouping, answered: reports.len(), unanswered, dropped })
}

/// All pods, and who is behind all addresses of the cluster, for any of them can be at the other end; of the scope where we may see no more.
async fn everyone(client: &kube::Client, scope: &Scope) -> anyhow::Result<(Vec<Pod>, Places)> {
    let wanted = ListParams::default().match_any();
    let all = async |scope: &Scope| {
        let services = scope.api::<Service>(client);
        tokio::try_join!(snapshot::pods(client, scope, None), async { Ok(services.list(&wanted).await?.items) })
    };
    let nodes = Api::<Node>::all(client.clone());
    let (listed, nodes) = tokio::join!(all(&Scope::All), nodes.list(&wanted));
    let (pods, services) = match listed {
        Err(error) if is_status(&error, 403) && *scope != Scope::All => {
            output::say(&format!(
                "you may not list pods of other namespaces: what is not in {scope} is shown by its address"
            ));
            all(scope).await
        }
        listed => listed,
    }
    .context("cannot list pods and Services")?;
    // Who may not see the nodes sees their addresses.
    let nodes = nodes.map(|nodes| nodes.items).unwrap_or_default();
    let places = Places::new(&pods, &services).with_nodes(&nodes);
    Ok((pods, places))
}

fn key(pod: &Pod) -> (String, String) {
    (pod.metadata.namespace.clone().unwrap_or_default(), pod.metadata.name.clone().unwrap_or_default())
}

async fn ask(client: &kube::Client, pod: &Pod) -> Result<Report, Unanswered> {
    let (namespace, name) = key(pod);
    let unanswered = |reason: String| Unanswered { namespace: namespace.clone(), pod: name.clone(), reason };
    let proxy = ProxyPod::of(pod).map_err(|reason| unanswered(reason.to_string()))?;
    if proxy.state == ProxyState::NotRunning {
        return Err(unanswered("its proxy does not run".into()));
    }
    let to = PodPort { namespace: namespace.clone(), pod: name.clone(), port: proxy.admin_port };
    let answer = match port_forward::body_at(client, &to, CONNECTIONS).await {
        Ok(answer) => answer,
        Err(port_forward::Error::Status { status: http::StatusCode::NOT_FOUND, .. }) => {
            return Err(unanswered("its proxy is not hawser's, and lists no connections".into()));
        }
        Err(error) => return Err(unanswered(output::causes(&error).join(": "))),
    };
    let spot = Spot { place: places::workload(pod), pod: Some(name.clone()) };
    Report::parse(spot, &answer).map_err(|error| unanswered(output::causes(&error).join(": ")))
}

fn is_wanted(link: &Link, scope: &Scope, args: &Args) -> bool {
    let ends = [&link.client, &link.server];
    let in_scope =
        ends.iter().any(|end| end.place.namespace.as_deref().is_some_and(|namespace| scope.includes(namespace)));
    let matches = |target: &Target, end: &Spot| match (&target.name, target.kind) {
        (Some(name), Kind::Pod) => end.pod.as_ref() == Some(name),
        (None, Kind::Pod) => end.pod.is_some(),
        (name, kind) => end.place.kind == kind && name.as_ref().is_none_or(|name| *name == end.place.name),
    };
    in_scope
        && args.target.as_ref().is_none_or(|target| ends.iter().any(|end| matches(target, end)))
        && (link.is_live() || !(args.live || args.connections))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser as _;
    use serde_json::Value;

    use super::show::print;
    use super::*;
    use crate::mesh::connection::{Direction, PlaintextReason, Security};
    use crate::mesh::edges::tests::{CART, WEB, connection, places, plaintext, report, tls};

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn args(line: &[&str]) -> Args {
        Command::parse_from(std::iter::once(&"edges").chain(line)).args
    }

    /// `web` calls `cart` over mutual TLS; `plain`, of another namespace, calls it without.
    fn view(args: &Args, scope: &Scope) -> View {
        let mutual = Security::Mutual(tls());
        let ours = connection(Direction::Outbound, "10.0.0.1:40000", "10.0.0.2:4143", mutual.clone());
        let theirs = connection(Direction::Inbound, "10.0.0.1:40000", "10.0.0.2:4143", mutual);
        let reason = plaintext(PlaintextReason::NoTlsFromRemote);
        let mut plain = connection(Direction::Inbound, "10.0.0.3:40000", "10.0.0.2:8080", reason);
        plain.closed_at = Some(1001);
        let reports = [report(WEB, vec![ours]), report(CART, vec![theirs, plain])];
        let mut links = edges::join(&reports, &places());
        links.retain(|link| is_wanted(link, scope, args));
        let silent = Unanswered { namespace: "shop".into(), pod: "cart-2".into(), reason: "no answer".into() };
        View { links, grouping: Grouping::Workload, answered: 2, unanswered: vec![silent], dropped: 0 }
    }

    fn printed(line: &[&str], scope: &Scope) -> String {
        let (args, mut out) = (args(line), Vec::new());
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1060);
        print(&view(&args, scope), &args, now, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn shop() -> Scope {
        Scope::Namespace("shop".into())
    }

    #[test]
    fn the_table_says_what_is_secured_and_why_the_rest_is_not() {
        let expected = "\
SRC    DST   SRC_NS  DST_NS  PORT  SECURED
plain  cart  load    shop    8080  × plaintext: client is not meshed
web    cart  shop    shop    8080  √
";
        assert_eq!(printed(&[], &shop()), expected);
    }

    #[test]
    fn wide_has_what_was_measured() {
        let text = printed(&["-o", "wide"], &shop());
        let secured = text.lines().find(|line| line.starts_with("deploy/web")).unwrap();
        assert!(secured.contains("web.shop   cart.shop"), "{text}");
        assert!(secured.contains("TLSv1.3/TLS13_AES_128_GCM_SHA256/X25519MLKEM768"), "{text}");
        assert!(secured.contains("both"), "{text}");
    }

    #[test]
    fn json_lists_the_pods_that_did_not_answer() {
        let value: Value = serde_json::from_str(&printed(&["-o", "json"], &shop())).unwrap();
        assert_eq!(value["unanswered"][0]["pod"], "cart-2");
        let edges = value["edges"].as_array().unwrap();
        assert_eq!(edges[0]["no_tls_reason"], "no_tls_from_remote");
        assert_eq!(edges[0]["secured"], false);
        assert_eq!(edges[1]["secured"], true);
        assert_eq!(edges[1]["reason"], Value::Null);
        assert_eq!(edges[1]["client_id"], "web.shop.serviceaccount.identity.hawser.cluster.local");
        assert_eq!(edges[1]["seen_by"]["both"], 1);
    }

    #[test]
    fn connections_lists_the_open_ones_with_both_certificates() {
        let text = printed(&["--connections"], &shop());
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(
            text.contains("10.0.0.1:40000") && text.contains("0a (15m40s left)") && text.contains("1m0s"),
            "{text}"
        );
        let value: Value = serde_json::from_str(&printed(&["--connections", "-o", "json"], &shop())).unwrap();
        assert_eq!(value["connections"][0]["server_certificate"]["serial"], "0a");
        assert_eq!(value["connections"][0]["group"], "X25519MLKEM768");
    }

    #[test]
    fn live_leaves_out_what_has_closed() {
        assert!(!printed(&["--live"], &shop()).contains("plain"));
    }

    #[test]
    fn a_namespace_is_that_of_either_end() {
        let text = printed(&[], &Scope::Namespace("load".into()));
        assert!(text.contains("plain") && !text.contains("web"), "{text}");
        assert_eq!(printed(&[], &Scope::Namespace("other".into())), "");
    }

    #[test]
    fn a_type_or_a_name_chooses_edges() {
        assert!(printed(&["deploy/web"], &shop()).contains("web"));
        assert!(!printed(&["deploy/web"], &shop()).contains("plain"));
        assert_eq!(printed(&["sts"], &shop()), "");
    }

    #[test]
    fn types_are_known_by_their_usual_names_and_others_refused() {
        assert_eq!("deployments".parse(), Ok(Target { kind: Kind::Deployment, name: None }));
        assert_eq!("po/web-1".parse(), Ok(Target { kind: Kind::Pod, name: Some("web-1".into()) }));
        assert!("service".parse::<Target>().is_err());
    }
}
