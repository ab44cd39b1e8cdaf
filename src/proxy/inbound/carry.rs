//! Puts connections on record and carries them to the app, or on through a gateway: request by request, or blindly after one permit.
//!
//! Start at [`Inbound::forward_requests`] and [`Inbound::forward_bytes`].

use std::future::pending;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::{Arrival, Error, Inbound, Tried, Whole};
use crate::mesh::Protocol;
use crate::mesh::connection::{Direction, Security};
use crate::mesh::policy::ServerPolicy;
use crate::net::counted::Counted;
use crate::net::prefixed::Prefixed;
use crate::net::stream::Stream;
use crate::proxy::connections::Opened;
use crate::proxy::gateway::Onward;
use crate::proxy::http::{self, Dialled, Open, Session, Told};
use crate::proxy::metrics::{Event, Labels};
use crate::proxy::profiles::Lately;
use crate::proxy::tls::end;
use crate::proxy::{outbound, tcp};

/// Where blind bytes go.
pub(super) enum Way {
    App(Box<Prefixed<Dialled>>),
    Onward(Box<Onward>, outbound::Way),
}

impl Inbound {
    /// Puts the connection on record and carries it, request by request.
    pub(super) async fn forward_requests(&self, whole: Box<Whole>) -> Result<(), Error> {
        let Whole { arrival, policy, protocol, stream, dialled, stranger: _stranger } = *whole;
        let open = Arc::new(self.open(&arrival, &policy.borrow().clone(), protocol));
        let stream = Counted::new(stream, open.entry.counts(), open.transport.totals());
        let onward = self.onward(&arrival, Some(&open));
        let dialled = dialled.and_then(Result::ok).map(|app| Box::new(app) as Box<dyn Stream>);
        let mut http = self.http.clone();
        if arrival.ends_at.is_some() {
            // It is told to end by itself.
            http.drain = http.drain.part();
        }
        let client = arrival.client();
        let session = Session {
            told: Told::of(&client, http.tells_client_ip),
            http,
            client,
            target: arrival.target,
            onward,
            policy,
            labels: arrival.labels(),
            open: Some(open),
            dialled: Mutex::new(dialled),
            kinds: Mutex::default(),
            ends_at: arrival.ends_at,
            lately: Lately::default(),
        };
        Box::pin(http::serve(session, protocol, stream)).await.map_err(Error::Http)
    }

    /// Carries all of the connection blindly, after one permit.
    pub(super) async fn forward_bytes(&self, whole: Box<Whole>) -> Result<(), Error> {
        let Whole { arrival, mut policy, protocol: _, stream, dialled, stranger: _stranger } = *whole;
        let in_force = self.permit_bytes(&arrival, &mut policy)?;
        let way = self.way(&arrival, dialled).await?;
        self.carry_bytes(&arrival, policy, &in_force, stream, way).await
    }

    /// Connects to where bytes go that are permitted.
    pub(super) async fn way(&self, arrival: &Arrival, dialled: Tried) -> Result<Way, Error> {
        Ok(match (self.onward(arrival, None), dialled) {
            (Some(onward), _) => {
                let way = Box::pin(onward.open()).await?;
                Way::Onward(onward, way)
            }
            (None, Some(dialled)) => Way::App(Box::new(dialled?)),
            (None, None) => Way::App(Box::new(self.http.apps.connect(arrival.target).await?.into())),
        })
    }

    /// Where a client of a gateway wants to be taken.
    fn onward(&self, arrival: &Arrival, open: Option<&Arc<Open>>) -> Option<Box<Onward>> {
        let (name, gateway) = (arrival.name.clone()?, self.gateway.as_ref()?);
        let client = match &arrival.security {
            Security::Mutual(tls) => tls.client_identity.as_ref(),
            _ => None,
        };
        // Whoever has proven who they are has done so to a proxy with a certificate.
        Some(Box::new(gateway.onward(name, self.tls.identity()?, client, open.cloned(), arrival.ends_at)))
    }

    /// Whether the client may exchange blind bytes with the app, and by which policy.
    pub(super) fn permit_bytes(
        &self,
        arrival: &Arrival,
        policy: &mut watch::Receiver<Arc<ServerPolicy>>,
    ) -> Result<Arc<ServerPolicy>, Error> {
        // Blind bytes may be HTTP that says of its client what it likes.
        if self.options.tells_client_ip {
            return Err(Error::OnlyHttp);
        }
        let in_force = policy.borrow_and_update().clone();
        let labels = arrival.labels_under(&in_force);
        let permit = in_force
            .authorize_connection(&arrival.client())
            .inspect_err(|_| self.http.metrics.count(Event::InboundTcpDenied, &labels))?;
        let labels = labels.and(&Labels::meta("authz", permit.authorization()));
        self.http.metrics.count(Event::InboundTcpAllowed, &labels);
        if permit.is_audit() {
            tracing::info!(client = %arrival.client, target = %arrival.target, "permitted by the audit policy only");
        }
        Ok(in_force)
    }

    pub(super) async fn carry_bytes(
        &self,
        arrival: &Arrival,
        mut policy: watch::Receiver<Arc<ServerPolicy>>,
        in_force: &ServerPolicy,
        stream: impl Stream,
        way: Way,
    ) -> Result<(), Error> {
        let open = self.open(arrival, in_force, Protocol::Opaque);
        let stream = Counted::new(stream, open.entry.counts(), open.transport.totals());
        match way {
            Way::App(app) => tokio::select! {
                carried = tcp::carry(stream, app, &self.http.drain) => {
                    Ok(carried.inspect_err(|error| open.transport.failed(error.io()))?)
                }
                error = self.must_end(arrival, &mut policy, in_force) => Err(error),
            },
            Way::Onward(onward, way) => tokio::select! {
                carried = Box::pin(onward.carry(way, stream)) => carried.map_err(|error| Error::Gateway(error.into())),
                error = self.must_end(arrival, &mut policy, in_force) => Err(error),
            },
        }
    }

    /// Resolves when blind bytes that were permitted must end, to why.
    async fn must_end(
        &self,
        arrival: &Arrival,
        policy: &mut watch::Receiver<Arc<ServerPolicy>>,
        in_force: &ServerPolicy,
    ) -> Error {
        tokio::select! {
            () = end(arrival.ends_at) => Error::CertificateEnded,
            () = revoked(policy, arrival) => {
                self.http.metrics.count(Event::InboundTcpTerminated, &arrival.labels_under(in_force));
                Error::Revoked
            }
        }
    }

    fn open(&self, arrival: &Arrival, policy: &ServerPolicy, protocol: Protocol) -> Open {
        let Arrival { client, server, target, name, security, ends_at: _ } = arrival.clone();
        let entry = self.connections.open(Opened {
            direction: Direction::Inbound,
            client,
            server,
            target,
            authority: name.map(|name| name.to_string()),
            protocol,
            security,
            labels: Default::default(),
        });
        let labels = Labels::direction(Direction::Inbound)
            .and(&Labels::new([("peer", "src")]))
            .and(&arrival.labels())
            .and(&Labels::server(&policy.meta, target.port()));
        Open { entry, transport: self.http.metrics.transport(&labels) }
    }
}

/// Resolves when a change of policy puts the client out.
async fn revoked(policy: &mut watch::Receiver<Arc<ServerPolicy>>, arrival: &Arrival) {
    loop {
        if policy.changed().await.is_err() {
            // Nobody is left to change it.
            return pending().await;
        }
        if policy.borrow_and_update().authorize_connection(&arrival.client()).is_err() {
            return;
        }
    }
}
