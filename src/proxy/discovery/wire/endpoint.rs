//! Turns an address of a destination into an endpoint.
//!
//! An endpoint that makes no sense is left out; one whose identity makes no sense is kept, and never reached: in plaintext it must not be.
//!
//! Start at [`endpoint`].

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use super::duration;
use crate::mesh::Endpoint;
use crate::mesh::endpoint::{Hint, Http2Client, Server};
use crate::wire::destination::{self, Http2ClientParams, WeightedAddr, protocol_hint, tls_identity};
use crate::wire::net;

/// The largest window that HTTP/2 has (RFC 9113 §6.9.1): no connection lasts on which a larger one is said.
const WINDOW_MAX: u32 = (1 << 31) - 1;
/// Pings that come more often would be most of what there is, and peers take them for an attack.
const PING_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// An IP address and a port other than 0.
pub(in crate::proxy::discovery) fn socket_address(address: net::TcpAddress) -> Option<SocketAddr> {
    let ip = address.ip?.try_into().ok()?;
    let port = u16::try_from(address.port).ok().filter(|port| *port != 0)?;
    Some(SocketAddr::new(ip, port))
}

/// One endpoint of a set with `set_labels`; none where it has no address.
pub(in crate::proxy::discovery) fn endpoint(
    said: WeightedAddr,
    set_labels: &HashMap<String, String>,
) -> Option<Endpoint> {
    let address = socket_address(said.addr?)?;
    let mut labels: BTreeMap<String, String> = set_labels.clone().into_iter().collect();
    labels.extend(said.metric_labels);
    let hint = said.protocol_hint.unwrap_or_default();
    let header_port = hint
        .opaque_transport
        .and_then(|transport| u16::try_from(transport.inbound_port).ok())
        .filter(|port| (1..u16::MAX).contains(port));
    Some(Endpoint {
        address,
        server: said.tls_identity.map_or(Server::Unmeshed, server),
        hint: match hint.protocol {
            Some(protocol_hint::Protocol::H2(_)) => Hint::Http2,
            Some(protocol_hint::Protocol::Opaque(_)) => Hint::Opaque,
            None => Hint::Unknown,
        },
        header_port,
        authority_override: said.authority_override.and_then(|said| {
            let (name, port) = said.authority_override.rsplit_once(':')?;
            Some((name.to_owned(), port.parse().ok()?))
        }),
        http2: said.http2.map(http2).unwrap_or_default(),
        labels,
    })
}

fn server(said: destination::TlsIdentity) -> Server {
    let server_name = said.server_name.map(|name| name.name);
    match said.strategy {
        Some(tls_identity::Strategy::DnsLikeIdentity(dns)) => match dns.name.parse() {
            Ok(identity) => Server::Meshed { identity, server_name: server_name.unwrap_or(dns.name) },
            Err(_) => Server::Unverifiable(dns.name),
        },
        Some(tls_identity::Strategy::UriLikeIdentity(uri)) => Server::Unverifiable(uri.uri),
        None => Server::Unverifiable("an identity of an unknown kind".into()),
    }
}

fn http2(said: Http2ClientParams) -> Http2Client {
    let window = |size: u32| (size > 0).then_some(size.min(WINDOW_MAX));
    let flow = said.flow_control.unwrap_or_default();
    let keepalive = said.keep_alive.and_then(|keepalive| {
        let interval = duration(keepalive.interval?)?;
        Some((interval, duration(keepalive.timeout?)?))
    });
    Http2Client {
        keepalive: keepalive
            .filter(|(interval, timeout)| !interval.is_zero() && !timeout.is_zero())
            .map(|(interval, timeout)| (interval.max(PING_INTERVAL_MIN), timeout)),
        stream_window: window(flow.initial_stream_window_size),
        connection_window: window(flow.initial_connection_window_size),
        adaptive_window: flow.adaptive_flow_control,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::destination::{ProtocolHint, TlsIdentity, http2_client_params};

    fn said() -> WeightedAddr {
        let address: SocketAddr = "10.0.0.1:80".parse().unwrap();
        WeightedAddr { addr: Some(address.into()), ..WeightedAddr::default() }
    }

    fn read(said: WeightedAddr) -> Endpoint {
        endpoint(said, &HashMap::from([("service".to_owned(), "web".to_owned())])).unwrap()
    }

    fn identified(strategy: tls_identity::Strategy) -> Server {
        let identity = TlsIdentity { strategy: Some(strategy), server_name: None };
        read(WeightedAddr { tls_identity: Some(identity), ..said() }).server
    }

    #[test]
    fn an_address_is_big_endian_and_labels_are_those_of_set_and_endpoint() {
        let mut said = said();
        said.addr = Some(net::TcpAddress {
            ip: Some(net::IpAddress { ip: Some(net::ip_address::Ip::Ipv4(0x0a00_0001)) }),
            port: 80,
        });
        said.metric_labels.insert("pod".into(), "web-1".into());
        let endpoint = read(said);
        assert_eq!(endpoint.address, "10.0.0.1:80".parse().unwrap());
        assert_eq!(endpoint.labels, BTreeMap::from([("pod".into(), "web-1".into()), ("service".into(), "web".into())]));
        assert_eq!((endpoint.server, endpoint.header_port), (Server::Unmeshed, None));
    }

    #[test]
    fn an_endpoint_without_a_usable_address_is_left_out() {
        let port = |port| WeightedAddr { addr: said().addr.map(|addr| net::TcpAddress { port, ..addr }), ..said() };
        for said in [WeightedAddr::default(), port(0), port(70_000)] {
            assert_eq!(endpoint(said, &HashMap::new()), None);
        }
    }

    #[test]
    fn the_server_name_is_the_identity_unless_given() {
        let dns = tls_identity::DnsLikeIdentity { name: "web.shop".into() };
        let server = identified(tls_identity::Strategy::DnsLikeIdentity(dns));
        assert_eq!(server, Server::Meshed { identity: "web.shop".parse().unwrap(), server_name: "web.shop".into() });
    }

    #[test]
    fn an_identity_that_cannot_be_verified_does_not_make_an_endpoint_plaintext() {
        let uri = tls_identity::UriLikeIdentity { uri: "spiffe://cluster.local/web".into() };
        let dns = tls_identity::DnsLikeIdentity { name: "web.shop.".into() };
        for strategy in [tls_identity::Strategy::UriLikeIdentity(uri), tls_identity::Strategy::DnsLikeIdentity(dns)] {
            assert!(matches!(identified(strategy), Server::Unverifiable(_)));
        }
        let none = TlsIdentity { strategy: None, server_name: None };
        assert!(matches!(read(WeightedAddr { tls_identity: Some(none), ..said() }).server, Server::Unverifiable(_)));
    }

    #[test]
    fn windows_and_pings_are_kept_within_what_http2_can_do() {
        let flow_control = Some(http2_client_params::FlowControl {
            initial_stream_window_size: u32::MAX,
            initial_connection_window_size: u32::MAX,
            adaptive_flow_control: false,
        });
        let nano = Some(prost_types::Duration { seconds: 0, nanos: 1 });
        let keep_alive = http2_client_params::KeepAlive { interval: nano, timeout: nano, ..Default::default() };
        let params = Http2ClientParams { flow_control, keep_alive: Some(keep_alive), ..Default::default() };
        let http2 = read(WeightedAddr { http2: Some(params), ..said() }).http2;
        assert_eq!((http2.stream_window, http2.connection_window), (Some(WINDOW_MAX), Some(WINDOW_MAX)));
        assert_eq!(http2.keepalive, Some((PING_INTERVAL_MIN, Duration::from_nanos(1))));
    }

    #[test]
    fn a_header_port_out_of_range_is_none() {
        let with = |inbound_port| {
            let opaque_transport = Some(protocol_hint::OpaqueTransport { inbound_port });
            read(WeightedAddr { protocol_hint: Some(ProtocolHint { protocol: None, opaque_transport }), ..said() })
        };
        assert_eq!(with(4143).header_port, Some(4143));
        for port in [0, 65_535, 70_000] {
            assert_eq!(with(port).header_port, None);
        }
    }
}
