//! Judges whether a connection is secured, from what its ends say of it.

use super::report::Seen;
use crate::manifest::names;
use crate::mesh::Identity;
use crate::mesh::connection::{PlaintextReason, Security, Tls};
use crate::mesh::places::{Kind, Place};

/// Whether a connection is secured, or why not.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum State {
    /// Each end has proven itself to the other.
    Secured,
    /// Only the server has.
    ServerOnly,
    /// The app's own TLS, which nobody but the app can judge.
    Passthrough,
    Plaintext(PlaintextReason),
    /// The ends say different things of the same connection.
    Disagreement(String),
    /// An end said what we cannot read.
    Unknown(String),
}

impl State {
    pub fn is_secured(&self) -> bool {
        *self == Self::Secured
    }

    /// For scripts: a word that does not change.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Secured => "secured",
            Self::ServerOnly => "server_only",
            Self::Passthrough => "passthrough",
            Self::Plaintext(reason) => reason.as_str(),
            Self::Disagreement(_) => "disagreement",
            Self::Unknown(_) => "unknown",
        }
    }

    /// For people: why the edge between these two is not secured.
    pub fn words(&self, client: &Place, server: &Place) -> String {
        match self {
            Self::Secured => "secured".into(),
            // Who asks for a certificate has none yet: it proves itself by its service account's token, within this TLS.
            Self::ServerOnly if server.name == names::IDENTITY => {
                "client has no certificate yet: it asks for one".into()
            }
            Self::ServerOnly => "client showed no certificate".into(),
            Self::Passthrough => "the app's own TLS".into(),
            Self::Plaintext(PlaintextReason::NoTlsFromRemote) if client.kind == Kind::Node => {
                "plaintext: from the node, such as a probe".into()
            }
            Self::Plaintext(PlaintextReason::NoTlsFromRemote) if !client.meshed => {
                "plaintext: client is not meshed".into()
            }
            Self::Plaintext(PlaintextReason::NoTlsFromRemote) => "plaintext: client sent no mesh TLS".into(),
            Self::Plaintext(PlaintextReason::NotProvidedByServiceDiscovery) if !server.meshed => {
                "plaintext: server is not meshed".into()
            }
            Self::Plaintext(PlaintextReason::NotProvidedByServiceDiscovery) => {
                "plaintext: discovery gave no identity for the server".into()
            }
            Self::Plaintext(PlaintextReason::Loopback) => "plaintext: stays in the pod".into(),
            Self::Plaintext(PlaintextReason::PortSkipped) => "plaintext: the port is skipped".into(),
            Self::Disagreement(how) => format!("the ends disagree: {how}"),
            Self::Unknown(told) => format!("unknown: {told}"),
        }
    }
}

/// What both ends, or the one that told, make of it.
pub(super) fn judge(outbound: Option<&Seen>, inbound: Option<&Seen>) -> State {
    let (ours, theirs) = match (outbound, inbound) {
        (Some(outbound), Some(inbound)) => (outbound.security(), inbound.security()),
        (Some(one), None) | (None, Some(one)) => return one.security().map_or_else(unknown, alone),
        (None, None) => return unknown("nobody has told of it"),
    };
    let (client, server) = match (ours, theirs) {
        (Ok(client), Ok(server)) => (client, server),
        (Err(told), _) | (_, Err(told)) => return unknown(told),
    };
    match (client, server) {
        (Security::Mutual(client), Security::Mutual(server)) => {
            let differing = difference(client, server);
            if differing.is_empty() { State::Secured } else { State::Disagreement(differing.join(", ")) }
        }
        (Security::ServerOnly(_), Security::ServerOnly(_)) => State::ServerOnly,
        // A client's proxy does not always look into what the app sends.
        (Security::Passthrough { .. }, Security::Passthrough { .. } | Security::Plaintext { .. })
        | (Security::Plaintext { .. }, Security::Passthrough { .. }) => State::Passthrough,
        // The client's proxy chose; the server's only sees that nothing came.
        (Security::Plaintext { reason }, Security::Plaintext { .. }) => State::Plaintext(*reason),
        (client, server) => {
            State::Disagreement(format!("{} for the client, {} for the server", name(client), name(server)))
        }
    }
}

fn unknown(told: &str) -> State {
    State::Unknown(told.to_owned())
}

/// What one end says, of a connection that the other does not tell of.
fn alone(security: &Security) -> State {
    match security {
        Security::Mutual(_) => State::Secured,
        Security::ServerOnly(_) => State::ServerOnly,
        Security::Passthrough { .. } => State::Passthrough,
        Security::Plaintext { reason } => State::Plaintext(*reason),
    }
}

fn name(security: &Security) -> &'static str {
    match security {
        Security::Mutual(_) => "mutual TLS",
        Security::ServerOnly(_) => "TLS without a client certificate",
        Security::Passthrough { .. } => "the app's own TLS",
        Security::Plaintext { .. } => "plaintext",
    }
}

fn difference(client: &Tls, server: &Tls) -> Vec<String> {
    let name = |identity: &Option<Identity>| identity.as_ref().map_or("nobody", Identity::short).to_owned();
    let facts = [
        ("client", name(&client.client_identity), name(&server.client_identity)),
        ("server", client.server_identity.short().to_owned(), server.server_identity.short().to_owned()),
        ("version", client.version.clone(), server.version.clone()),
        ("cipher", client.cipher.clone(), server.cipher.clone()),
        ("group", client.group.clone(), server.group.clone()),
    ];
    let differing = facts.into_iter().filter(|(_, ours, theirs)| ours != theirs);
    differing.map(|(what, ours, theirs)| format!("{what} {ours} or {theirs}")).collect()
}
