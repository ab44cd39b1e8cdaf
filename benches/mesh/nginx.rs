//! A pair of nginx with mutual TLS between them, as somebody would set it up by hand: one process each, kept connections.
//!
//! It needs the Debian packages nginx-light and libnginx-mod-stream.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::apps::port;

/// Where the server's nginx listens for the client's: this much above the app's port.
const BETWEEN: u16 = 1000;
/// Where both listen for plaintext of the client: this much above the app's port.
pub(crate) const FRONT: u16 = 2000;

/// Which end of the wire.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// Starts one end. `folder` has `ca.pem`, `chain.pem` and `key.pem`; the server's name is `name`.
pub(crate) fn command(side: Side, server: &str, name: &str, folder: &Path) -> Command {
    let config = folder.join("nginx.conf");
    std::fs::write(&config, configuration(side, server, name, folder)).unwrap();
    let mut command = Command::new("nginx");
    command.args(["-e", "stderr", "-p", folder.to_str().unwrap(), "-c", config.to_str().unwrap()]);
    command.stdin(Stdio::null());
    command
}

fn configuration(side: Side, server: &str, name: &str, folder: &Path) -> String {
    let folder = folder.display();
    let common = "daemon off; master_process off; pid nginx.pid; error_log stderr error;\n\
                  load_module /usr/lib/nginx/modules/ngx_stream_module.so;\nevents { worker_connections 4096; }\n";
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {folder}/{what};\n"))
        .concat();
    let keys = |prefix: &str| {
        format!(
            "{prefix}_certificate {folder}/chain.pem; {prefix}_certificate_key {folder}/key.pem; {prefix}_protocols TLSv1.3;\n"
        )
    };
    let verify = format!(
        "proxy_ssl_trusted_certificate {folder}/ca.pem; proxy_ssl_verify on; proxy_ssl_verify_depth 3; proxy_ssl_name {name};\n"
    );
    let verify_client = format!(
        "ssl_client_certificate {folder}/ca.pem; ssl_verify_client on; ssl_verify_depth 3; ssl_session_tickets off;\n"
    );
    let mut http = String::new();
    let mut stream = String::new();
    for port in [port::HTTP, port::GRPC] {
        let (between, front) = (port + BETWEEN, port + FRONT);
        let protocol = if port == port::GRPC { " http2" } else { "" };
        let pass = match (side, port) {
            (Side::Client, port::GRPC) => {
                format!("grpc_pass grpcs://peer{port}; {}{}", keys("grpc_ssl"), verify.replace("proxy_ssl", "grpc_ssl"))
            }
            (Side::Client, _) => format!("proxy_pass https://peer{port}; {}{verify}", keys("proxy_ssl")),
            (Side::Server, port::GRPC) => format!("grpc_pass grpc://peer{port};"),
            (Side::Server, _) => format!("proxy_pass http://peer{port};"),
        };
        let (listen, to) = match side {
            Side::Client => (format!("listen {front}{protocol};"), format!("{server}:{between}")),
            Side::Server => {
                (format!("listen {between} ssl{protocol}; {}{verify_client}", keys("ssl")), format!("127.0.0.1:{port}"))
            }
        };
        writeln!(http, "upstream peer{port} {{ server {to}; keepalive 64; keepalive_requests 1000000; }}").unwrap();
        writeln!(
            http,
            "server {{ {listen} keepalive_requests 1000000; location / {{ {pass} proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }}"
        )
        .unwrap();
    }
    for port in [port::SINK, port::ECHO, port::FOREIGN] {
        let (between, front) = (port + BETWEEN, port + FRONT);
        let server = match side {
            Side::Client => {
                format!("listen {front}; proxy_pass {server}:{between}; proxy_ssl on; {}{verify}", keys("proxy_ssl"))
            }
            Side::Server => {
                let keys = keys("ssl");
                format!("listen {between} ssl; proxy_pass 127.0.0.1:{port}; {keys}{verify_client}")
            }
        };
        writeln!(stream, "server {{ {server} tcp_nodelay on; proxy_buffer_size 64k; }}").unwrap();
    }
    format!("{common}http {{ access_log off; {temporary}{http} }}\nstream {{ {stream} }}\n")
}
