//! The transport header: the few bytes in which a client's proxy says which port, and which protocol, its connection is for.
//!
//! In: a stream whose TLS handshake settled on it ([`super::tls::TRANSPORT_HEADER_ALPN`]). Out: a [`Header`], and the stream just
//! behind it. There is no answer; the payload follows at once.
//!
//! ```text
//!   "transport.l5d.io/v1\r\n\r\n"   length, u32 big-endian   message, protobuf   payload …
//! ```

use std::io;

use prost::Message as _;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::mesh::Protocol;
use crate::mesh::identity::is_label;

const PREFACE: &[u8; 23] = b"transport.l5d.io/v1\r\n\r\n";
/// A message holds a port and a name of at most 253 bytes. Peers allow 64 KiB; nothing that we understand needs a kilobyte.
const MESSAGE_MAX: usize = 1024;
/// The longest DNS name, in its text form (RFC 1035 §2.3.4).
const NAME_MAX: usize = 253;

/// What a connection is for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Header {
    pub port: u16,
    /// Of a connection to a gateway: where it is to go on to.
    pub name: Option<String>,
    /// HTTP/1 or HTTP/2 where the client's proxy knows; opaque is any bytes.
    pub protocol: Protocol,
}

/// Why a connection does not begin with a transport header.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the transport header's message has {0} bytes, more than {MESSAGE_MAX}")]
    Length(u32),
    #[error("the transport header's message cannot be decoded")]
    Message(#[source] prost::DecodeError),
    #[error("the transport header names {0:?}, which is no DNS name")]
    Name(String),
    #[error("the transport header's port is {0}")]
    Port(i32),
    #[error("the connection does not begin with a transport header")]
    Preface,
    #[error("cannot read the transport header")]
    Read(#[source] io::Error),
}

#[derive(Clone, PartialEq, prost::Message)]
struct Wire {
    #[prost(int32, tag = "1")]
    port: i32,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(message, optional, tag = "3")]
    session_protocol: Option<SessionProtocol>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SessionProtocol {
    #[prost(oneof = "Kind", tags = "1, 2")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Kind {
    #[prost(message, tag = "1")]
    Http1(Empty),
    #[prost(message, tag = "2")]
    Http2(Empty),
}

#[derive(Clone, PartialEq, prost::Message)]
struct Empty {}

impl Header {
    /// The bytes to send before the payload.
    pub fn encode(&self) -> Vec<u8> {
        let kind = match self.protocol {
            Protocol::Http1 => Some(Kind::Http1(Empty {})),
            Protocol::Http2 => Some(Kind::Http2(Empty {})),
            Protocol::Opaque => None,
        };
        let wire = Wire {
            port: self.port.into(),
            name: self.name.clone().unwrap_or_default(),
            session_protocol: kind.map(|kind| SessionProtocol { kind: Some(kind) }),
        };
        let message = wire.encode_to_vec();
        // A message is a port and a DNS name: its length has no way past 32 bits.
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
        [PREFACE.as_slice(), &length.to_be_bytes(), &message].concat()
    }

    /// Reads a header, and not a byte more. The caller bounds the time.
    ///
    /// # Errors
    /// Where the stream ends too soon or holds something else.
    pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Self, Error> {
        let mut start = [0; PREFACE.len() + 4];
        stream.read_exact(&mut start).await.map_err(Error::Read)?;
        let length = start.strip_prefix(PREFACE).and_then(|length| length.try_into().ok()).ok_or(Error::Preface)?;
        let length = u32::from_be_bytes(length);
        let bytes = usize::try_from(length).ok().filter(|bytes| *bytes <= MESSAGE_MAX).ok_or(Error::Length(length))?;
        let mut message = vec![0; bytes];
        stream.read_exact(&mut message).await.map_err(Error::Read)?;
        Wire::decode(message.as_slice()).map_err(Error::Message)?.try_into()
    }
}

impl TryFrom<Wire> for Header {
    type Error = Error;

    fn try_from(wire: Wire) -> Result<Self, Error> {
        let port = u16::try_from(wire.port).ok().filter(|port| *port != 0).ok_or(Error::Port(wire.port))?;
        // Some write names as absolute ones, with a dot at the end.
        let name = wire.name.strip_suffix('.').unwrap_or(&wire.name).to_ascii_lowercase();
        if !name.is_empty() && (name.len() > NAME_MAX || !name.split('.').all(is_label)) {
            return Err(Error::Name(name));
        }
        let protocol = match wire.session_protocol.and_then(|session| session.kind) {
            Some(Kind::Http1(_)) => Protocol::Http1,
            Some(Kind::Http2(_)) => Protocol::Http2,
            None => Protocol::Opaque,
        };
        Ok(Self { port, name: Some(name).filter(|name| !name.is_empty()), protocol })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    fn vectors() -> [(Header, &'static [u8]); 4] {
        let header = |port, name: Option<&str>, protocol| Header { port, name: name.map(Into::into), protocol };
        [
            (header(5432, None, Protocol::Opaque), b"\0\0\0\x03\x08\xb8\x2a"),
            (header(8080, None, Protocol::Http2), b"\0\0\0\x07\x08\x90\x3f\x1a\x02\x12\0"),
            (header(8080, None, Protocol::Http1), b"\0\0\0\x07\x08\x90\x3f\x1a\x02\x0a\0"),
            (
                header(8080, Some("web.ns.svc.cluster.local"), Protocol::Http2),
                b"\0\0\0\x21\x08\x90\x3f\x12\x18web.ns.svc.cluster.local\x1a\x02\x12\0",
            ),
        ]
    }

    async fn read(message: &[u8]) -> Result<Header, Error> {
        let bytes = [PREFACE.as_slice(), message].concat();
        Header::read(&mut bytes.as_slice()).await
    }

    #[tokio::test]
    async fn is_the_bytes_that_peers_send() {
        for (header, message) in vectors() {
            assert_eq!(header.encode(), [PREFACE.as_slice(), message].concat());
            assert_eq!(read(message).await.unwrap(), header);
        }
    }

    #[tokio::test]
    async fn is_read_byte_by_byte_and_leaves_the_payload() {
        let (mut near, mut far) = tokio::io::duplex(1);
        let bytes = [vectors()[1].0.encode(), b"payload".to_vec()].concat();
        let write = async move {
            for byte in bytes {
                far.write_all(&[byte]).await.unwrap();
            }
        };
        let read = async move {
            let header = Header::read(&mut near).await.unwrap();
            let mut payload = String::new();
            near.read_to_string(&mut payload).await.unwrap();
            (header, payload)
        };
        let ((), (header, payload)) = tokio::join!(write, read);
        assert_eq!((header, payload.as_str()), (vectors()[1].0.clone(), "payload"));
    }

    #[tokio::test]
    async fn refuses_ports_that_are_none() {
        assert!(matches!(read(b"\0\0\0\x00").await, Err(Error::Port(0))));
        assert!(matches!(read(b"\0\0\0\x04\x08\x80\x80\x04").await, Err(Error::Port(65_536))));
        let negative = b"\0\0\0\x0b\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
        assert!(matches!(read(negative).await, Err(Error::Port(-1))));
    }

    #[tokio::test]
    async fn refuses_names_that_are_none() {
        assert!(matches!(read(b"\0\0\0\x06\x08\x50\x12\x02a/").await, Err(Error::Name(_))));
    }

    #[tokio::test]
    async fn refuses_a_length_past_the_bound_before_reading_on() {
        assert!(matches!(read(b"\xff\xff\xff\xff").await, Err(Error::Length(u32::MAX))));
    }

    #[tokio::test]
    async fn refuses_other_protocols_garbage_and_early_ends() {
        let mut other = &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n and more"[..];
        assert!(matches!(Header::read(&mut other).await, Err(Error::Preface)));
        assert!(matches!(read(b"\0\0\0\x02\xff\xff").await, Err(Error::Message(_))));
        assert!(matches!(read(b"\0\0\0\x07\x08\x90").await, Err(Error::Read(_))));
        assert!(matches!(Header::read(&mut &PREFACE[..9]).await, Err(Error::Read(_))));
    }
}
