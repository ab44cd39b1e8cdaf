//! Puts connections on record and carries them to the app: request by request, or blindly after one permit.
//!
//! Start at [`Inbound::forward`].

use std::future::pending;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::{Arrival, Error, Inbound, Tried};
use crate::mesh::Protocol;
use crate::mesh::connection::Direction;
use crate::mesh::policy::{Client, ServerPolicy};
use crate::net::counted::Counted;
use crate::net::prefixed::Prefixed;
use crate::net::stream::Stream;
use crate::proxy::connections::Opened;
use crate::proxy::http::{self, Dialled, Open, Session};
use crate::proxy::metrics::{Event, Labels};
use crate::proxy::profiles::Lately;
use crate::proxy::tcp;
use crate::proxy::tls::end;

/// The policy that let blind bytes through, and its labels.
pub(super) struct Permitted {
    in_force: Arc<ServerPolicy>,
    labels: Labels,
}

impl Inbound {
    /// Puts the connection on record and carries it, blindly or request by request.
    pub(super) async fn forward(
        &self,
        arrival: Arrival,
        policy: watch::Receiver<Arc<ServerPolicy>>,
        protocol: Protocol,
        stream: Box<dyn Stream>,
        dialled: Tried,
    ) -> Result<(), Error> {
        if protocol == Protocol::Opaque {
            return Box::pin(self.forward_bytes(arrival, policy, stream, dialled)).await;
        }
        let open = Arc::new(self.open(&arrival, &policy.borrow().clone(), protocol));
        let stream = Counted::new(stream, open.entry.counts(), open.transport.totals());
        let dialled = dialled.and_then(Result::ok).map(|app| Box::new(app) as Box<dyn Stream>);
        let mut http = self.http.clone();
        if arrival.ends_at.is_some() {
            // It is told to end by itself.
            http.drain = http.drain.part();
        }
        let session = Session {
            http,
            client: arrival.client(),
            target: arrival.target,
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

    async fn forward_bytes(
        &self,
        arrival: Arrival,
        mut policy: watch::Receiver<Arc<ServerPolicy>>,
        stream: Box<dyn Stream>,
        dialled: Tried,
    ) -> Result<(), Error> {
        let permitted = self.permit_bytes(&arrival, &mut policy)?;
        let app = match dialled {
            Some(dialled) => dialled?,
            None => self.http.apps.connect(arrival.target).await?.into(),
        };
        self.carry_bytes(&arrival, policy, &permitted, stream, app).await
    }

    /// Whether the client may exchange blind bytes with the app.
    pub(super) fn permit_bytes(
        &self,
        arrival: &Arrival,
        policy: &mut watch::Receiver<Arc<ServerPolicy>>,
    ) -> Result<Permitted, Error> {
        // Blind bytes may be HTTP that says of its client what it likes.
        if self.options.tells_client_ip {
            return Err(Error::OnlyHttp);
        }
        let in_force = policy.borrow_and_update().clone();
        let labels = Labels::server(&in_force.meta, arrival.target.port());
        let labels = arrival.labels().and(&labels);
        let permit = in_force
            .authorize_connection(&arrival.client())
            .inspect_err(|_| self.http.metrics.count(Event::InboundTcpDenied, &labels))?;
        let permitted = labels.and(&Labels::meta("authz", permit.authorization()));
        self.http.metrics.count(Event::InboundTcpAllowed, &permitted);
        if permit.is_audit() {
            tracing::info!(client = %arrival.client, target = %arrival.target, "permitted by the audit policy only");
        }
        Ok(Permitted { in_force, labels })
    }

    pub(super) async fn carry_bytes(
        &self,
        arrival: &Arrival,
        mut policy: watch::Receiver<Arc<ServerPolicy>>,
        permitted: &Permitted,
        stream: impl Stream,
        app: Prefixed<Dialled>,
    ) -> Result<(), Error> {
        let client = arrival.client();
        let open = self.open(arrival, &permitted.in_force, Protocol::Opaque);
        let stream = Counted::new(stream, open.entry.counts(), open.transport.totals());
        tokio::select! {
            carried = tcp::carry(stream, app, &self.http.drain) => {
                Ok(carried.inspect_err(|error| open.transport.failed(error.io()))?)
            }
            () = end(arrival.ends_at) => Err(Error::CertificateEnded),
            () = revoked(&mut policy, &client) => {
                self.http.metrics.count(Event::InboundTcpTerminated, &permitted.labels);
                Err(Error::Revoked)
            }
        }
    }

    fn open(&self, arrival: &Arrival, policy: &ServerPolicy, protocol: Protocol) -> Open {
        let Arrival { client, server, target, security, ends_at: _ } = arrival.clone();
        let entry = self.connections.open(Opened {
            direction: Direction::Inbound,
            client,
            server,
            target,
            authority: None,
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
async fn revoked(policy: &mut watch::Receiver<Arc<ServerPolicy>>, client: &Client) {
    loop {
        if policy.changed().await.is_err() {
            // Nobody is left to change it.
            return pending().await;
        }
        if policy.borrow_and_update().authorize_connection(client).is_err() {
            return;
        }
    }
}
