//! Finds out what a connection speaks by listening to both of its ends; whoever speaks first decides.
//!
//! In: a client nobody has read from, and a way to its server. Out: the same streams, unread, and what the client [`Spoken`].
//!
//! Silence is an answer: servers that speak first (MySQL, SMTP) say nothing until they are connected, and their clients say nothing
//! until they have heard them. So the server is dialled as soon as the client has nothing to say yet; if the server speaks first, the bytes
//! are carried as they are, and nobody waits for a timeout. If the client speaks HTTP after all, the same server connection carries
//! it. Unsure means [`Spoken::Unknown`]: carrying bytes blindly is slower to observe but never wrong.
//!
//! One server that speaks first proves nothing: HTTP/2 begins at both ends at once. Its settings tell that the client will speak HTTP/2,
//! so that is waited for.
//!
//! ```text
//!   client ──bytes──> TLS? HTTP/2? HTTP/1? else unknown
//!   client silent ──> dial ──> server ──bytes──> HTTP/2's settings? listen on; else unknown
//! ```
//!
//! Start at [`detect`]. Ports that skip detection are decided earlier, by [`crate::mesh::policy`].

mod client_hello;

use std::convert::Infallible;
use std::future::{Future, pending};
use std::io;
use std::pin::{Pin, pin};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::Instant;

use crate::mesh::Protocol;
use crate::net::fair;
use crate::net::prefixed::Prefixed;

/// As much as is looked at. A ClientHello with a post-quantum key share has 1.5 KB; request lines longer than this are HTTP already by how they begin.
const BYTES_MAX: usize = 8 * 1024;
/// A post-quantum ClientHello and most request heads, in one read.
const HEARD_AT_ONCE: usize = 2 * 1024;
/// Whether a server has spoken, and whether it is HTTP/2, is all there is to know.
const ANSWERED_AT_ONCE: usize = 256;
/// What an HTTP/2 server says before its client: settings, the window of the connection, perhaps a ping. One that says more than this has
/// been misunderstood.
const ANSWERED_MAX: usize = 4 * 1024;
/// RFC 9113 defines seven settings and others have come; nobody sends this many.
const HTTP2_SETTINGS_MAX: usize = 64;
/// Identifier and value.
const HTTP2_SETTING_BYTES: usize = 6;
/// What HTTP/2 begins with, as far as it tells it from other text.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0";
/// A text that could yet become a request with a method nobody knows: HTTP clients send the whole line at once, so the rest comes within
/// a network round trip or not at all.
const UNLIKELY_PATIENCE: Duration = Duration::from_millis(100);
/// With the server away, what a client says can only matter for how it is told. HTTP clients speak within a round trip and get a
/// response; others see their connection end, as they would without a proxy.
const SERVER_AWAY_PATIENCE: Duration = Duration::from_secs(1);
/// The longest method that is registered (RFC 9110 §16.1.1) has 17 letters; whoever says more without a space says something else.
const METHOD_MAX: usize = 32;
/// Methods of RFC 9110 and their usual companions.
const METHODS: [&[u8]; 9] =
    [b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"CONNECT ", b"OPTIONS ", b"TRACE ", b"PATCH "];

/// What a client's first bytes are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Spoken {
    Http1,
    Http2,
    /// A TLS ClientHello; the name it asks for, in lower case, if any.
    Tls {
        sni: Option<String>,
    },
    /// Anything else, or nothing.
    Unknown,
}

impl Spoken {
    /// The protocol to carry, where TLS is not ours to end.
    pub fn protocol(&self) -> Protocol {
        match self {
            Self::Http1 => Protocol::Http1,
            Self::Http2 => Protocol::Http2,
            Self::Tls { .. } | Self::Unknown => Protocol::Opaque,
        }
    }

    /// What the metrics of detection call it.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Http1 => "http/1",
            Self::Http2 => "http/2",
            Self::Tls { .. } | Self::Unknown => "not_http",
        }
    }
}

/// How long detection waits, of the time in which the proxy gets to run.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For the rest of what a client has begun to say.
    pub unfinished: Duration,
    /// For a client that says nothing, while nobody may be dialled. None: forever, as TCP itself would; with a server at the other end
    /// either may end it.
    pub silent: Option<Duration>,
}

/// What was found out, and the streams as if nobody had read from them.
#[derive(Debug)]
pub struct Detected<C, S, E> {
    pub spoken: Spoken,
    pub client: Prefixed<C>,
    /// What became of dialling, if the client was silent for long enough to begin with it. What is not finished is dropped.
    pub server: Option<Result<Prefixed<S>, E>>,
}

/// Why nothing was found out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read from the client")]
    Client(#[source] io::Error),
    #[error("the client said nothing for {0:?}")]
    Silent(Duration),
}

impl Error {
    /// What the metrics of detection call it.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Client(_) => "error",
            Self::Silent(_) => "read_timeout",
        }
    }
}

/// Listens to `client`, and, while it is silent, to the server that `dial` connects to.
///
/// Whoever gives a `dial` must have authorized the client for blind bytes: a server that speaks first is heard.
///
/// # Errors
/// Where the client's end breaks, or its silence lasts longer than may be.
pub async fn detect<C, S, E>(
    mut client: C,
    dial: impl Future<Output = Result<S, E>>,
    patience: Patience,
) -> Result<Detected<C, S, E>, Error>
where
    C: AsyncRead + Unpin,
    S: AsyncRead + Unpin,
{
    let mut dial = pin!(dial);
    let mut server: Option<Result<S, E>> = None;
    let mut heard = BytesMut::with_capacity(HEARD_AT_ONCE);
    let mut answered = BytesMut::with_capacity(ANSWERED_AT_ONCE);
    let mut deadline: Option<Deadline> = patience.silent.map(Deadline::silent);
    let spoken = loop {
        let listened = tokio::select! {
            biased;
            read = client.read_buf(&mut heard) => Listened::Client(read),
            heard = hear(&mut server, &mut answered) => Listened::Server(heard),
            dialled = &mut dial, if server.is_none() => Listened::Dialled(dialled),
            () = until(deadline.as_mut()) => Listened::Nobody,
        };
        match listened {
            Listened::Client(Err(error)) => return Err(Error::Client(error)),
            // The client will not speak any more, or not in a protocol that we know: it may still want to hear.
            Listened::Client(Ok(0)) => break Spoken::Unknown,
            Listened::Client(Ok(_)) => match classify(&heard) {
                Progress::Known(spoken) => break spoken,
                _ if heard.len() >= BYTES_MAX => break Spoken::Unknown,
                Progress::Likely => deadline = Some(Deadline::unfinished(deadline, patience.unfinished)),
                Progress::Unlikely => {
                    let patience = patience.unfinished.min(UNLIKELY_PATIENCE);
                    deadline = Some(Deadline::unfinished(deadline, patience));
                }
            },
            Listened::Server(Heard::Bytes) if begins_http2(&answered) && answered.len() < ANSWERED_MAX => {}
            Listened::Server(_) => break Spoken::Unknown,
            Listened::Dialled(dialled) => {
                if dialled.is_err() {
                    deadline = Some(Deadline::server_away(deadline));
                }
                server = Some(dialled);
            }
            Listened::Nobody => match deadline {
                Some(Deadline { silent: Some(silent), .. }) => return Err(Error::Silent(silent)),
                _ => break Spoken::Unknown,
            },
        }
    };
    Ok(Detected {
        spoken,
        client: Prefixed::new(heard.freeze(), client),
        server: server.map(|dialled| dialled.map(|server| Prefixed::new(answered.freeze(), server))),
    })
}

/// Listens to a client whose server is not known yet.
///
/// # Errors
/// As [`detect`].
pub async fn detect_client<C>(client: C, patience: Patience) -> Result<(Spoken, Prefixed<C>), Error>
where
    C: AsyncRead + Unpin,
{
    let nobody = pending::<Result<tokio::io::Empty, Infallible>>();
    let Detected { spoken, client, .. } = detect(client, nobody, patience).await?;
    Ok((spoken, client))
}

enum Listened<S, E> {
    Client(io::Result<usize>),
    Dialled(Result<S, E>),
    Nobody,
    Server(Heard),
}

enum Heard {
    Bytes,
    /// Or an error, which whoever reads next finds as well.
    End,
}

/// When waiting ends, and whether it is an error.
struct Deadline {
    /// As the clock on the wall has it; time without a CPU moves it.
    at: Instant,
    over: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// How long the client has been silent by then.
    silent: Option<Duration>,
}

impl Deadline {
    fn after(patience: Duration, silent: Option<Duration>) -> Self {
        Self { at: Instant::now() + patience, over: Box::pin(fair::elapse(patience)), silent }
    }

    fn silent(silent: Duration) -> Self {
        Self::after(silent, Some(silent))
    }

    /// The rest is awaited from the first byte on, not from the latest: drop by drop is not sooner done.
    fn unfinished(before: Option<Self>, patience: Duration) -> Self {
        match before {
            Some(before @ Self { silent: None, .. }) => before,
            _ => Self::after(patience, None),
        }
    }

    fn server_away(before: Option<Self>) -> Self {
        match before {
            Some(before) if before.at < Instant::now() + SERVER_AWAY_PATIENCE => Self { silent: None, ..before },
            _ => Self::after(SERVER_AWAY_PATIENCE, None),
        }
    }
}

async fn until(deadline: Option<&mut Deadline>) {
    match deadline {
        Some(deadline) => deadline.over.as_mut().await,
        None => pending().await,
    }
}

/// Resolves when the server has something to say.
async fn hear<S, E>(server: &mut Option<Result<S, E>>, answered: &mut BytesMut) -> Heard
where
    S: AsyncRead + Unpin,
{
    match server {
        Some(Ok(server)) => match server.read_buf(answered).await {
            Ok(1..) => Heard::Bytes,
            Ok(0) | Err(_) => Heard::End,
        },
        _ => pending().await,
    }
}

/// Whether a server's first bytes are the settings that every HTTP/2 server begins with (RFC 9113 §3.4): the header of a frame of that type,
/// of stream 0, without flags, of a length that settings can have. Servers send it whole, so that less is something else.
pub fn begins_http2(answered: &[u8]) -> bool {
    const SETTINGS: u8 = 4;
    match *answered {
        [0, high, low, SETTINGS, 0, 0, 0, 0, 0, ..] => {
            let length = usize::from(u16::from_be_bytes([high, low]));
            length.is_multiple_of(HTTP2_SETTING_BYTES) && length <= HTTP2_SETTINGS_MAX * HTTP2_SETTING_BYTES
        }
        _ => false,
    }
}

#[derive(Debug, Eq, PartialEq)]
enum Progress {
    Known(Spoken),
    /// The beginning of something known.
    Likely,
    /// It would be a surprise.
    Unlikely,
}

fn classify(bytes: &[u8]) -> Progress {
    let begins = |whole: &[u8]| bytes.starts_with(whole) || whole.starts_with(bytes);
    match bytes {
        [client_hello::RECORD_TYPE, ..] => match client_hello::parse(bytes) {
            client_hello::Parsed::Hello { sni } => Progress::Known(Spoken::Tls { sni }),
            client_hello::Parsed::Unfinished => Progress::Likely,
            client_hello::Parsed::No => Progress::Known(Spoken::Unknown),
        },
        _ if bytes.starts_with(HTTP2_PREFACE) => Progress::Known(Spoken::Http2),
        _ if begins(HTTP2_PREFACE) => Progress::Likely,
        _ => {
            // More headers than fit are no error here: the request line has been read by then.
            let mut headers = [];
            let http1 = match httparse::Request::new(&mut headers).parse(bytes) {
                Ok(httparse::Status::Complete(_)) | Err(httparse::Error::TooManyHeaders) => true,
                Ok(httparse::Status::Partial) => bytes.trim_ascii_start().contains(&b'\n') || bytes.len() >= BYTES_MAX,
                Err(_) => return Progress::Known(Spoken::Unknown),
            };
            if http1 {
                Progress::Known(Spoken::Http1)
            } else if METHODS.iter().any(|method| begins(method)) {
                Progress::Likely
            } else if bytes.trim_ascii_start().get(..=METHOD_MAX).is_some_and(|begin| !begin.contains(&b' ')) {
                Progress::Known(Spoken::Unknown)
            } else {
                Progress::Unlikely
            }
        }
    }
}

#[cfg(test)]
mod tests;
