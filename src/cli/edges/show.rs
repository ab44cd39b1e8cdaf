//! How edges and connections are printed: as tables for people, as JSON for scripts.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::{Args, Format, View};
use crate::cli::output::{self, Glyph};
use crate::mesh::Identity;
use crate::mesh::connection::Tls;
use crate::mesh::edges::{self, Edge, Link, State, Witness};
use crate::mesh::places::Place;

pub(super) fn print(view: &View, args: &Args, now: SystemTime, out: &mut impl Write) -> anyhow::Result<()> {
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
        let name = |place: &Place| if wide { place.to_string() } else { place.name.clone() };
        let namespace = |place: &Place| place.namespace.clone().unwrap_or_else(|| "-".into());
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
        let tls = |value: fn(&Tls) -> &str| link.handshake().map_or("-", value).to_owned();
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

fn secured(state: &State, client: &Place, server: &Place) -> String {
    let glyph = match state {
        State::Secured => return Glyph::Good.paint(output::colours()),
        State::Passthrough | State::Unknown(_) => Glyph::Warning,
        State::Disagreement(_) | State::Plaintext(_) | State::ServerOnly => Glyph::Bad,
    };
    format!("{} {}", glyph.paint(output::colours()), state.words(client, server))
}

fn security_json(state: &State, client: &Place, server: &Place) -> Value {
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
            "seen_by": edge.witnesses.iter().map(|(witness, count)| (witness_name(*witness), count)).collect::<BTreeMap<_, _>>(),
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
