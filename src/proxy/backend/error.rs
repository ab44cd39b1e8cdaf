//! Why there is no response or connection, in words that name every endpoint tried.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::mesh::Identity;
use crate::proxy::client;
use crate::proxy::http::Late;

/// Why there is no response or connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no endpoint of {authority} was there in {failfast:?}{}", after(tried))]
    NoEndpoint { authority: String, failfast: Duration, tried: Vec<(SocketAddr, Arc<client::Error>)> },
    #[error("the control plane does not know {authority}: {reason}")]
    Unresolvable { authority: String, reason: String },
    #[error("no endpoint served it in {} tries{}", tried.len(), after(tried))]
    Unreachable { tried: Vec<(SocketAddr, Arc<client::Error>)> },
    #[error("the connection to {address} broke")]
    Lost {
        address: SocketAddr,
        #[source]
        source: hyper::Error,
    },
    #[error("{address} took too long ({late})")]
    Late { address: SocketAddr, late: Late },
    #[error("{capacity} requests wait for an endpoint of {authority} already")]
    QueueFull { authority: String, capacity: usize },
    #[error("refusing to reach {address} for others: it is in this very pod")]
    OwnPod { address: SocketAddr },
    #[error("the route has no backend")]
    NoBackend,
    #[error("the identity {required} is required, but {address} is {}", of(server))]
    IdentityRequired { required: String, address: SocketAddr, server: Option<Identity> },
}

fn after(tried: &[(SocketAddr, Arc<client::Error>)]) -> String {
    let mut text = String::new();
    for (at, (address, error)) in tried.iter().enumerate() {
        text.push_str(if at == 0 { "; tried " } else { ", " });
        text.push_str(&format!("{address} ({error}"));
        let mut source = std::error::Error::source(&**error);
        while let Some(cause) = source {
            text.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        text.push(')');
    }
    text
}

fn of(server: &Option<Identity>) -> String {
    server.as_ref().map_or("not meshed".into(), ToString::to_string)
}
