use std::sync::Arc;

use tokio::io::{AsyncWriteExt as _, DuplexStream, duplex};

use super::*;

const PATIENCE: Patience = Patience { unfinished: Duration::from_secs(10), silent: None };

/// What rustls, with its default groups, sends first for `name`: some 1.5 KB.
fn client_hello(name: &str) -> Vec<u8> {
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = name.to_owned().try_into().unwrap();
    let mut connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).unwrap();
    hello
}

fn hello_for(name: &str) -> Spoken {
    Spoken::Tls { sni: Some(name.into()) }
}

/// A server that can be dialled at once, and its far end.
fn server() -> (impl Future<Output = Result<DuplexStream, io::Error>>, DuplexStream) {
    let (near, far) = duplex(64);
    (async { Ok(near) }, far)
}

#[test]
fn knows_what_bytes_begin_with() {
    for (bytes, spoken) in [
        (&b"GET / HTTP/1.1\r\nHost: web\r\n\r\n"[..], Spoken::Http1),
        (b"GET /never-ending?", Spoken::Unknown),
        (b"PROPFIND / HTTP/1.1\r\n", Spoken::Http1),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Spoken::Http2),
        (b"PRI * HTTP/2.0", Spoken::Http2),
        (b"PING\r\n", Spoken::Unknown),
        (b"get key\r\n", Spoken::Unknown),
        (b"*1\r\n$4\r\nPING\r\n", Spoken::Unknown),
        (b"\x00\x00\x00\x2f\x00\x03\x00\x00", Spoken::Unknown),
        (b"\x16\x03\x09\x00\x00", Spoken::Unknown),
        (b"\x16\x03\x01\x00\x20\x02", Spoken::Unknown),
    ] {
        let progress = classify(bytes);
        match spoken {
            Spoken::Unknown if bytes.starts_with(b"GET ") => assert_eq!(progress, Progress::Likely, "{bytes:?}"),
            spoken => assert_eq!(progress, Progress::Known(spoken), "{bytes:?}"),
        }
    }
}

#[test]
fn letters_without_a_space_may_be_a_method_as_long_as_methods_are() {
    assert_eq!(classify(&[b'x'; 32]), Progress::Unlikely);
    assert_eq!(classify(&[b'x'; 33]), Progress::Known(Spoken::Unknown));
    assert_eq!(classify(b"UPDATEREDIRECTREF /a-path-that-goes-on"), Progress::Unlikely);
}

#[test]
fn a_client_hello_is_read_at_every_split() {
    let hello = client_hello("Web.shop.serviceaccount.identity.hawser.cluster.local");
    assert!(hello.len() > 1024, "a post-quantum key share makes it larger than a peek: {}", hello.len());
    for end in 1..hello.len() {
        assert_eq!(classify(&hello[..end]), Progress::Likely, "after {end} bytes");
    }
    let known = hello_for("web.shop.serviceaccount.identity.hawser.cluster.local");
    assert_eq!(classify(&hello), Progress::Known(known.clone()));
    let more = [hello.as_slice(), b"\x14\x03\x03\x00\x01\x01"].concat();
    assert_eq!(classify(&more), Progress::Known(known));
}

#[test]
fn a_server_name_that_is_none_is_not_kept() {
    let hello = |name: &[u8]| {
        let block = |bytes: Vec<u8>| [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], &bytes].concat();
        let names = block([&[0], &block(name.to_vec())[..]].concat());
        let extensions = block([&[0, 0], &block(names)[..]].concat());
        let body = [&[3, 3][..], &[7; 32], &[0], &block(vec![0x13, 1]), &[1, 0], &extensions].concat();
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&[0x16, 3, 1][..], &block([&[1], &length[1..], &body].concat())].concat()
    };
    let sni = |name: &[u8]| match classify(&hello(name)) {
        Progress::Known(Spoken::Tls { sni }) => sni,
        progress => panic!("{progress:?}"),
    };
    assert_eq!(sni(b"_db.Shop").as_deref(), Some("_db.shop"));
    let longest = [b'a'; 253];
    assert_eq!(sni(&longest).map(|name| name.len()), Some(253));
    for none in [&b""[..], b"a\x1b[2Jb", b"a\nb", b"a b", b"\"", "caf\u{e9}".as_bytes(), &[b'a'; 254]] {
        assert_eq!(sni(none), None, "{none:?}");
    }
}

#[test]
fn a_broken_client_hello_is_unknown_and_never_a_panic() {
    let hello = client_hello("web.shop");
    for at in 0..hello.len() {
        for value in [0, 0x7f, 0xff] {
            let mut broken = hello.clone();
            broken[at] = value;
            let _ = classify(&broken);
        }
    }
    let mut two_records = hello;
    two_records[3..5].copy_from_slice(&10u16.to_be_bytes());
    assert_eq!(classify(&two_records), Progress::Known(Spoken::Unknown));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_speaks_at_once_is_not_dialled_for() {
    let (near, mut client) = duplex(64);
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let dial = async { panic!("dialled") as Result<DuplexStream, io::Error> };
    let mut detected = detect(near, dial, PATIENCE).await.unwrap();
    assert_eq!(detected.spoken, Spoken::Http1);
    assert!(detected.server.is_none());
    let mut line = [0; 14];
    detected.client.read_exact(&mut line).await.unwrap();
    assert_eq!(&line, b"GET / HTTP/1.1");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_speaks_first_is_heard_without_waiting() {
    let started_at = Instant::now();
    let (near, _client) = duplex(64);
    let (dial, mut far) = server();
    far.write_all(b"220 mail ready\r\n").await.unwrap();
    let detected = detect(near, dial, PATIENCE).await.unwrap();
    assert_eq!(detected.spoken, Spoken::Unknown);
    assert_eq!(Instant::now(), started_at, "time is paused, and moves only if somebody waits");
    let mut greeting = [0; 16];
    detected.server.unwrap().unwrap().read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"220 mail ready\r\n");
}

/// What an HTTP/2 server says first: one setting, and the window of the connection.
const SETTINGS: &[u8] = b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\xfa\0\0\x04\x08\0\0\0\0\0\0\x0f\0\x01";

#[test]
fn settings_are_told_from_other_greetings() {
    assert!(begins_http2(SETTINGS));
    assert!(begins_http2(b"\0\0\0\x04\0\0\0\0\0"), "no settings at all");
    for other in [
        &b"220 mail ready\r\n"[..],
        b"\0\0\x06\x04\0\0\0\0",
        b"\0\0\x06\x04\x01\0\0\0\0",
        b"\0\0\x06\x04\0\0\0\0\x01",
        b"\0\0\x06\0\0\0\0\0\0",
        b"\0\0\x07\x04\0\0\0\0\0",
        b"\0\x06\0\x04\0\0\0\0\0",
        b"J\0\0\0\x0a8.0.36\0",
    ] {
        assert!(!begins_http2(other), "{other:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_of_an_http2_server_is_still_understood() {
    let (near, mut client) = duplex(64);
    let (dial, mut far) = server();
    far.write_all(SETTINGS).await.unwrap();
    let speak = async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        (client, far)
    };
    let (detected, _open) = tokio::join!(detect(near, dial, PATIENCE), speak);
    let detected = detected.unwrap();
    assert_eq!(detected.spoken, Spoken::Http2);
    let mut said = vec![0; SETTINGS.len()];
    detected.server.unwrap().unwrap().read_exact(&mut said).await.unwrap();
    assert_eq!(said, SETTINGS, "for whoever speaks with the server next");
}

#[tokio::test(start_paused = true)]
async fn an_http2_server_that_hangs_up_or_talks_on_is_heard() {
    for more in [0, ANSWERED_MAX] {
        let (near, _client) = duplex(64);
        let (close, mut far) = duplex(ANSWERED_MAX * 2);
        far.write_all(&[SETTINGS, &vec![0; more]].concat()).await.unwrap();
        if more == 0 {
            far.shutdown().await.unwrap();
        }
        let dial = async { Ok::<_, io::Error>(close) };
        let detected = detect(near, dial, PATIENCE).await.unwrap();
        assert_eq!(detected.spoken, Spoken::Unknown);
        assert!(matches!(detected.server, Some(Ok(_))));
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_speaks_ends_the_wait_for_an_unfinished_client() {
    let (near, mut client) = duplex(64);
    client.write_all(b"PO").await.unwrap();
    let (dial, mut far) = server();
    far.write_all(b"+OK\r\n").await.unwrap();
    let started_at = Instant::now();
    assert_eq!(detect(near, dial, PATIENCE).await.unwrap().spoken, Spoken::Unknown);
    assert_eq!(Instant::now(), started_at);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_its_time_is_still_understood() {
    let (near, mut client) = duplex(64);
    let (dial, far) = server();
    let speak = async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        (client, far)
    };
    let (detected, _open) = tokio::join!(detect(near, dial, PATIENCE), speak);
    let detected = detected.unwrap();
    assert_eq!(detected.spoken, Spoken::Http1);
    assert!(matches!(detected.server, Some(Ok(_))), "the connection made meanwhile is there to be used");
}

#[tokio::test(start_paused = true)]
async fn an_unfinished_client_is_waited_for_only_so_long() {
    let (near, mut client) = duplex(64);
    client.write_all(&client_hello("web.shop")[..7]).await.unwrap();
    let started_at = Instant::now();
    let (dial, _far) = server();
    assert_eq!(detect(near, dial, PATIENCE).await.unwrap().spoken, Spoken::Unknown);
    assert_eq!(started_at.elapsed(), PATIENCE.unfinished);
}

#[tokio::test(start_paused = true)]
async fn a_text_that_is_hardly_http_is_carried_soon() {
    let (near, mut client) = duplex(64);
    client.write_all(b"hello").await.unwrap();
    let started_at = Instant::now();
    let (dial, _far) = server();
    assert_eq!(detect(near, dial, PATIENCE).await.unwrap().spoken, Spoken::Unknown);
    assert_eq!(started_at.elapsed(), UNLIKELY_PATIENCE);
}

#[tokio::test(start_paused = true)]
async fn with_the_server_away_a_silent_client_is_soon_told() {
    let (near, _client) = duplex(64);
    let refused = async { Err::<DuplexStream, _>(io::ErrorKind::ConnectionRefused) };
    let detected = detect(near, refused, PATIENCE).await.unwrap();
    assert_eq!(detected.spoken, Spoken::Unknown);
    assert!(matches!(detected.server, Some(Err(io::ErrorKind::ConnectionRefused))));
}

#[tokio::test(start_paused = true)]
async fn with_the_server_away_a_client_that_speaks_is_understood() {
    let (near, mut client) = duplex(64);
    let refused = async { Err::<DuplexStream, _>(io::ErrorKind::ConnectionRefused) };
    let speak = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    };
    let (detected, ()) = tokio::join!(detect(near, refused, PATIENCE), speak);
    assert_eq!(detected.unwrap().spoken, Spoken::Http1);
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_without_a_server_is_an_error() {
    let (near, _client) = duplex(64);
    let patience = Patience { silent: Some(Duration::from_secs(3)), ..PATIENCE };
    assert!(matches!(detect_client(near, patience).await, Err(Error::Silent(_))));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_ends_its_side_may_still_hear() {
    let (near, mut client) = duplex(64);
    client.shutdown().await.unwrap();
    let (dial, _far) = server();
    assert_eq!(detect(near, dial, PATIENCE).await.unwrap().spoken, Spoken::Unknown);
}

#[tokio::test(start_paused = true)]
async fn nobody_can_make_it_read_without_end() {
    let (near, mut client) = duplex(BYTES_MAX * 4);
    let mut endless = client_hello("web.shop");
    endless[3..5].copy_from_slice(&u16::MAX.to_be_bytes());
    endless.resize(BYTES_MAX * 2, 0);
    client.write_all(&endless).await.unwrap();
    let (dial, _far) = server();
    assert_eq!(detect(near, dial, PATIENCE).await.unwrap().spoken, Spoken::Unknown);
}
