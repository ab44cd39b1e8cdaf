//! Carries the bytes of a gateway's client to what it named, as an app's would be carried.
//!
//! In: what is known of the name. Out: a [`Way`], a server's connection where that can be had before the client has said a word; then the
//! client's bytes on it. The client's proxy has found out already that they are no HTTP.
//!
//! Start at [`Outbound::way`].

use std::sync::Arc;

use bytes::Bytes;

use super::{Error, Outbound, Protocol, Routed, label, open, protocol_label};
use crate::net::stream::Stream;
use crate::proxy::backend::Reach;
use crate::proxy::discovery::Discovered;
use crate::proxy::discovery::plan::Plan;
use crate::proxy::metrics::{Event, Labels};

/// A way on for a client's bytes.
pub struct Way {
    to: To,
    /// The labels of what goes wrong on it.
    labels: Labels,
    /// Stays known for as long as the way is used, and counts as a name that is.
    discovered: Discovered,
}

enum To {
    Server(Box<Routed>),
    /// Wherever the client's TLS greeting leads.
    Sni(Arc<Plan>),
}

impl Outbound {
    /// Opens a way to what is `discovered`.
    ///
    /// # Errors
    /// Where no server can be reached, or only by HTTP: bytes that nobody looks at would evade what policy says of requests.
    pub async fn way(&self, discovered: Discovered) -> Result<Way, Error> {
        let (plan, labels) = (discovered.plan(), discovered.target.place.labels());
        plan.parent.count(&self.metrics, Event::OutboundTcpProtocols, ("protocol", protocol_label(&plan.protocol)));
        let to = match &plan.protocol {
            Protocol::Opaque(_) | Protocol::Detect { .. } => open(&plan, None, Reach::OtherPods).await.map(To::Server),
            Protocol::Tls(_) => Ok(To::Sni(plan)),
            Protocol::Http1(_) | Protocol::Http2(_) => Err(Error::NoRoute),
            Protocol::Invalid(reason) => Err(Error::InvalidPolicy(reason.clone())),
        };
        let to = self.counted(to, &labels)?;
        Ok(Way { to, labels, discovered })
    }

    /// Carries a client's bytes.
    ///
    /// # Errors
    /// Where they could not be carried to their end.
    pub async fn carry_on(&self, way: Way, client: impl Stream) -> Result<(), Error> {
        let Way { to, labels, discovered: _known } = way;
        let carried = match to {
            To::Server(opened) => Box::pin(self.splice(client, Bytes::new(), opened)).await,
            To::Sni(plan) => Box::pin(self.carry_by_sni(plan, client)).await,
        };
        self.counted(carried, &labels)
    }

    async fn carry_by_sni(&self, plan: Arc<Plan>, client: impl Stream) -> Result<(), Error> {
        let (sni, client) = self.sni(client).await?;
        let opened = open(&plan, sni.as_deref(), Reach::OtherPods).await?;
        drop(plan);
        Box::pin(self.splice(client, Bytes::new(), opened)).await
    }

    fn counted<T>(&self, done: Result<T, Error>, labels: &Labels) -> Result<T, Error> {
        done.inspect_err(|error| {
            self.metrics.count(Event::OutboundTcpErrors, &Labels::new([("error", label(error))]).and(labels));
        })
    }
}
