//! Why a connection from the network was not carried to its end, and under which label it is counted.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::mesh::policy::Denied;
use crate::proxy::http::AppError;
use crate::proxy::{detect, gateway, tcp, tls, transport_header};

/// Why a connection was not carried to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    App(#[from] AppError),
    #[error(transparent)]
    Carry(#[from] tcp::Error),
    #[error("a certificate has ended that the connection was made with")]
    CertificateEnded,
    #[error("too many connections are open whose clients have not proven who they are")]
    Crowded,
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error(transparent)]
    Detect(#[from] detect::Error),
    #[error(transparent)]
    Gateway(#[from] gateway::Error),
    #[error(transparent)]
    Header(#[from] transport_header::Error),
    #[error("the transport header took more than {0:?}")]
    HeaderTimeout(Duration),
    #[error("the HTTP connection with the client broke")]
    Http(#[source] hyper::Error),
    #[error("refusing to connect to {0}: it is this very proxy")]
    Loop(SocketAddr),
    #[error("refusing to be a gateway to {0}")]
    NoGateway(String),
    #[error("what comes to the inbound port itself must be mesh TLS for this pod")]
    NotMesh,
    #[error("HTTP came as another stream of a connection")]
    NotOpaque,
    #[error("the client negotiated no transport header")]
    NoTransportHeader,
    #[error("the app is told the address of each client, so that only HTTP reaches it")]
    OnlyHttp,
    #[error("the policy in force no longer lets the client in")]
    Revoked,
    #[error("cannot set up the accepted socket")]
    Socket(#[source] io::Error),
    #[error("cannot accept another stream of a connection")]
    Stream(#[source] io::Error),
    #[error("cannot tell where the client meant to go")]
    Target(#[source] io::Error),
    #[error(transparent)]
    Tls(#[from] tls::Error),
    #[error("the client showed no certificate")]
    Unauthenticated,
    #[error("{0} is no address of this pod")]
    WrongTarget(SocketAddr),
}

impl Error {
    /// The value of the label `error`.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Detect(detect::Error::Silent(_)) => "tls detection timeout",
            Self::App(_) | Self::Carry(_) | Self::Detect(_) | Self::Http(_) => "i/o",
            Self::CertificateEnded => "certificate ended",
            Self::Crowded => "loadshed",
            Self::Gateway(error) => error.label(),
            Self::NoGateway(_) => "gateway domain invalid",
            _ => "unexpected",
        }
    }
}
