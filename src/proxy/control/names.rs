//! Where a service of the control plane is: DNS, asked anew each time.
//!
//! In: host and port. Out: socket addresses. SRV records count where their targets name addresses, as those of headless Services do
//! (a stock Linkerd has such); else A and AAAA with the port that was given.
//!
//! Start at [`resolve`].

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_resolver::config::LookupIpStrategy;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use hickory_resolver::{ResolverBuilder, TokioResolver};
use tokio::time::timeout;

use crate::proxy::settings::ControlAddr;

/// A DNS query that got lost is asked again well within the wait of one request.
const DNS_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a service has no address.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("cannot resolve {0}")]
    Resolve(String, #[source] Box<NetError>),
    #[error("{0} has no address")]
    NoAddress(String),
}

/// The addresses of a service: by SRV if its name has such with addresses in the names, else by A and AAAA.
///
/// # Errors
/// Where DNS knows the name not, or not in time.
pub(super) async fn resolve(service: &ControlAddr) -> Result<Vec<SocketAddr>, Error> {
    let ControlAddr { host, port } = service;
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, *port)]);
    }
    if service.is_loopback() {
        // RFC 6761 §6.3: the name never needs DNS.
        return Ok([IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()].map(|ip| (ip, *port).into()).into());
    }
    let failed = |error| Error::Resolve(host.clone(), Box::new(error));
    let system = TokioResolver::builder_tokio().map_err(failed)?;
    look_up(forgetful(system).map_err(failed)?, host, *port).await
}

async fn look_up(resolver: TokioResolver, host: &str, port: u16) -> Result<Vec<SocketAddr>, Error> {
    let (services, ips) =
        within(async { tokio::join!(resolver.lookup(host, RecordType::SRV), resolver.lookup_ip(host)) })
            .await
            .ok_or_else(|| Error::Resolve(host.into(), Box::new(NetError::Timeout)))?;
    let services = services.iter().flat_map(|found| found.answers()).filter_map(|record| match &record.data {
        RData::SRV(found) => Some(SocketAddr::new(ip_of_label(&found.target.to_utf8())?, found.port)),
        _ => None,
    });
    let services: Vec<SocketAddr> = services.collect();
    if !services.is_empty() {
        return Ok(services);
    }
    let ips = ips.map_err(|error| Error::Resolve(host.into(), Box::new(error)))?;
    let addresses: Vec<SocketAddr> = ips.iter().map(|ip| SocketAddr::new(ip, port)).collect();
    if addresses.is_empty() { Err(Error::NoAddress(host.into())) } else { Ok(addresses) }
}

/// A resolver without memory.
fn forgetful(mut builder: ResolverBuilder<TokioRuntimeProvider>) -> Result<TokioResolver, NetError> {
    let options = builder.options_mut();
    options.cache_size = 0;
    options.timeout = DNS_TIMEOUT;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    // Names of services are complete, so they are asked for as they are before any search domain is tried.
    options.ndots = 1;
    builder.build()
}

/// Search domains and retries multiply; the whole of it has a limit too.
async fn within<F: Future>(look_up: F) -> Option<F::Output> {
    timeout(DNS_TIMEOUT * 4, look_up).await.ok()
}

/// The address in the first label of an SRV target, such as `10-1-2-3.name.namespace.svc.cluster.local.`.
fn ip_of_label(target: &str) -> Option<IpAddr> {
    let label = target.split('.').next()?;
    let v4 = label.replace('-', ".").parse().ok().map(IpAddr::V4);
    v4.or_else(|| label.replace('-', ":").parse().ok().map(IpAddr::V6))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
    use hickory_resolver::proto::op::{Message, ResponseCode};
    use hickory_resolver::proto::rr::rdata::SRV;
    use hickory_resolver::proto::rr::{Name, Record};
    use tokio::net::UdpSocket;

    use super::*;

    const HOST: &str = "identity-headless.hawser.svc.cluster.local";

    /// A DNS server that answers with these records; those it has none for, with "no such name".
    struct Dns {
        port: u16,
        records: Arc<Mutex<Vec<RData>>>,
        queries: Arc<Mutex<usize>>,
    }

    impl Dns {
        async fn start() -> Self {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let port = socket.local_addr().unwrap().port();
            let (records, queries) = (Arc::new(Mutex::new(Vec::<RData>::new())), Arc::new(Mutex::new(0)));
            let dns = Self { port, records: records.clone(), queries: queries.clone() };
            crate::net::drain::Drain::new().spawn(async move {
                let mut buffer = [0; 2048];
                while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
                    *queries.lock().unwrap() += 1;
                    let mut message = Message::from_vec(&buffer[..length]).unwrap().into_response();
                    let query = message.queries[0].clone();
                    for data in records.lock().unwrap().iter() {
                        if data.record_type() == query.query_type() {
                            message.add_answer(Record::from_rdata(query.name().clone(), 30, data.clone()));
                        }
                    }
                    if message.answers.is_empty() {
                        message.metadata.response_code = ResponseCode::NXDomain;
                    }
                    socket.send_to(&message.to_vec().unwrap(), client).await.unwrap();
                }
            });
            dns
        }

        async fn resolve(&self) -> Result<Vec<SocketAddr>, Error> {
            let mut connection = ConnectionConfig::udp();
            connection.port = self.port;
            let server = NameServerConfig::new(Ipv4Addr::LOCALHOST.into(), true, vec![connection]);
            let config = ResolverConfig::from_parts(None, vec![], vec![server]);
            let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
            look_up(forgetful(builder).unwrap(), HOST, 8080).await
        }
    }

    fn srv(target: &str, port: u16) -> RData {
        RData::SRV(SRV::new(0, 100, port, Name::from_utf8(target).unwrap()))
    }

    #[tokio::test]
    async fn finds_the_addresses_in_the_targets_of_srv_records() {
        let dns = Dns::start().await;
        let target = |label: &str| format!("{label}.{HOST}.");
        *dns.records.lock().unwrap() = vec![
            srv(&target("10-244-1-7"), 8090),
            srv(&target("fd00--7"), 8090),
            RData::A(Ipv4Addr::new(10, 0, 0, 1).into()),
        ];
        let mut found = dns.resolve().await.unwrap();
        found.sort();
        assert_eq!(found, ["10.244.1.7:8090".parse().unwrap(), "[fd00::7]:8090".parse().unwrap()]);
    }

    #[tokio::test]
    async fn falls_back_to_a_records_where_srv_targets_are_names() {
        let dns = Dns::start().await;
        *dns.records.lock().unwrap() =
            vec![srv(&format!("{HOST}."), 8090), RData::A(Ipv4Addr::new(10, 96, 0, 9).into())];
        assert_eq!(dns.resolve().await.unwrap(), ["10.96.0.9:8080".parse().unwrap()]);
    }

    #[tokio::test]
    async fn finds_a_name_as_soon_as_it_exists() {
        let dns = Dns::start().await;
        assert!(matches!(dns.resolve().await, Err(Error::Resolve(..))));
        let asked = *dns.queries.lock().unwrap();
        *dns.records.lock().unwrap() = vec![RData::A(Ipv4Addr::new(10, 96, 0, 9).into())];
        assert_eq!(dns.resolve().await.unwrap(), ["10.96.0.9:8080".parse().unwrap()]);
        assert!(*dns.queries.lock().unwrap() > asked, "answered from memory");
    }

    #[tokio::test]
    async fn addresses_and_localhost_need_no_dns() {
        let resolved = |address: &'static str| async move { resolve(&address.parse().unwrap()).await.unwrap() };
        assert_eq!(resolved("192.0.2.1:80").await, ["192.0.2.1:80".parse().unwrap()]);
        assert_eq!(resolved("localhost.:80").await, ["127.0.0.1:80".parse().unwrap(), "[::1]:80".parse().unwrap()]);
    }
}
