//! The stream of a mesh connection: a TLS session of rustls and the socket beneath, with no buffer while nothing passes.
//!
//! In: a socket, and a session that has yet to shake hands. Out: the app's bytes. rustls' own buffers would hold 4 KB for each connection that
//! has ever been read from, and read no more than that at once; here the session works on a buffer that all connections of a thread share
//! ([`Scratch`]). Only what cannot go on at once is kept for a connection: the beginning of a record, bytes that nobody has read yet, records that the
//! socket does not take.
//!
//! ```text
//!   socket ──> kept ciphertext + scratch ──session──> reader's buffer, the rest kept as plaintext
//!   socket <── kept records <── scratch <──session── writer's bytes
//! ```
//!
//! Start at [`TlsStream::connect`] and [`TlsStream::accept`].

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus, WriteTraffic};
use rustls::{ClientConfig, CommonState, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The most that is sealed at once: four records.
const SEALED_AT_ONCE: usize = 64 * 1024;
/// The payload of a record (RFC 8446 section 5.1).
const PAYLOAD_MAX: usize = 16 * 1024;
/// What a record has beside its payload (RFC 8446 section 5.2), and then some.
const OVERHEAD: usize = 64;
/// A record (RFC 8446 section 5.2).
const RECORD_MAX: usize = PAYLOAD_MAX + 256 + 5;
/// A message of a handshake may be of several records: a chain of certificates, say.
const HANDSHAKE_MAX: usize = 64 * 1024;
/// Place for what is sealed at once; and for what is read at once, a record or as much as its reader has place for, after what was kept.
const SCRATCH_BYTES: usize = SEALED_AT_ONCE + 2 * RECORD_MAX;

/// The memory in which a thread opens and seals records.
#[derive(Default)]
struct Scratch {
    records: Vec<u8>,
    /// Where what a writer has in several pieces becomes one.
    plaintext: Vec<u8>,
}

thread_local! {
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

/// Has the thread's scratch memory while `work` runs.
fn with_scratch<T>(work: impl FnOnce(&mut Scratch) -> T) -> T {
    // Taken, so that a stream beneath this one could do the same.
    let mut scratch = SCRATCH.take().unwrap_or_default();
    scratch.records.resize(SCRATCH_BYTES, 0);
    let worked = work(&mut scratch);
    SCRATCH.set(Some(scratch));
    worked
}

/// One end's session.
pub trait Session {
    type Data;

    fn state(&self) -> &CommonState;
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Session for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn state(&self) -> &CommonState {
        self
    }

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
}

impl Session for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn state(&self) -> &CommonState {
        self
    }

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
}

/// A mesh connection.
pub struct TlsStream<S, C> {
    socket: S,
    session: C,
    /// Records that have been read and not been opened, the last of them not whole.
    unopened: Vec<u8>,
    /// Plaintext that nobody has read yet.
    unread: BytesMut,
    /// Records that the socket has yet to take.
    unsent: BytesMut,
    /// Whether the peer has said that it will send no more.
    is_ended: bool,
    /// Whether the peer was told so.
    is_shut: bool,
    /// Whether the session itself has something to send, which nobody waits to send.
    is_answering: bool,
    /// What broke the session.
    broken: Option<rustls::Error>,
}

impl<S> TlsStream<S, UnbufferedClientConnection>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// Does the client's part of a handshake.
    ///
    /// # Errors
    /// Where the socket breaks, or the peers do not agree.
    pub async fn connect(config: Arc<ClientConfig>, server: ServerName<'static>, socket: S) -> io::Result<Self> {
        let session = UnbufferedClientConnection::new(config, server).map_err(invalid)?;
        Self::new(socket, session).shaken_hands().await
    }
}

impl<S> TlsStream<S, UnbufferedServerConnection>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    /// Does the server's part of a handshake.
    ///
    /// # Errors
    /// Where the socket breaks, or the peers do not agree.
    pub async fn accept(config: Arc<ServerConfig>, socket: S) -> io::Result<Self> {
        let session = UnbufferedServerConnection::new(config).map_err(invalid)?;
        Self::new(socket, session).shaken_hands().await
    }
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl<S, C: Session> TlsStream<S, C> {
    fn new(socket: S, session: C) -> Self {
        Self {
            socket,
            session,
            unopened: Vec::new(),
            unread: BytesMut::new(),
            unsent: BytesMut::new(),
            is_ended: false,
            is_shut: false,
            is_answering: false,
            broken: None,
        }
    }

    /// What the handshake settled.
    pub fn state(&self) -> &CommonState {
        self.session.state()
    }

    /// Opens the records at the beginning of `incoming`, until its rest is not a whole one, or `reader` is full; says how many bytes they
    /// were. What does not fit the reader is kept, and without a reader all is. Then is the time to seal.
    fn open<T>(
        &mut self,
        incoming: &mut [u8],
        mut reader: Option<&mut ReadBuf<'_>>,
        seal: impl FnOnce(WriteTraffic<'_, C::Data>) -> T,
    ) -> io::Result<(usize, Option<T>)> {
        let mut opened = 0;
        loop {
            let UnbufferedStatus { discard, state, .. } = self.session.process(&mut incoming[opened..]);
            opened += discard;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(invalid)?;
                        opened += record.discard;
                        let fits = reader.as_ref().map_or(0, |reader| reader.remaining()).min(record.payload.len());
                        let (now, later) = record.payload.split_at(fits);
                        if let Some(reader) = &mut reader {
                            reader.put_slice(now);
                        }
                        self.unread.extend_from_slice(later);
                    }
                    if reader.as_ref().is_some_and(|reader| reader.remaining() == 0) {
                        return Ok((opened, None));
                    }
                }
                Ok(ConnectionState::EncodeTlsData(data)) => {
                    encode(data, &mut self.unsent)?;
                    self.is_answering = true;
                }
                // Sent before anything else is.
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.is_ended = true,
                Ok(ConnectionState::Closed) => {
                    self.is_ended = true;
                    return Ok((opened, None));
                }
                Ok(ConnectionState::BlockedHandshake) => return Ok((opened, None)),
                Ok(ConnectionState::WriteTraffic(traffic)) => return Ok((opened, Some(seal(traffic)))),
                // Early data is not offered and not accepted.
                Ok(_) => return Err(io::ErrorKind::InvalidData.into()),
                Err(error) => {
                    self.broken = Some(error.clone());
                    // The alert that tells the peer why, and no more: what broke the session would break it once more.
                    while self.session.state().wants_write() {
                        match self.session.process(&mut incoming[opened..]).state {
                            Ok(ConnectionState::EncodeTlsData(data)) => {
                                encode(data, &mut self.unsent)?;
                                self.is_answering = true;
                            }
                            Ok(ConnectionState::ReadTraffic(mut traffic)) => while traffic.next_record().is_some() {},
                            _ => break,
                        }
                    }
                    return Err(invalid(error));
                }
            }
        }
    }

    /// Seals `plaintext`, or that there is no more of it, into records; says how many bytes they are.
    fn seal(&mut self, plaintext: Option<&[u8]>, records: &mut [u8]) -> io::Result<usize> {
        // The session is shown what has been read each time: it may have something to say to it first.
        let mut unopened = std::mem::take(&mut self.unopened);
        let (opened, sealed) = self.open(&mut unopened, None, |mut traffic| match plaintext {
            Some(plaintext) => traffic.encrypt(plaintext, records),
            None => traffic.queue_close_notify(records),
        })?;
        unopened.drain(..opened);
        self.unopened = unopened;
        sealed.ok_or(io::ErrorKind::BrokenPipe)?.map_err(io::Error::other)
    }
}

/// What is sealed at once of `slices`: the beginning as one piece, which ends where a record does, and the rest as it is.
fn gather<'a>(slices: &'a [io::IoSlice<'_>], piece: &mut Vec<u8>) -> &'a [u8] {
    piece.clear();
    let Some((last, before)) = slices.split_last() else { return &[] };
    for slice in before {
        let fits = (SEALED_AT_ONCE - piece.len()).min(slice.len());
        piece.extend_from_slice(&slice[..fits]);
    }
    let last = &last[..last.len().min(SEALED_AT_ONCE - piece.len())];
    // Large ones come last, behind the length of a frame or a head, and copying them would cost as much as encrypting them.
    let (whole, rest) = last.split_at(last.len().min(piece.len().next_multiple_of(PAYLOAD_MAX) - piece.len()));
    piece.extend_from_slice(whole);
    rest
}

/// Puts what the session itself has to say behind what is to be sent.
fn encode<Data>(mut data: EncodeTlsData<'_, Data>, unsent: &mut BytesMut) -> io::Result<()> {
    let begin = unsent.len();
    let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) else { return Ok(()) };
    unsent.resize(begin + size.required_size, 0);
    data.encode(&mut unsent[begin..]).map(drop).map_err(io::Error::other)
}

impl<S, C> TlsStream<S, C>
where
    S: AsyncRead + AsyncWrite + Unpin,
    C: Session,
{
    async fn shaken_hands(mut self) -> io::Result<Self> {
        poll_fn(|cx| with_scratch(|scratch| self.poll_handshake(cx, &mut scratch.records))).await?;
        Ok(self)
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>, records: &mut [u8]) -> Poll<io::Result<()>> {
        loop {
            let mut unopened = std::mem::take(&mut self.unopened);
            match self.open(&mut unopened, None, |_| ()) {
                Ok((opened, _)) => drop(unopened.drain(..opened)),
                Err(error) => {
                    // Who does not take an alert at once has heard enough.
                    let _ = self.poll_send(cx);
                    return Poll::Ready(Err(error));
                }
            }
            self.unopened = unopened;
            ready!(self.poll_send(cx))?;
            if !self.state().is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            if self.unopened.len() > HANDSHAKE_MAX {
                let error = "a message of the handshake is too large";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
            }
            let read = ready!(self.poll_receive(cx, &mut records[..RECORD_MAX]))?;
            self.unopened.extend_from_slice(&records[..read]);
        }
    }

    /// Opens what was kept and what the socket has, until there is something to read.
    fn poll_open(
        &mut self,
        cx: &mut Context<'_>,
        records: &mut [u8],
        reader: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = reader.filled().len();
        let mut end = self.unopened.len();
        records[..end].copy_from_slice(&self.unopened);
        let read = loop {
            let opened = match self.open(&mut records[..end], Some(reader), |_| ()) {
                Ok((opened, _)) => opened,
                // What came before has been read; the next to read is told.
                Err(_) if reader.filled().len() > before && self.broken.is_some() => return Poll::Ready(Ok(())),
                Err(error) => return Poll::Ready(Err(error)),
            };
            if opened > 0 {
                records.copy_within(opened..end, 0);
            }
            end -= opened;
            if reader.filled().len() > before || self.is_ended {
                break Poll::Ready(Ok(()));
            }
            let most = (end + RECORD_MAX.max(reader.remaining() + OVERHEAD)).min(records.len());
            match self.poll_receive(cx, &mut records[end..most]) {
                Poll::Ready(Ok(read)) => end += read,
                unread => break unread.map_ok(drop),
            }
        };
        self.unopened = records[..end].to_vec();
        read
    }

    /// Reads from the socket, whose end the peer has to announce.
    fn poll_receive(&mut self, cx: &mut Context<'_>, place: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut place = ReadBuf::new(place);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut place))?;
        match place.filled().len() {
            0 => {
                let error = "the peer ended the connection without saying so in TLS";
                Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, error)))
            }
            read => Poll::Ready(Ok(read)),
        }
    }

    /// Sends what there is to send.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unsent.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while !self.unsent.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_write(cx, &self.unsent))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.unsent.advance(sent),
            }
        }
        // Without, it would hold its buffer until the next records come.
        self.unsent = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    /// Sends of these what the socket takes; the rest is kept.
    fn send(&mut self, cx: &mut Context<'_>, mut records: &[u8]) -> io::Result<()> {
        // What the session had to say before goes before.
        while self.unsent.is_empty() && !records.is_empty() {
            match Pin::new(&mut self.socket).poll_write(cx, records)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(sent) => records = &records[sent..],
                Poll::Pending => break,
            }
        }
        self.unsent.extend_from_slice(records);
        Ok(())
    }

    /// Whether something can be sealed now.
    fn poll_sealable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(error) = &self.broken {
            return Poll::Ready(Err(invalid(error.clone())));
        }
        if self.is_shut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        self.poll_send(cx)
    }
}

impl<S, C> AsyncRead for TlsStream<S, C>
where
    S: AsyncRead + AsyncWrite + Unpin,
    C: Session + Unpin,
{
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, reader: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        if !stream.unread.is_empty() {
            let fits = stream.unread.len().min(reader.remaining());
            reader.put_slice(&stream.unread[..fits]);
            stream.unread.advance(fits);
            if stream.unread.is_empty() {
                stream.unread = BytesMut::new();
            }
            return Poll::Ready(Ok(()));
        }
        if let Some(error) = &stream.broken {
            return Poll::Ready(Err(invalid(error.clone())));
        }
        if stream.is_ended || reader.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let opened = with_scratch(|scratch| stream.poll_open(cx, &mut scratch.records, reader));
        // What goes wrong with an answer, who writes is told. Only then, for who writes may be another task, which waits for the socket.
        if stream.is_answering {
            stream.is_answering = stream.poll_send(cx).is_pending();
        }
        opened
    }
}

impl<S, C> AsyncWrite for TlsStream<S, C>
where
    S: AsyncRead + AsyncWrite + Unpin,
    C: Session + Unpin,
{
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = self.get_mut();
        ready!(stream.poll_sealable(cx))?;
        with_scratch(|Scratch { records, plaintext }| {
            let rest = gather(slices, plaintext);
            let mut sealed = 0;
            for part in [plaintext, rest].into_iter().filter(|part| !part.is_empty()) {
                sealed += stream.seal(Some(part), &mut records[sealed..])?;
            }
            stream.send(cx, &records[..sealed])?;
            Poll::Ready(Ok(plaintext.len() + rest.len()))
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        ready!(stream.poll_send(cx))?;
        Pin::new(&mut stream.socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        if !stream.is_shut && stream.broken.is_none() {
            ready!(stream.poll_send(cx))?;
            with_scratch(|Scratch { records, .. }| {
                let sealed = stream.seal(None, records)?;
                stream.send(cx, &records[..sealed])
            })?;
            stream.is_shut = true;
        }
        ready!(stream.poll_send(cx))?;
        Pin::new(&mut stream.socket).poll_shutdown(cx)
    }
}

impl<S: std::fmt::Debug, C> std::fmt::Debug for TlsStream<S, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsStream").field("socket", &self.socket).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
