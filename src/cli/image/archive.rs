//! Makes the archive of an image: an OCI image layout, and for Docker and Podman its `manifest.json` as well.
//!
//! In: a static program and names. Out: the bytes of a tar, which depend on nothing else: no clock, no owner, no order
//! of a file system.
//!
//! ```text
//! oci-layout            index.json ── manifest ─┬─ config: user, entry point
//! manifest.json (Docker's way to the same) ─────┴─ layer: /hawser, its other names, /etc/passwd
//! ```

use std::io;

use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use super::EntryPoint;
use crate::manifest::names;

pub(super) struct Image<'i> {
    pub(super) binary: &'i [u8],
    pub(super) architecture: &'i str,
    pub(super) entry_point: EntryPoint,
    /// With registry and tag: containerd keeps images under such names, and the kubelet asks for them.
    pub(super) name: &'i str,
    /// The same as Docker lists it.
    pub(super) short_name: &'i str,
}

const BINARY: &str = "hawser";
/// The names that manifests of a stock Linkerd start its binaries by; [`crate::cli::arguments`] answers to them.
const STOCK_FOLDER: &str = "usr/lib/linkerd";
const STOCK_NAMES: [&str; 4] = ["linkerd-await", "linkerd2-proxy", "linkerd2-proxy-identity", "linkerd2-proxy-init"];

/// Programs ask who they run as; there is nobody else in the image.
const USERS: [(&str, u32); 5] = [
    ("root", 0),
    ("proxy", names::PROXY_UID),
    ("control", names::CONTROL_UID),
    ("app", names::IMAGE_UID),
    ("nobody", names::INIT_UID),
];

/// The file capability of the binary (linux/capability.h: revision 2, permitted, little endian): `run init` may change
/// packet rules without being root, but only where its container was given CAP_NET_ADMIN. Nobody else gets anything by
/// it, for permitted is not effective, and the bounding set of a container that drops all capabilities is empty.
const NET_ADMIN_PERMITTED: [u8; 20] = [0, 0, 0, 2, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Not compressed, for then digests do not depend on a compressor, and loading is local anyway.
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// The same binary must give the same image on any day.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// The bytes of the archive.
///
/// # Errors
/// None that writing to memory does not have.
pub(super) fn archive(image: &Image<'_>) -> io::Result<Vec<u8>> {
    let layer = Blob::new(OCI_LAYER, layer(image.binary)?);
    let config = Blob::new(OCI_CONFIG, config(image, &layer).to_string().into_bytes());
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config.descriptor(),
        "layers": [layer.descriptor()],
    });
    let manifest = Blob::new(OCI_MANIFEST, manifest.to_string().into_bytes());
    let mut listed = manifest.descriptor();
    listed["platform"] = json!({ "architecture": image.architecture, "os": "linux" });
    listed["annotations"] = json!({
        "io.containerd.image.name": image.name,
        "org.opencontainers.image.ref.name": image.name,
    });
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [listed] });
    let docker = json!([{ "Config": config.path(), "RepoTags": [image.short_name], "Layers": [layer.path()] }]);

    let mut tar = Builder::new(Vec::with_capacity(layer.bytes.len() + 64 * 1024));
    file(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
    file(&mut tar, "index.json", index.to_string().as_bytes(), 0o644)?;
    file(&mut tar, "manifest.json", docker.to_string().as_bytes(), 0o644)?;
    folder(&mut tar, "blobs/")?;
    folder(&mut tar, "blobs/sha256/")?;
    for blob in [&manifest, &config, &layer] {
        file(&mut tar, &blob.path(), &blob.bytes, 0o644)?;
    }
    tar.into_inner()
}

fn layer(binary: &[u8]) -> io::Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::with_capacity(binary.len() + 64 * 1024));
    let groups: String = USERS.iter().map(|(name, id)| format!("{name}:x:{id}:\n")).collect();
    let users: String = USERS.iter().map(|(name, id)| format!("{name}:x:{id}:{id}:{name}:/:/\n")).collect();
    folder(&mut tar, "etc/")?;
    file(&mut tar, "etc/group", groups.as_bytes(), 0o644)?;
    file(&mut tar, "etc/passwd", users.as_bytes(), 0o644)?;
    tar.append_pax_extensions([("SCHILY.xattr.security.capability", NET_ADMIN_PERMITTED.as_slice())])?;
    file(&mut tar, BINARY, binary, 0o755)?;
    let mut path = String::new();
    for part in STOCK_FOLDER.split('/') {
        path += part;
        path.push('/');
        folder(&mut tar, &path)?;
    }
    for name in STOCK_NAMES {
        let mut link = header(EntryType::Symlink, 0o777, 0);
        tar.append_link(&mut link, format!("{STOCK_FOLDER}/{name}"), format!("/{BINARY}"))?;
    }
    tar.into_inner()
}

fn config(image: &Image<'_>, layer: &Blob) -> Value {
    let entry_point = match image.entry_point {
        EntryPoint::Hawser => format!("/{BINARY}"),
        EntryPoint::Proxy => format!("/{STOCK_FOLDER}/linkerd2-proxy-identity"),
        EntryPoint::ProxyInit => format!("/{STOCK_FOLDER}/linkerd2-proxy-init"),
    };
    json!({
        "created": CREATED,
        "architecture": image.architecture,
        "os": "linux",
        "config": {
            // A number, so that `runAsNonRoot` can tell. Manifests say which user each role has; who is not told is an app.
            "User": names::IMAGE_UID.to_string(),
            "Env": ["PATH=/"],
            "Entrypoint": [entry_point],
            "WorkingDir": "/",
            "Labels": {
                "org.opencontainers.image.title": "hawser",
                "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
                "org.opencontainers.image.licenses": env!("CARGO_PKG_LICENSE"),
            },
        },
        "rootfs": { "type": "layers", "diff_ids": [layer.digest] },
        "history": [{ "created": CREATED, "created_by": "hawser image" }],
    })
}

/// A part of an image, which the others name by its digest.
struct Blob {
    media_type: &'static str,
    digest: String,
    bytes: Vec<u8>,
}

impl Blob {
    fn new(media_type: &'static str, bytes: Vec<u8>) -> Self {
        use std::fmt::Write as _;
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes);
        let digest = digest.as_ref().iter().fold("sha256:".to_owned(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        Self { media_type, digest, bytes }
    }

    fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len() })
    }

    fn path(&self) -> String {
        format!("blobs/{}", self.digest.replace(':', "/"))
    }
}

fn header(kind: EntryType, mode: u32, size: usize) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size as u64);
    header
}

fn file(tar: &mut Builder<Vec<u8>>, path: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
    tar.append_data(&mut header(EntryType::Regular, mode, bytes.len()), path, bytes)
}

fn folder(tar: &mut Builder<Vec<u8>>, path: &str) -> io::Result<()> {
    tar.append_data(&mut header(EntryType::Directory, 0o755, 0), path, io::empty())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read as _;

    use super::*;

    fn image(binary: &[u8]) -> Vec<u8> {
        let image = Image {
            binary,
            architecture: "amd64",
            entry_point: EntryPoint::Hawser,
            name: "docker.io/library/hawser:1",
            short_name: "hawser:1",
        };
        archive(&image).unwrap()
    }

    /// The files of a tar, with where links lead.
    fn unpack(tar: &[u8]) -> BTreeMap<String, (Header, Vec<u8>)> {
        let mut archive = tar::Archive::new(tar);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            (entry.path().unwrap().display().to_string(), (entry.header().clone(), bytes))
        });
        entries.collect()
    }

    #[test]
    fn the_same_binary_gives_the_same_bytes_and_another_gives_others() {
        assert_eq!(image(b"binary"), image(b"binary"));
        assert_ne!(image(b"binary"), image(b"another"));
    }

    #[test]
    fn docker_and_containerd_find_the_same_layer_by_its_digest() {
        let files = unpack(&image(b"binary"));
        let json = |path: &str| serde_json::from_slice::<Value>(&files[path].1).unwrap();
        let path = |digest: &Value| format!("blobs/{}", digest.as_str().unwrap().replace(':', "/"));
        let index = json("index.json");
        let manifest = json(&path(&index["manifests"][0]["digest"]));
        let layer = path(&manifest["layers"][0]["digest"]);
        assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], "docker.io/library/hawser:1");
        let docker = &json("manifest.json")[0];
        assert_eq!(docker["Layers"], json!([layer]));
        assert_eq!(docker["Config"], json!(path(&manifest["config"]["digest"])));
        let config = json(&path(&manifest["config"]["digest"]));
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
        assert_eq!(manifest["layers"][0]["size"], files[&layer].1.len());
    }

    #[test]
    fn who_is_not_told_whom_to_run_as_is_not_the_proxy_whose_connections_are_left_alone() {
        for entry_point in [EntryPoint::Hawser, EntryPoint::Proxy, EntryPoint::ProxyInit] {
            let image = Image { binary: b"", architecture: "amd64", entry_point, name: "", short_name: "" };
            let config = config(&image, &Blob::new(OCI_LAYER, Vec::new()));
            let user: u32 = config["config"]["User"].as_str().unwrap().parse().unwrap();
            assert!(![0, names::PROXY_UID, names::CONTROL_UID].contains(&user), "{user}");
            assert!(USERS.contains(&("app", user)));
        }
    }

    #[test]
    fn the_layer_holds_the_binary_under_all_its_names() {
        let files = unpack(&image(b"binary"));
        let layer = files.values().map(|(_, bytes)| bytes).max_by_key(|bytes| bytes.len()).unwrap();
        let files = unpack(layer);
        assert_eq!(files["hawser"].1, b"binary");
        assert_eq!(files["hawser"].0.mode().unwrap(), 0o755);
        for name in STOCK_NAMES {
            let (link, _) = &files[&format!("usr/lib/linkerd/{name}")];
            assert_eq!(link.link_name().unwrap().unwrap().to_str(), Some("/hawser"));
        }
    }
}
