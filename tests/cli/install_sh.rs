//! install.sh, piped into a shell as people do, against an HTTPS server in this process.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use crate::support::{both, text};

const SCRIPT: &str = include_str!("../../install.sh");
const ARCHIVE: &str = "hawser-linux-amd64.tar.gz";

/// A home of someone who installs, and a server with a release.
struct World {
    folder: tempfile::TempDir,
    files: HashMap<String, Vec<u8>>,
    script: String,
    variables: Vec<(&'static str, String)>,
}

impl World {
    /// A sound release for the platform that `uname` will tell.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut world = Self { folder, files: HashMap::new(), script: SCRIPT.into(), variables: Vec::new() };
        world.uname("Linux", "x86_64");
        let archive = world.archive("hawser", "#!/bin/sh\necho 9.8.7\n");
        world.release(archive);
        world
    }

    fn release(&mut self, archive: Vec<u8>) {
        let checksum = format!("{}  {ARCHIVE}\n", sha256(&archive));
        self.files.insert(format!("/{ARCHIVE}"), archive);
        self.files.insert(format!("/{ARCHIVE}.sha256"), checksum.into_bytes());
    }

    fn archive(&self, name: &str, program: &str) -> Vec<u8> {
        let folder = self.path("release");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(name), program).unwrap();
        let tar = Command::new("tar").arg("-czC").arg(&folder).args(["-f", "-", name]).output().unwrap();
        assert!(tar.status.success(), "{}", both(&tar));
        tar.stdout
    }

    /// Lets the machine be another one.
    fn uname(&self, system: &str, machine: &str) {
        let program = self.path("bin/uname");
        std::fs::create_dir_all(program.parent().unwrap()).unwrap();
        let script = format!("#!/bin/sh\ncase $1 in -s) echo {system} ;; -m) echo {machine} ;; esac\n");
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn installed(&self) -> PathBuf {
        self.path("home/.local/bin/hawser")
    }

    fn run(&self) -> Output {
        let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let trusted = self.path("ca.pem");
        std::fs::write(&trusted, certificate.cert.pem()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        serve(listener, &certificate, self.files.clone());
        let path = format!("{}:{}", self.path("bin").display(), std::env::var_os("PATH").unwrap().display());
        let mut shell = Command::new("sh");
        shell.env_clear().env("PATH", path).env("HOME", self.path("home")).env("HAWSER_INSTALL_BASE_URL", url);
        shell.env("CURL_CA_BUNDLE", trusted).envs(self.variables.iter().cloned());
        let mut child = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(self.script.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    #[track_caller]
    fn succeeds(&self) -> String {
        let output = self.run();
        assert!(output.status.success(), "{}", both(&output));
        text(&output.stdout)
    }

    /// Its error, after which nothing is installed that was not there before.
    #[track_caller]
    fn fails(&self) -> String {
        std::fs::create_dir_all(self.installed().parent().unwrap()).unwrap();
        std::fs::write(self.installed(), "old").unwrap();
        let output = self.run();
        assert_eq!(output.status.code(), Some(1), "{}", both(&output));
        assert_eq!(std::fs::read_to_string(self.installed()).unwrap(), "old");
        assert_eq!(entries(self.installed().parent().unwrap()), ["hawser"], "nothing is left behind");
        text(&output.stderr)
    }
}

fn entries(folder: &Path) -> Vec<String> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn sha256(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Serves the files over HTTPS, on a thread that ends with the tests.
fn serve(listener: TcpListener, certificate: &rcgen::CertifiedKey<rcgen::KeyPair>, files: HashMap<String, Vec<u8>>) {
    let key = rustls::pki_types::PrivateKeyDer::try_from(certificate.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.cert.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let tls = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            // A client that does not trust us leaves in the middle; that is its business.
            let _ = answer(rustls::StreamOwned::new(tls, stream.unwrap()), &files);
        }
    });
}

fn answer(
    stream: rustls::StreamOwned<rustls::ServerConnection, std::net::TcpStream>,
    files: &HashMap<String, Vec<u8>>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut request = String::new();
    stream.read_line(&mut request)?;
    let mut line = String::new();
    while stream.read_line(&mut line)? > 2 {
        line.clear();
    }
    let (status, body) = match files.get(request.split(' ').nth(1).unwrap_or_default()) {
        Some(body) => ("200 OK", body.as_slice()),
        None => ("404 Not Found", b"".as_slice()),
    };
    let stream = stream.get_mut();
    write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len())?;
    stream.write_all(body)?;
    stream.conn.send_close_notify();
    stream.flush()?;
    let _ = stream.read(&mut [0]);
    Ok(())
}

#[test]
fn installs_the_program_and_says_what_next() {
    let world = World::new();
    let said = world.succeeds();
    let installed = world.installed();
    assert!(said.contains(&format!("installed hawser 9.8.7 as {}", installed.display())), "{said}");
    assert!(said.contains("is not in your PATH") && said.contains("install | kubectl apply -f -"), "{said}");
    assert_eq!(std::fs::metadata(&installed).unwrap().permissions().mode() & 0o777, 0o755);
    assert_eq!(text(&Command::new(&installed).output().unwrap().stdout), "9.8.7\n");
    world.succeeds();
    assert_eq!(entries(installed.parent().unwrap()), ["hawser"], "installing again replaces it");
}

#[test]
fn installs_where_it_is_told_to() {
    let world = World::new();
    let folder = world.path("a folder/bin");
    let world = world.with("HAWSER_INSTALL_DIR", folder.to_str().unwrap());
    world.succeeds();
    assert!(folder.join("hawser").exists() && !world.installed().exists());
}

#[test]
fn refuses_a_download_with_another_checksum() {
    let mut world = World::new();
    let other = world.archive("hawser", "#!/bin/sh\necho evil\n");
    world.files.insert(format!("/{ARCHIVE}"), other);
    let error = world.fails();
    assert!(error.contains("the checksum of the download is"), "{error}");
}

#[test]
fn refuses_an_empty_checksum() {
    let mut world = World::new();
    world.files.insert(format!("/{ARCHIVE}.sha256"), Vec::new());
    assert!(world.fails().contains("the checksum is empty"));
}

#[test]
fn names_the_file_that_is_missing() {
    for missing in [format!("/{ARCHIVE}"), format!("/{ARCHIVE}.sha256")] {
        let mut world = World::new();
        world.files.remove(&missing);
        let error = world.fails();
        assert!(error.contains("cannot download https://localhost:") && error.contains(&missing), "{error}");
    }
}

#[test]
fn refuses_platforms_that_no_release_is_for() {
    for (system, machine) in [("Darwin", "arm64"), ("Linux", "riscv64")] {
        let world = World::new();
        world.uname(system, machine);
        let error = world.fails();
        assert!(error.contains(&format!("there is no hawser for {system} on {machine}")), "{error}");
    }
}

#[test]
fn refuses_a_folder_it_cannot_write() {
    let world = World::new();
    std::fs::write(world.path("file"), "").unwrap();
    let folder = world.path("file/bin");
    let world = world.with("HAWSER_INSTALL_DIR", folder.to_str().unwrap());
    let error = world.fails();
    assert!(error.contains(&format!("cannot make {}; set HAWSER_INSTALL_DIR", folder.display())), "{error}");
}

#[test]
fn refuses_a_server_it_does_not_trust() {
    let world = World::new().with("CURL_CA_BUNDLE", "/dev/null");
    assert!(world.fails().contains("cannot download"));
}

#[test]
fn refuses_what_is_not_https() {
    let world = World::new().with("HAWSER_INSTALL_BASE_URL", "http://localhost");
    assert!(world.fails().contains("must be an https:// URL, not http://localhost"));
}

#[test]
fn says_which_variable_to_set_where_no_release_is_known() {
    let world = World::new().with("HAWSER_INSTALL_BASE_URL", "");
    assert!(world.fails().contains("set HAWSER_INSTALL_BASE_URL"));
}

#[test]
fn refuses_an_archive_without_a_program_that_runs() {
    let mut world = World::new();
    let archive = world.archive("something", "else");
    world.release(archive);
    assert!(world.fails().contains("holds no program hawser"));
    let archive = world.archive("hawser", "#!/nonexistent\n");
    world.release(archive);
    assert!(world.fails().contains("does not run on this machine"));
}

#[test]
fn a_script_that_breaks_off_does_nothing() {
    let mut world = World::new();
    world.script.truncate(SCRIPT.rfind("main \"$@\"").unwrap());
    assert_eq!(world.succeeds(), "");
    assert!(!world.path("home").exists());
}
