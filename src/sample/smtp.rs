//! The sample's protocol in which the server speaks first, like SMTP's opening: the server greets, then answers line by line.
//!
//! ```text
//! S: 220 hello from mail-7d4b
//! C: ECHO anything
//! S: 250 anything
//! C: QUIT
//! S: 221 bye
//! ```
//!
//! Such a client sends nothing until it has been greeted, so whoever waits for its first bytes waits for ever.

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::net::drain::Drain;
use crate::net::serve;

/// Longer lines are nothing we would have been sent.
const LINE_BYTES_MAX: u64 = 64 * 1024;

pub(super) fn serve(listener: TcpListener, name: String, drain: &Drain) {
    let draining = drain.clone();
    drain.spawn(serve::serve(listener, super::CONNECTIONS_MAX, drain.clone(), move |stream, peer| {
        let (name, drain) = (name.clone(), draining.clone());
        async move {
            tracing::info!(%peer, "connection");
            let ended = tokio::select! {
                ended = converse(stream, &name) => ended,
                () = drain.started() => Ok(()), // between two lines nothing is lost
            };
            if let Err(error) = ended {
                tracing::info!(%peer, %error, "a connection ended badly");
            }
        }
    }));
}

async fn converse(stream: TcpStream, name: &str) -> anyhow::Result<()> {
    let mut stream = BufReader::new(stream);
    stream.write_all(format!("220 hello from {name}\r\n").as_bytes()).await?;
    while let Some(line) = read_line(&mut stream).await? {
        let (answer, more) = match line.split_once(' ').unwrap_or((&line, "")) {
            ("ECHO", text) => (format!("250 {text}\r\n"), true),
            ("QUIT", _) => ("221 bye\r\n".into(), false),
            (word, _) => (format!("500 what is {word:?}?\r\n"), true),
        };
        stream.write_all(answer.as_bytes()).await?;
        if !more {
            break;
        }
    }
    Ok(())
}

/// One connection to a server, which has greeted.
pub(super) struct Client {
    stream: BufReader<TcpStream>,
    greeting: String,
}

impl Client {
    pub(super) async fn connect(authority: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(authority).await.context("cannot connect")?;
        let mut stream = BufReader::new(stream);
        let greeting = read_line(&mut stream).await?.context("the server hung up before its greeting")?;
        anyhow::ensure!(greeting.starts_with("220 "), "the server greeted with {greeting:?}");
        Ok(Self { stream, greeting })
    }

    pub(super) async fn call(&mut self, text: &str) -> anyhow::Result<String> {
        self.stream.write_all(format!("ECHO {text}\r\n").as_bytes()).await.context("cannot send")?;
        let answer = read_line(&mut self.stream).await?.context("the server hung up")?;
        anyhow::ensure!(answer == format!("250 {text}"), "the server answered {answer:?}");
        Ok(serde_json::json!({"greeting": self.greeting, "answer": answer}).to_string())
    }
}

/// The next line without its end; none where the stream has ended.
async fn read_line(stream: &mut BufReader<TcpStream>) -> anyhow::Result<Option<String>> {
    let mut line = String::new();
    stream.take(LINE_BYTES_MAX).read_line(&mut line).await.context("cannot read")?;
    Ok(line.strip_suffix('\n').map(|line| line.trim_end_matches('\r').to_owned()))
}
