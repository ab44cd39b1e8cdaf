//! Peers that come to the inbound port itself: they must prove who they are, and say what for.
//!
//! In: a connection whose target is this very proxy. Out: one to a port of the app, or to what it names where this is a gateway; or opaque
//! streams one after another, each with a transport header of its own and authorized anew.
//!
//! Start at [`Inbound::direct`].

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;

use super::{Arrival, Error, Inbound, Recognized, Whole};
use crate::mesh::connection::Security;
use crate::mesh::{Name, Protocol};
use crate::net::fair;
use crate::net::prefixed::Prefixed;
use crate::proxy::detect::{Patience, detect_client};
use crate::proxy::metrics::{Event, Labels};
use crate::proxy::streams::Framed;
use crate::proxy::tls::{self, Alpn, ServerStream, Terms};
use crate::proxy::transport_header::Header;

/// How long a connection may wait for its next opaque stream: longer than clients of this kind keep it for one.
const STREAMS_IDLE: Duration = Duration::from_secs(60);

/// A client that came to the inbound port, has proven who it is, and said what for.
struct Proven {
    stream: ServerStream<Prefixed<TcpStream>>,
    security: Security,
    /// Whether it may send one stream after another.
    streams: bool,
    terms: Terms,
    header: Header,
}

impl Inbound {
    /// A peer's proxy came to the inbound port itself: it must prove who it is, and say what for.
    pub(super) async fn direct(
        &self,
        stream: TcpStream,
        client: SocketAddr,
        server: SocketAddr,
    ) -> Result<Recognized, Error> {
        let mut newcomer = self.newcomers.enter();
        let Proven { stream, security, streams, terms, header } = tokio::select! {
            proven = self.prove(stream) => proven?,
            () = newcomer.lost() => return Err(Error::Crowded),
        };
        drop(newcomer);
        let protocol = header.protocol;
        let ends_at = self.tls.ends_at(&terms);
        let arrival = self.meant(header, Arrival { client, server, target: server, name: None, security, ends_at })?;
        if streams && protocol == Protocol::Opaque {
            return Ok(Recognized::Streams { first: Box::new(arrival), connection: stream, terms });
        }
        let policy = self.policies.port(arrival.target.port());
        let stream = Box::new(stream);
        Ok(Recognized::Whole(Box::new(Whole { arrival, policy, protocol, stream, dialled: None, stranger: None })))
    }

    /// Finds out who a client is that came to the inbound port.
    async fn prove(&self, stream: TcpStream) -> Result<Proven, Error> {
        let within = self.options.detect_timeout;
        let (spoken, stream) = detect_client(stream, Patience { unfinished: within, silent: Some(within) }).await?;
        if !self.is_ours(&spoken) {
            return Err(Error::NotMesh);
        }
        let tls::Accepted { mut stream, security, transport_header, streams, terms } =
            self.tls.accept(stream, Alpn::Streams).await?;
        if !matches!(security, Security::Mutual(_)) {
            return Err(Error::Unauthenticated);
        }
        if !transport_header {
            return Err(Error::NoTransportHeader);
        }
        let header =
            fair::timeout(within, Header::read(&mut stream)).await.map_err(|_| Error::HeaderTimeout(within))??;
        Ok(Proven { stream, security, streams, terms, header })
    }

    /// Where a transport header sends what has arrived.
    fn meant(&self, header: Header, arrival: Arrival) -> Result<Arrival, Error> {
        let identity = match &arrival.security {
            Security::Mutual(tls) => tls.client_identity.as_ref().map(ToString::to_string),
            _ => None,
        };
        let labels = Labels::new([
            ("session_protocol", session_protocol(header.protocol).to_owned()),
            ("target_port", header.port.to_string()),
            ("target_name", header.name.clone().unwrap_or_default()),
            ("client_id", identity.unwrap_or_default()),
        ]);
        self.http.metrics.count(Event::InboundTransportHeaders, &labels);
        if let Some(name) = header.name {
            // Policy of the gateway's own port says who may come in.
            let target = SocketAddr::new(arrival.server.ip(), self.options.port);
            return match (Name::new(&name, header.port), &self.gateway) {
                (Ok(name), Some(_)) => Ok(Arrival { target, name: Some(name), ..arrival }),
                _ => Err(Error::NoGateway(name)),
            };
        }
        let target = SocketAddr::new(arrival.server.ip(), header.port);
        if header.port == self.options.port {
            return Err(Error::Loop(target));
        }
        Ok(Arrival { target, name: None, ..arrival })
    }

    /// Carries one opaque stream after another. Each is authorized, and accepted once its server is there.
    pub(super) async fn forward_streams(
        &self,
        mut arrival: Box<Arrival>,
        mut connection: ServerStream<Prefixed<TcpStream>>,
        terms: Terms,
    ) -> Result<(), Error> {
        let mut is_first = true;
        loop {
            let mut policy = self.policies.port(arrival.target.port());
            let in_force = self.permit_bytes(&arrival, &mut policy)?;
            let way = self.way(&arrival, None).await?;
            let accepted =
                if is_first { Ok(Framed::first(connection, &[])) } else { Framed::accepted(connection).await };
            let mut stream = accepted.map_err(Error::Stream)?;
            self.carry_bytes(&arrival, policy, &in_force, &mut stream, way).await?;
            let Some(ended) = stream.into_connection() else { return Ok(()) };
            (connection, is_first) = (ended, false);
            let header = tokio::select! {
                header = tokio::time::timeout(STREAMS_IDLE, Header::read(&mut connection)) => header,
                () = self.http.drain.started() => return Ok(()),
            };
            // Between two streams a client may leave as it likes. One that came too late finds a new connection.
            let Ok(Ok(header)) = header else { return Ok(()) };
            if self.http.drain.has_started() || !self.tls.still(&terms) {
                return Ok(());
            }
            if header.protocol != Protocol::Opaque {
                return Err(Error::NotOpaque);
            }
            *arrival = self.meant(header, *arrival)?;
        }
    }
}

fn session_protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http1 => "http/1",
        Protocol::Http2 => "http/2",
        Protocol::Opaque => "",
    }
}
