//! Waits until the proxy of this pod is ready: what the hook of its container runs, so that no container after it starts before.
//!
//! In: the admin port. Out: success as soon as `/ready` says so. It asks again and again, for the proxy starts at the same moment; once the
//! admin server listens, that keeps the answer until the proxy is ready, so hardly anything is asked twice.
//!
//! Start at [`run`].

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::manifest::names;
use crate::mesh::limits::duration;

/// Between two attempts. A proxy listens some 20 ms after its process starts, and the next container waits for this.
const PAUSE: Duration = Duration::from_millis(5);
/// One answer. The admin server keeps it for at most a second.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The admin port of the proxy
    #[arg(long, short = 'p', value_name = "PORT", default_value_t = names::ADMIN_PORT)]
    port: u16,
    /// How long to wait for it
    #[arg(long, short = 't', value_parser = duration, default_value = "2m", value_name = "DURATION")]
    timeout: Duration,
}

/// Waits.
///
/// # Errors
/// Where the proxy is not ready in time, with what it last said.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let started_at = Instant::now();
    loop {
        let said = match ask(args.port) {
            Ok(status) if status == "200" => return Ok(()),
            Ok(status) => format!("it answered {status}"),
            Err(error) => error.to_string(),
        };
        if started_at.elapsed() >= args.timeout {
            anyhow::bail!("the proxy at port {} is not ready after {:?}: {said}", args.port, args.timeout);
        }
        std::thread::sleep(PAUSE);
    }
}

/// The status that `/ready` answers with.
fn ask(port: u16) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), ANSWER_TIMEOUT)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.write_all(b"GET /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut line = [0; "HTTP/1.1 200".len()];
    stream.read_exact(&mut line)?;
    Ok(String::from_utf8_lossy(&line[line.len() - 3..]).into_owned())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// An admin server that gives these answers, one connection each.
    fn admin(answers: &'static [&'static str]) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                stream.read_exact(&mut [0; "GET /ready HTTP/1.1\r\n".len()]).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        port
    }

    #[test]
    fn waits_until_the_proxy_is_ready() {
        let port = admin(&["HTTP/1.1 503 Service Unavailable\r\n\r\n", "", "HTTP/1.1 200 OK\r\n\r\n"]);
        run(&Args { port, timeout: Duration::from_secs(60) }).unwrap();
    }

    #[test]
    fn says_what_it_last_heard_when_it_gives_up() {
        let port = admin(&["HTTP/1.1 503 Service Unavailable\r\n\r\n"]);
        let error = run(&Args { port, timeout: Duration::ZERO }).unwrap_err().to_string();
        assert!(error.contains("503"), "{error}");
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let error = run(&Args { port: nobody, timeout: Duration::ZERO }).unwrap_err().to_string();
        assert!(error.contains("refused"), "{error}");
    }
}
