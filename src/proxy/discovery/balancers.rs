//! Tells of the backends that are in use, when scraped: how many endpoints each has, how many wait for one, and how often it was
//! told of endpoints.
//!
//! In: the backends by authority. Out: `outbound_http_balancer_*`. Nothing is counted meanwhile, so requests pay nothing for it; opaque
//! connections share the endpoints of requests, and so these families.

use std::fmt;
use std::sync::Weak;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use super::{Shared, lock};
use crate::proxy::backend::{Backend, Census};
use crate::proxy::metrics::Labels;

pub(super) struct Balancers(pub Weak<Shared>);

impl Collector for Balancers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(shared) = self.0.upgrade() else { return Ok(()) };
        let told =
            |(authority, backend): (&String, &Weak<Backend>)| Some((labels(authority), backend.upgrade()?.census()?));
        let told: Vec<(Labels, Census)> = lock(&shared.balances).iter().filter_map(told).collect();
        if told.is_empty() {
            return Ok(());
        }
        let help = "Endpoints of a backend, by whether requests go there now";
        let mut family =
            encoder.encode_descriptor("outbound_http_balancer_endpoints", help, None, MetricType::Gauge)?;
        for (labels, census) in &told {
            for (state, count) in [("ready", census.ready), ("pending", census.pending)] {
                let labels = labels.and(&Labels::new([("endpoint_state", state)]));
                family.encode_family(&labels)?.encode_gauge(&u32::try_from(count).unwrap_or(u32::MAX))?;
            }
        }
        let help = "Requests and connections that wait for an endpoint of a backend";
        let mut family =
            encoder.encode_descriptor("outbound_http_balancer_queue_length", help, None, MetricType::Gauge)?;
        for (labels, census) in &told {
            family.encode_family(labels)?.encode_gauge(&u32::try_from(census.waiting).unwrap_or(u32::MAX))?;
        }
        let help = "What was told of the endpoints of a backend, by what it did to them";
        let mut family =
            encoder.encode_descriptor("outbound_http_balancer_updates", help, None, MetricType::Counter)?;
        for (labels, census) in &told {
            let updates = census.updates;
            for (op, count) in [("Reset", updates.resets), ("Add", updates.adds), ("Remove", updates.removes)] {
                let labels = labels.and(&Labels::new([("op", op)]));
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

/// What an authority is of: `name.namespace.svc.…:port` is a Service, as backends of policies are labelled.
fn labels(authority: &str) -> Labels {
    let (host, port) = authority.rsplit_once(':').unwrap_or((authority, ""));
    let mut parts = host.split('.');
    let service = match (parts.next(), parts.next(), parts.next()) {
        (Some(name), Some(namespace), Some("svc")) => ["core", "Service", namespace, name],
        _ => ["", "", "", host],
    };
    let names = ["backend_group", "backend_kind", "backend_namespace", "backend_name"];
    let labels = names.into_iter().zip(service).chain([("backend_port", port)]);
    Labels::new(labels.map(|(name, value)| (name, value.to_owned())))
}

impl fmt::Debug for Balancers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Balancers")
    }
}
