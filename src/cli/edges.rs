//! `hawser edges`: who talks to whom, and whether it is secured.
//!
//! Read from the proxies' own connection tables at the time of asking; see [`crate::mesh::edges`] for how the two ends become one.

use std::collections::{BTreeSet, HashSet};
use std::io::Write;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::Api;
use kube::api::ListParams;
use serde::Serialize;
use serde_json::{Value, json};

use super::output::{self, Glyph};
use super::{Global, Outcome};
use crate::checks::proxy_pod::{ProxyPod, State as ProxyState};
use crate::cluster::client::{self, Cluster, is_status};
use crate::cluster::port_forward::{self, PodPort};
use crate::cluster::snapshot::{self, Scope};
use crate::mesh::Identity;
use crate::mesh::edges::{self, Edge, Grouping, Link, Report, State, Witness};
use crate::mesh::places::{self, Kind, Places, Spot};

/// Where our proxies tell of their connections.
const CONNECTIONS: &str = "/connections";

/// Show who talks to whom, and whether it is secured
///
/// Asks the proxy of every meshed pod what it measured of its connections, those open now and those closed lately, and
/// joins what both ends say. An edge is √ only where each end has proven itself to the other; else it says why not.
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
    print(&seen, args, SystemTime::now(), out)?;
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

fn print(view: &View, args: &Args, now: SystemTime, out: &mut impl Write) -> anyhow::Result<()> {
    let mut links: Vec<&Link> = view.links.iter().collect();
    links.sort_by_key(|link| {
        (link.client.place.clone(), link.server.place.clone(), link.view().map(|view| view.client))
    });
    let edges = edges::aggregate(links.iter().copied(), view.grouping);
    if args.output == Format::Json {
        let mut value = json!({
            "edges": edges.iter().map(edge_json).collect::<Vec<_>>(),
            "answered": view.answered,
            "unanswered": view.unanswered,
            "dropped": view.dropped,
        });
        if args.connections {
            value["connections"] = links.iter().map(|link| link_json(link)).collect();
        }
        return output::json(&value, out);
    }
    if view.dropped > 0 {
        output::say(&format!("{} connections were not listed: too many for their proxies", view.dropped));
    }
    if edges.is_empty() {
        output::say(&format!("no edges found; {} proxies answered", view.answered));
        return Ok(());
    }
    let mut table = if args.connections {
        connections_table(&links, now)
    } else {
        edges_table(&edges, args.output == Format::Wide)
    };
    out.write_all(output::text(&mut table).as_bytes())?;
    Ok(())
}

fn edges_table(edges: &[Edge], wide: bool) -> comfy_table::Table {
    let mut header = vec!["SRC", "DST", "SRC_NS", "DST_NS", "PORT"];
    if wide {
        header.extend([
            "CLIENT_ID",
            "SERVER_ID",
            "PROTOCOL",
            "HANDSHAKE",
            "LIVE",
            "RECENT",
            "REQUESTS",
            "SENT",
            "RECEIVED",
            "SEEN_BY",
        ]);
    }
    header.push("SECURED");
    let mut table = output::table(&header);
    for edge in edges {
        // Names alone are how people know the columns; with many kinds in one table, wide tells which.
        let name = |place: &places::Place| if wide { place.to_string() } else { place.name.clone() };
        let namespace = |place: &places::Place| place.namespace.clone().unwrap_or_else(|| "-".into());
        let mut row = vec![
            name(&edge.client),
            name(&edge.server),
            namespace(&edge.client),
            namespace(&edge.server),
            edge.port.to_string(),
        ];
        if wide {
            row.extend([
                short(edge.client_identity.as_ref()),
                short(edge.server_identity.as_ref()),
                edge.protocols.iter().cloned().collect::<Vec<_>>().join(","),
                or_dash(edge.handshakes.iter().map(|facts| facts.join("/")).collect::<Vec<_>>().join(",")),
                edge.live.to_string(),
                edge.recent.to_string(),
                edge.requests.to_string(),
                output::bytes(edge.bytes_sent),
                output::bytes(edge.bytes_received),
                edge.witnesses.keys().map(|witness| witness_name(*witness)).collect::<Vec<_>>().join(","),
            ]);
        }
        row.push(secured(&edge.state, &edge.client, &edge.server));
        table.add_row(row);
    }
    table
}

fn connections_table(links: &[&Link], now: SystemTime) -> comfy_table::Table {
    let mut table = output::table(&[
        "SRC",
        "DST",
        "CLIENT",
        "SERVER",
        "TARGET",
        "PROTOCOL",
        "TLS",
        "CIPHER",
        "GROUP",
        "CLIENT_CERT",
        "SERVER_CERT",
        "AGE",
        "REQUESTS",
        "SENT",
        "RECEIVED",
        "SEEN_BY",
        "SECURED",
    ]);
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    for link in links {
        let Some(view) = link.view() else { continue };
        let tls = |value: fn(&crate::mesh::connection::Tls) -> &str| link.handshake().map_or("-", value).to_owned();
        let certificate = |certificate: Option<(&str, Option<u64>)>| match certificate {
            Some((serial, Some(end))) => {
                format!("{serial} ({} left)", output::duration(end.cast_signed() - now.cast_signed()))
            }
            Some((serial, None)) => serial.to_owned(),
            None => "-".into(),
        };
        table.add_row([
            link.client.place.to_string(),
            link.server.place.to_string(),
            view.client.to_string(),
            view.server.to_string(),
            view.target.to_string(),
            view.protocol.to_string(),
            tls(|tls| &tls.version),
            tls(|tls| &tls.cipher),
            tls(|tls| &tls.group),
            certificate(link.client_certificate()),
            certificate(link.server_certificate()),
            output::duration(now.cast_signed() - view.opened_at.cast_signed()),
            view.requests.to_string(),
            output::bytes(view.bytes_sent),
            output::bytes(view.bytes_received),
            witness_name(link.witness()).to_owned(),
            secured(&link.state, &link.client.place, &link.server.place),
        ]);
    }
    table
}

fn short(identity: Option<&Identity>) -> String {
    identity.map_or("-", Identity::short).to_owned()
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".into() } else { text }
}

fn witness_name(witness: Witness) -> &'static str {
    match witness {
        Witness::Both => "both",
        Witness::Client => "client",
        Witness::Server => "server",
    }
}

fn secured(state: &State, client: &places::Place, server: &places::Place) -> String {
    let glyph = match state {
        State::Secured => return Glyph::Good.paint(output::colours()),
        State::Passthrough | State::Unknown(_) => Glyph::Warning,
        State::Disagreement(_) | State::Plaintext(_) | State::ServerOnly => Glyph::Bad,
    };
    format!("{} {}", glyph.paint(output::colours()), state.words(client, server))
}

fn security_json(state: &State, client: &places::Place, server: &places::Place) -> Value {
    let plaintext = matches!(state, State::Plaintext(_));
    json!({
        "secured": state.is_secured(),
        "security": state.code(),
        "reason": (!state.is_secured()).then(|| state.words(client, server)),
        "no_tls_reason": plaintext.then(|| state.code()),
        "src": client.name, "src_kind": client.kind, "src_namespace": client.namespace, "src_meshed": client.meshed,
        "dst": server.name, "dst_kind": server.kind, "dst_namespace": server.namespace, "dst_meshed": server.meshed,
    })
}

fn edge_json(edge: &Edge) -> Value {
    let mut value = security_json(&edge.state, &edge.client, &edge.server);
    let handshakes = edge
        .handshakes
        .iter()
        .map(|[version, cipher, group]| json!({"version": version, "cipher": cipher, "group": group}));
    extend(
        &mut value,
        json!({
            "port": edge.port,
            "client_id": edge.client_identity,
            "server_id": edge.server_identity,
            "protocols": edge.protocols,
            "handshakes": handshakes.collect::<Vec<_>>(),
            "live": edge.live,
            "recent": edge.recent,
            "requests": edge.requests,
            "bytes_sent": edge.bytes_sent,
            "bytes_received": edge.bytes_received,
            "seen_by": edge.witnesses.iter().map(|(witness, count)| (witness_name(*witness), count)).collect::<std::collections::BTreeMap<_, _>>(),
        }),
    );
    value
}

fn link_json(link: &Link) -> Value {
    let mut value = security_json(&link.state, &link.client.place, &link.server.place);
    let certificate = |certificate: Option<(&str, Option<u64>)>| {
        certificate.map(|(serial, end)| {
            json!({
                "serial": serial,
                "not_after": end.map(|end| output::instant(SystemTime::UNIX_EPOCH + Duration::from_secs(end))),
            })
        })
    };
    let tls = link.handshake();
    extend(
        &mut value,
        json!({
            "src_pod": link.client.pod,
            "dst_pod": link.server.pod,
            "client_id": link.client_identity(),
            "server_id": link.server_identity(),
            "tls_version": tls.map(|tls| &tls.version),
            "cipher": tls.map(|tls| &tls.cipher),
            "group": tls.map(|tls| &tls.group),
            "client_certificate": certificate(link.client_certificate()),
            "server_certificate": certificate(link.server_certificate()),
            "seen_by": witness_name(link.witness()),
        }),
    );
    if let Some(view) = link.view() {
        extend(
            &mut value,
            json!({
                "client": view.client,
                "server": view.server,
                "target": view.target,
                "authority": view.authority,
                "protocol": view.protocol,
                "opened_at": view.opened_at,
                "bytes_sent": view.bytes_sent,
                "bytes_received": view.bytes_received,
                "requests": view.requests,
            }),
        );
    }
    value
}

fn extend(value: &mut Value, more: Value) {
    if let (Value::Object(value), Value::Object(more)) = (value, more) {
        value.extend(more);
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

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
