use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs::default_provider;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;

fn configs() -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let made = rcgen::generate_simple_self_signed(["web".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let key = made.signing_key.serialize_der().try_into().unwrap();
    let client = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let client = client.with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
    let server = ServerConfig::builder_with_provider(Arc::new(default_provider()));
    let server = server.with_protocol_versions(&[&rustls::version::TLS13]).unwrap().with_no_client_auth();
    let client = client.with_root_certificates(roots).with_no_client_auth();
    (Arc::new(client), Arc::new(server.with_single_cert(vec![certificate], key).unwrap()))
}

fn web() -> ServerName<'static> {
    "web".try_into().unwrap()
}

type Ours<S> = TlsStream<DuplexStream, S>;

/// A client of ours and a server of rustls'.
async fn client(bytes: usize) -> (Ours<UnbufferedClientConnection>, tokio_rustls::server::TlsStream<DuplexStream>) {
    let ((client, server), (near, far)) = (configs(), duplex(bytes));
    let (client, server) = tokio::join!(TlsStream::connect(client, web(), near), TlsAcceptor::from(server).accept(far));
    (client.unwrap(), server.unwrap())
}

/// A server of ours and a client of rustls'.
async fn server(bytes: usize) -> (Ours<UnbufferedServerConnection>, tokio_rustls::client::TlsStream<DuplexStream>) {
    let ((client, server), (near, far)) = (configs(), duplex(bytes));
    let (server, client) =
        tokio::join!(TlsStream::accept(server, near), TlsConnector::from(client).connect(web(), far));
    (server.unwrap(), client.unwrap())
}

/// Both say the same at once, to the end, and hear it.
async fn exchange(
    one: &mut (impl AsyncRead + AsyncWrite + Unpin),
    other: impl AsyncRead + AsyncWrite + Unpin,
    size: usize,
) {
    async fn talk(stream: impl AsyncRead + AsyncWrite + Unpin, said: &[u8]) {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let mut heard = Vec::new();
        let say = async {
            writer.write_all(said).await.unwrap();
            writer.shutdown().await.unwrap();
        };
        let (_, read) = tokio::join!(say, reader.read_to_end(&mut heard));
        read.unwrap();
        assert!(heard == said, "{} bytes of {}", heard.len(), said.len());
    }
    let said: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
    tokio::join!(talk(one, &said), talk(other, &said));
}

#[tokio::test]
async fn what_either_end_says_is_heard_by_rustls_own_streams_whatever_the_sizes() {
    for size in [0, 1, 16_384, 16_385, 65_536, 1_000_000] {
        for bytes in [1_000, 5_000, 1_000_000] {
            let (mut ours, theirs) = client(bytes).await;
            exchange(&mut ours, theirs, size).await;
            let (mut ours, theirs) = server(bytes).await;
            exchange(&mut ours, theirs, size).await;
            assert!(ours.unopened.capacity() + ours.unread.capacity() + ours.unsent.capacity() == 0);
        }
    }
}

#[tokio::test]
async fn both_ends_may_be_ours() {
    let ((client, server), (near, far)) = (configs(), duplex(1_000));
    let (client, server) = tokio::join!(TlsStream::connect(client, web(), near), TlsStream::accept(server, far));
    exchange(&mut client.unwrap(), server.unwrap(), 100_000).await;
}

#[tokio::test]
async fn a_reader_with_little_place_gets_all_and_then_nothing_is_held() {
    let (mut ours, mut theirs) = server(1_000_000).await;
    let said: Vec<u8> = (0..50_000).map(|at| (at % 251) as u8).collect();
    theirs.write_all(&said).await.unwrap();
    theirs.flush().await.unwrap();
    for byte in said {
        assert_eq!(ours.read_u8().await.unwrap(), byte);
    }
    let nothing = tokio::time::timeout(std::time::Duration::from_millis(1), ours.read_u8());
    assert!(nothing.await.is_err());
    assert!(ours.unopened.capacity() + ours.unread.capacity() + ours.unsent.capacity() == 0);
}

#[tokio::test]
async fn pieces_of_a_write_go_together_as_far_as_they_fit() {
    let (mut ours, mut theirs) = client(1_000_000).await;
    let (head, body) = ([1; 10], vec![2; SEALED_AT_ONCE]);
    let slices = [io::IoSlice::new(&[]), io::IoSlice::new(&head), io::IoSlice::new(&body)];
    assert_eq!(ours.write_vectored(&slices).await.unwrap(), SEALED_AT_ONCE);
    let mut heard = vec![0; SEALED_AT_ONCE];
    theirs.read_exact(&mut heard).await.unwrap();
    assert!(heard[..10] == head && heard[10..] == body[..SEALED_AT_ONCE - 10]);
    assert_eq!(ours.write_vectored(&[]).await.unwrap(), 0);
}

#[test]
fn no_more_is_copied_of_a_large_piece_than_makes_a_record_whole() {
    let (small, large) = ([1; 2], vec![2; 2 * SEALED_AT_ONCE]);
    let mut piece = Vec::new();
    let gathered = |slices: &[&[u8]], piece: &mut Vec<u8>| {
        let slices: Vec<_> = slices.iter().map(|slice| io::IoSlice::new(slice)).collect();
        let rest = gather(&slices, piece).len();
        (piece.len(), rest)
    };
    assert_eq!(gathered(&[&large], &mut piece), (0, SEALED_AT_ONCE));
    assert_eq!(gathered(&[&small], &mut piece), (0, 2));
    assert_eq!(gathered(&[&small, &large], &mut piece), (PAYLOAD_MAX, SEALED_AT_ONCE - PAYLOAD_MAX));
    assert_eq!(gathered(&[&small, &small], &mut piece), (4, 0));
    assert_eq!(gathered(&[&large, &small], &mut piece), (SEALED_AT_ONCE, 0));
    assert_eq!(gathered(&[&large[..PAYLOAD_MAX], &small], &mut piece), (PAYLOAD_MAX, 2));
}

#[tokio::test]
async fn a_writer_waits_where_the_peer_does_not_read() {
    let (mut ours, mut theirs) = client(1_000).await;
    let soon = std::time::Duration::from_millis(1);
    assert!(tokio::time::timeout(soon, ours.write_all(&[7; 300_000])).await.is_err());
    assert!(ours.unsent.len() <= SCRATCH_BYTES);
    let mut heard = [0; 1_000];
    let (read, _) = tokio::join!(theirs.read_exact(&mut heard), tokio::time::timeout(10 * soon, ours.flush()));
    read.unwrap();
    assert_eq!(heard, [7; 1_000]);
}

#[tokio::test]
async fn an_end_that_the_peer_does_not_announce_is_an_error() {
    let (mut ours, mut theirs) = client(1_000).await;
    theirs.write_all(b"half").await.unwrap();
    theirs.flush().await.unwrap();
    drop(theirs);
    let mut heard = Vec::new();
    let error = ours.read_to_end(&mut heard).await.unwrap_err();
    assert_eq!((error.kind(), &heard[..]), (io::ErrorKind::UnexpectedEof, &b"half"[..]));
}

#[tokio::test]
async fn a_peer_may_change_its_keys_and_have_ours_changed() {
    let (mut ours, mut theirs) = server(1_000_000).await;
    for round in 0..3 {
        theirs.get_mut().1.refresh_traffic_keys().unwrap();
        theirs.write_all(&[round]).await.unwrap();
        theirs.flush().await.unwrap();
        assert_eq!(ours.read_u8().await.unwrap(), round);
        ours.write_all(&[round; 40_000]).await.unwrap();
        let mut heard = vec![9; 40_000];
        theirs.read_exact(&mut heard).await.unwrap();
        assert!(heard.iter().all(|byte| *byte == round));
    }
}

#[tokio::test]
async fn what_is_no_record_breaks_the_stream_and_the_peer_is_told() {
    let (mut ours, mut theirs) = server(1_000).await;
    theirs.write_all(b"before").await.unwrap();
    theirs.flush().await.unwrap();
    theirs.get_mut().0.write_all(&[23, 3, 3, 0, 20].iter().copied().chain([0; 20]).collect::<Vec<u8>>()).await.unwrap();
    let mut heard = [0; 100];
    assert_eq!(ours.read(&mut heard).await.unwrap(), 6, "what came before is heard");
    for _ in 0..2 {
        assert_eq!(ours.read_u8().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
    assert_eq!(ours.write_u8(0).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    assert!(theirs.read_u8().await.unwrap_err().to_string().contains("BadRecordMac"));
}

#[tokio::test]
async fn a_server_that_is_not_believed_is_told_and_the_handshake_fails() {
    let ((client, _), (_, server), (near, far)) = (configs(), configs(), duplex(10_000));
    let (client, server) = tokio::join!(TlsStream::connect(client, web(), near), TlsStream::accept(server, far));
    assert_eq!(client.unwrap_err().kind(), io::ErrorKind::InvalidData);
    let told = server.unwrap_err().to_string();
    assert!(told.contains("received fatal alert"), "{told}");
}

#[tokio::test]
async fn a_peer_that_leaves_or_speaks_something_else_ends_the_handshake() {
    let (_, server) = configs();
    let (near, far) = duplex(1_000);
    drop(far);
    let error = TlsStream::accept(server.clone(), near).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    let (near, mut far) = duplex(1_000);
    far.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(TlsStream::accept(server, near).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn nothing_is_written_after_the_end_though_the_other_way_goes_on() {
    let (mut ours, mut theirs) = client(1_000).await;
    ours.shutdown().await.unwrap();
    assert_eq!(ours.write_u8(0).await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(theirs.read(&mut [0]).await.unwrap(), 0);
    theirs.write_all(b"late").await.unwrap();
    theirs.shutdown().await.unwrap();
    let mut heard = Vec::new();
    ours.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"late");
}

#[tokio::test]
async fn a_greeting_in_many_small_records_is_understood() {
    let ((client, server), (near, mut middle), (mut further, far)) = (configs(), duplex(10_000), duplex(10_000));
    let meddle = async {
        let mut head = [0; 5];
        middle.read_exact(&mut head).await.unwrap();
        let mut greeting = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
        middle.read_exact(&mut greeting).await.unwrap();
        for part in greeting.chunks(100) {
            // Each record in two writes, so that it is read in two pieces.
            further.write_all(&[head[0], head[1], head[2], 0]).await.unwrap();
            tokio::task::yield_now().await;
            further.write_all(&[&[part.len() as u8], part].concat()).await.unwrap();
            tokio::task::yield_now().await;
        }
        let _ = tokio::io::copy_bidirectional(&mut middle, &mut further).await;
    };
    let talk = async {
        let (ours, theirs) =
            tokio::join!(TlsStream::accept(server, far), TlsConnector::from(client).connect(web(), near));
        exchange(&mut ours.unwrap(), theirs.unwrap(), 100_000).await;
    };
    tokio::select! {
        () = talk => {}
        () = async { meddle.await; std::future::pending().await } => {}
    }
}

#[tokio::test]
async fn a_greeting_without_end_is_refused_before_it_fills_the_memory() {
    let (near, mut far) = duplex(1_000_000);
    let (_, server) = configs();
    // A handshake message of 16 MB, record by record.
    let record = [&[22, 3, 1, 0x40, 0][..], &[0; 16 * 1024]].concat();
    let mut first = record.clone();
    first[5..9].copy_from_slice(&[1, 0xff, 0xff, 0xff]);
    far.write_all(&first).await.unwrap();
    for _ in 0..20 {
        far.write_all(&record).await.unwrap();
    }
    let error = TlsStream::accept(server, near).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
}
