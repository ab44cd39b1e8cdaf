//! Labels of the proxy's metrics, in the order in which they are shown: who is at the other end, which server, route and authorization.
//!
//! Making them costs an allocation for each value, so they are made once per connection, endpoint or route, and never per request.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use prometheus_client::encoding::{EncodeLabel as _, EncodeLabelSet, LabelSetEncoder};

use crate::mesh::connection::{Direction, Security};
use crate::mesh::meta::Meta;
use crate::wire::meta;

/// Labels in the order they are shown. Clones are cheap.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Labels(Arc<[(Cow<'static, str>, Cow<'static, str>)]>);

impl Labels {
    pub fn new<K, V>(labels: impl IntoIterator<Item = (K, V)>) -> Self
    where
        K: Into<Cow<'static, str>>,
        V: Into<Cow<'static, str>>,
    {
        Self(labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }

    /// No labels.
    pub fn none() -> Self {
        Self(Arc::new([]))
    }

    /// These labels and then `others`.
    pub fn and(&self, others: &Self) -> Self {
        Self(self.0.iter().chain(others.0.iter()).cloned().collect())
    }

    /// `target_addr`, `target_ip`, `target_port`.
    pub fn target(target: SocketAddr) -> Self {
        Self::new([
            ("target_addr", target.to_string()),
            ("target_ip", target.ip().to_string()),
            ("target_port", target.port().to_string()),
        ])
    }

    /// `tls` and who is at the other end, or why that is not known.
    pub fn tls(direction: Direction, security: &Security) -> Self {
        match security {
            Security::Mutual(tls) | Security::ServerOnly(tls) => {
                let id = match direction {
                    Direction::Inbound => tls.client_identity.as_ref().map(ToString::to_string).unwrap_or_default(),
                    Direction::Outbound => tls.server_identity.to_string(),
                };
                let key = match direction {
                    Direction::Inbound => "client_id",
                    Direction::Outbound => "server_id",
                };
                Self::new([("tls", "true".to_owned()), (key, id)])
            }
            Security::Passthrough { sni } => {
                Self::new([("tls", "opaque".to_owned()), ("sni", sni.clone().unwrap_or_default())])
            }
            Security::Plaintext { reason } => Self::new([("tls", "no_identity"), ("no_tls_reason", reason.as_str())]),
        }
    }

    /// `direction`.
    pub fn direction(direction: Direction) -> Self {
        let direction = match direction {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        };
        Self::new([("direction", direction)])
    }

    /// `PREFIX_group`, `PREFIX_kind`, `PREFIX_name`: `srv`, `route` or `authz`.
    pub fn meta(prefix: &str, meta: &Meta) -> Self {
        Self::new([
            (format!("{prefix}_group"), meta.group.clone()),
            (format!("{prefix}_kind"), meta.kind.clone()),
            (format!("{prefix}_name"), meta.name.clone()),
        ])
    }

    /// `PREFIX_group`, `PREFIX_kind`, `PREFIX_namespace`, `PREFIX_name`: of the resource that outbound policy names, a `route`. What no resource
    /// made has a name only.
    pub fn resource(prefix: &str, said: Option<&meta::Metadata>) -> Self {
        let (group, kind, namespace, name) = match said.and_then(|said| said.kind.as_ref()) {
            Some(meta::metadata::Kind::Resource(resource)) => {
                (resource.group.as_str(), resource.kind.as_str(), resource.namespace.as_str(), resource.name.as_str())
            }
            Some(meta::metadata::Kind::Default(name)) => ("", "default", "", name.as_str()),
            None => ("", "default", "", ""),
        };
        let labels = [("group", group), ("kind", kind), ("namespace", namespace), ("name", name)];
        Self::new(labels.map(|(key, value)| (format!("{prefix}_{key}"), value.to_owned())))
    }

    /// As [`Self::resource`], and `PREFIX_port`, `PREFIX_section_name`: a `parent` or a `backend`.
    pub fn service(prefix: &str, said: Option<&meta::Metadata>) -> Self {
        let (port, section) = match said.and_then(|said| said.kind.as_ref()) {
            Some(meta::metadata::Kind::Resource(resource)) => (resource.port, resource.section.clone()),
            Some(meta::metadata::Kind::Default(_)) | None => (0, String::new()),
        };
        let port = if port == 0 { String::new() } else { port.to_string() };
        let labels = [("port", port), ("section_name", section)];
        Self::resource(prefix, said).and(&Self::new(labels.map(|(key, value)| (format!("{prefix}_{key}"), value))))
    }

    /// `srv_*`.
    pub fn server(meta: &Meta, port: u16) -> Self {
        Self::meta("srv", meta).and(&Self::new([("srv_port", port.to_string())]))
    }

    /// Of what there is no room for in a family.
    pub(super) fn overflow() -> Self {
        Self::new([("overflow", "true")])
    }
}

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(key, value)| (key.as_ref(), value.as_ref()).encode(encoder.encode_label()))
    }
}
