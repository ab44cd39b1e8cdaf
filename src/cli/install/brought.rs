//! Anchors and issuers that are brought to an installation: judged before anything is applied, applied before anything that could make others.
//!
//! In: files, or a Secret that somebody else keeps. Out: the values of an installation that signs with them; and, where hawser applies it itself,
//! the Secrets. Keys are in no value and nothing that is printed. What is put into the cluster belongs to a field manager of its own, so that
//! installing again without these flags takes nothing away.
//!
//! Start at [`Brought::read`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, bail, ensure};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::cli::{output, passphrase};
use crate::manifest::names::{
    ANCHOR_SECRET, BUNDLE_CONFIG_MAP, BUNDLE_KEY, COMPONENT, CONTROL_PLANE_NS, ISSUER_SECRET, PART_OF, PART_OF_HAWSER,
};
use crate::manifest::values::Values;
use crate::pki::encrypted;
use crate::pki::{Bundle, Offer, judge, judge_anchors};

/// Whose the brought data is.
const FIELD_MANAGER: &str = "hawser-brought";
/// Files of certificates and keys are some kilobytes; another kind of file should not be read to its end.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The keys of a Secret in the schemes people have: Linkerd's own, that of Kubernetes and cert-manager.
const SCHEMES: [(&str, &str); 2] = [("crt.pem", "key.pem"), ("tls.crt", "tls.key")];
/// Where cert-manager and others put the anchors beside an issuer.
const CA_KEY: &str = "ca.crt";

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Trust that is brought (docs/trust.md)")]
#[group(id = "brought")]
pub(super) struct Args {
    /// The trust anchors, as PEM: one or several
    #[arg(long, value_name = "FILE")]
    identity_trust_anchors_file: Option<PathBuf>,
    /// The key of the trust anchor, so that hawser makes and renews issuers and rotates the anchor itself; with --apply
    #[arg(long, value_name = "FILE", requires = "identity_trust_anchors_file", conflicts_with_all = ["identity_issuer_certificate_file", "identity_external_issuer"])]
    identity_trust_anchors_key_file: Option<PathBuf>,
    /// The issuer's certificate and those between it and an anchor, as PEM; with --apply
    #[arg(long, value_name = "FILE", requires_all = ["identity_issuer_key_file", "identity_trust_anchors_file"])]
    identity_issuer_certificate_file: Option<PathBuf>,
    /// The issuer's key
    #[arg(long, value_name = "FILE", requires = "identity_issuer_certificate_file")]
    identity_issuer_key_file: Option<PathBuf>,
    /// The passphrase of keys that are encrypted, in the first line of this file; - asks for it, or reads standard input
    #[arg(long, value_name = "FILE")]
    identity_key_passphrase_file: Option<PathBuf>,
    /// The issuer is in Secret hawser-identity-issuer already, or will be, and whoever put it there renews it (cert-manager, say)
    #[arg(long, conflicts_with = "identity_issuer_certificate_file")]
    identity_external_issuer: bool,
}

/// What was brought, as far as files say.
pub(super) struct Brought {
    anchors: Option<String>,
    anchor_key: Option<String>,
    issuer: Option<(String, String)>,
}

impl Brought {
    /// Reads and judges the files, and has `values` say what is to be said of them.
    pub(super) fn read(args: &Args, values: &mut Values, applies: bool) -> anyhow::Result<Self> {
        let read = |file: &Option<PathBuf>| file.as_deref().map(read).transpose();
        let anchors = read(&args.identity_trust_anchors_file)?.or_else(|| values.identity_trust_anchors_pem.clone());
        let passphrase = args.identity_key_passphrase_file.as_deref();
        let passphrase = passphrase.map(|file| passphrase::read(file, false)).transpose()?;
        let key =
            |file: &Option<PathBuf>| file.as_deref().map(|file| read_key(file, passphrase.as_deref())).transpose();
        let anchor_key = key(&args.identity_trust_anchors_key_file)?;
        let issuer = read(&args.identity_issuer_certificate_file)?.zip(key(&args.identity_issuer_key_file)?);
        values.identity.issuer.external |= args.identity_external_issuer || issuer.is_some();
        let brought = Self { anchors, anchor_key, issuer };
        if (brought.anchor_key.is_some() || brought.issuer.is_some()) && !applies {
            bail!(
                "keys are put into the cluster by `--apply` only, for what is printed must hold none; or make Secret `{ISSUER_SECRET}` yourself, and use --identity-external-issuer"
            );
        }
        let Some(anchors) = &brought.anchors else {
            if values.identity.issuer.external && !applies {
                bail!(
                    "an issuer that is brought needs its trust anchors: --identity-trust-anchors-file; with `--apply` those in `{CA_KEY}` of its Secret will do"
                );
            }
            return Ok(brought);
        };
        let (domain, now) = (values.trust_domain().to_owned(), SystemTime::now());
        if values.identity.issuer.external && brought.issuer.is_none() {
            let bundle = judge_anchors(anchors, &domain, now).context("cannot install with these trust anchors")?;
            values.identity_trust_anchors_pem = Some(bundle.to_pem());
            return Ok(brought);
        }
        let issuer = brought.issuer.as_ref().map(|(chain, key)| (chain.as_str(), key.as_str()));
        let offer = Offer { anchors, anchor_key: brought.anchor_key.as_deref(), issuer };
        let judged = judge(offer, &domain, now).context("cannot install with what was brought")?;
        if brought.issuer.is_some() {
            values.identity_trust_anchors_pem = Some(judged.bundle.to_pem());
        }
        Ok(brought)
    }

    /// Looks at what is in the cluster already, before anything is applied: an issuer that is only referred to, and what proxies believe now.
    pub(super) async fn agree(
        &self,
        client: &kube::Client,
        namespace: &str,
        values: &mut Values,
    ) -> anyhow::Result<()> {
        if values.identity.issuer.external && self.issuer.is_none() {
            let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
            let found = secrets.get_opt(ISSUER_SECRET).await;
            let found = found.with_context(|| format!("cannot read secret `{namespace}/{ISSUER_SECRET}`"))?;
            let found = found.with_context(|| {
                format!("there is no secret `{namespace}/{ISSUER_SECRET}`: have it made before, in that namespace")
            })?;
            let anchors = external(&found, values, SystemTime::now())
                .with_context(|| format!("cannot install with secret `{namespace}/{ISSUER_SECRET}`"))?;
            values.identity_trust_anchors_pem = Some(anchors);
        }
        let Some(anchors) = values.identity_trust_anchors_pem.as_deref().or(self.anchors.as_deref()) else {
            return Ok(());
        };
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        let found = maps.get_opt(BUNDLE_CONFIG_MAP).await.context("cannot read the trust bundle")?;
        let present = found.and_then(|map| map.data?.remove(BUNDLE_KEY)).filter(|pem| !pem.trim().is_empty());
        match present {
            Some(present) => keeps_all(&present, anchors),
            None => Ok(()),
        }
    }

    /// Puts keys where the identity role looks for them: before that role is there, which would make its own.
    pub(super) async fn apply(&self, client: &kube::Client, namespace: &str) -> anyhow::Result<()> {
        if let (Some(anchors), Some(key)) = (&self.anchors, &self.anchor_key) {
            put(client, namespace, ANCHOR_SECRET, anchors, key, false).await?;
        }
        if let Some((chain, key)) = &self.issuer {
            put(client, namespace, ISSUER_SECRET, chain, key, true).await?;
        }
        Ok(())
    }

    pub(super) fn is_some(&self) -> bool {
        self.anchor_key.is_some() || self.issuer.is_some()
    }
}

fn read(file: &Path) -> anyhow::Result<String> {
    let size = std::fs::metadata(file).with_context(|| format!("cannot read `{}`", file.display()))?.len();
    ensure!(size <= FILE_BYTES_MAX, "`{}` has {size} bytes, which is no certificate and no key", file.display());
    std::fs::read_to_string(file).with_context(|| format!("cannot read `{}`", file.display()))
}

/// A key as the identity role can use it: whoever may read its Secret may sign, so a passphrase would only have to lie beside it.
fn read_key(file: &Path, passphrase: Option<&str>) -> anyhow::Result<String> {
    let key = read(file)?;
    match passphrase {
        _ if !encrypted::is_encrypted(&key) => Ok(key),
        Some(passphrase) => {
            encrypted::decrypt(&key, passphrase).with_context(|| format!("cannot decrypt `{}`", file.display()))
        }
        None => bail!(
            "`{}` is encrypted: --identity-key-passphrase-file names the file of its passphrase, or - to be asked for it",
            file.display()
        ),
    }
}

/// The anchors of an issuer that somebody keeps in a Secret, once both are found good.
fn external(secret: &Secret, values: &Values, now: SystemTime) -> anyhow::Result<String> {
    let text = |key: &str| {
        let found = secret.data.as_ref()?.get(key)?;
        Some(String::from_utf8_lossy(&found.0).into_owned()).filter(|text| !text.trim().is_empty())
    };
    let mut pairs = SCHEMES.iter().map(|(certificate, key)| (*key, text(certificate).zip(text(key))));
    let Some((chain, key)) = pairs.find_map(|(_, pair)| pair) else {
        bail!("it holds neither `tls.crt` and `tls.key` nor `crt.pem` and `key.pem`");
    };
    let anchors = values.identity_trust_anchors_pem.clone().or_else(|| text(CA_KEY));
    let anchors = anchors
        .with_context(|| format!("it holds no `{CA_KEY}`, so name the trust anchors: --identity-trust-anchors-file"))?;
    let offer = Offer { anchors: &anchors, anchor_key: None, issuer: Some((&chain, &key)) };
    Ok(judge(offer, values.trust_domain(), now)?.bundle.to_pem())
}

/// Proxies that believe an anchor have peers with certificates under it: it must go by a rotation.
fn keeps_all(present: &str, anchors: &str) -> anyhow::Result<()> {
    let present = Bundle::parse_pem(present).context("cannot read the trust bundle that is in the cluster")?;
    let new = Bundle::parse_pem(anchors).context("cannot read the trust anchors")?;
    let gone = present.anchors().iter().find(|anchor| !new.anchors().contains(anchor));
    match gone {
        None => Ok(()),
        Some(gone) => bail!(
            "proxies believe {} (until {}, SHA-256 {}), which is not among these trust anchors: they would refuse their peers; give both in one file",
            gone.subject(),
            output::instant(gone.not_after()),
            gone.fingerprint(),
        ),
    }
}

/// Fills a Secret, and makes it where there is none.
async fn put(
    client: &kube::Client,
    namespace: &str,
    name: &str,
    certificate: &str,
    key: &str,
    replaces: bool,
) -> anyhow::Result<()> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let shown = || format!("secret `{namespace}/{name}`");
    let found = secrets.get_opt(name).await.with_context(|| format!("cannot read {}", shown()))?;
    let held = found.and_then(|found| found.data).unwrap_or_default();
    // In the scheme that is there already: of two schemes only one would be looked at.
    let (of_certificate, of_key) = SCHEMES.into_iter().find(|(name, _)| held.contains_key(*name)).unwrap_or(SCHEMES[1]);
    let is_same = held.get(of_key).is_some_and(|held| held.0 == key.as_bytes());
    if held.contains_key(of_key) && !is_same && !replaces {
        bail!("{} holds another trust anchor already; `hawser trust rotate --anchor` replaces that", shown());
    }
    let data = BTreeMap::from([
        (of_certificate, ByteString(certificate.as_bytes().to_vec())),
        (of_key, ByteString(key.as_bytes().to_vec())),
    ]);
    let object = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {COMPONENT: "identity", CONTROL_PLANE_NS: namespace, PART_OF: PART_OF_HAWSER},
        },
        "data": data,
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    secrets.patch(name, &params, &Patch::Apply(&object)).await.with_context(|| format!("cannot write {}", shown()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Anchor, Issuer};

    fn made() -> (Anchor, Issuer) {
        let now = SystemTime::now();
        let anchor = Anchor::create("cluster.local", now).unwrap();
        let issuer = anchor.create_issuer("cluster.local", now).unwrap();
        (anchor, issuer)
    }

    fn secret(data: &[(&str, &str)]) -> Secret {
        let data = data.iter().map(|(key, text)| ((*key).to_owned(), ByteString(text.as_bytes().to_vec())));
        Secret { data: Some(data.collect()), ..Secret::default() }
    }

    #[test]
    fn takes_a_secret_of_either_scheme_with_its_own_anchors() {
        let (anchor, issuer) = made();
        let (chain, key, ca) = (issuer.chain_pem(), issuer.key_pem(), anchor.certificate().to_pem());
        for (of_certificate, of_key) in SCHEMES {
            let secret = secret(&[(of_certificate, &chain), (of_key, &key), (CA_KEY, &ca)]);
            assert_eq!(external(&secret, &Values::default(), SystemTime::now()).unwrap(), ca);
        }
    }

    #[test]
    fn refuses_a_secret_that_is_empty_lacks_anchors_or_does_not_fit_them() {
        let ((anchor, issuer), (other, _)) = (made(), made());
        let (chain, key) = (issuer.chain_pem(), issuer.key_pem());
        let why = |secret: &Secret, values: &Values| {
            format!("{:#}", external(secret, values, SystemTime::now()).unwrap_err())
        };
        assert!(why(&secret(&[]), &Values::default()).contains("holds neither"));
        let sealed = encrypted::encrypt(&key, "p").unwrap();
        let sealed = secret(&[("tls.crt", &chain), ("tls.key", &sealed), (CA_KEY, &anchor.certificate().to_pem())]);
        assert!(why(&sealed, &Values::default()).contains("the key is encrypted, and nobody is there"));
        let bare = secret(&[("tls.crt", &chain), ("tls.key", &key)]);
        assert!(why(&bare, &Values::default()).contains("--identity-trust-anchors-file"));
        let values = |anchor: &Anchor| Values {
            identity_trust_anchors_pem: Some(anchor.certificate().to_pem()),
            ..Values::default()
        };
        assert!(external(&bare, &values(&anchor), SystemTime::now()).is_ok());
        assert!(why(&bare, &values(&other)).contains("cannot use the issuer"));
        let values = Values { identity_trust_domain: Some("example.com".into()), ..values(&anchor) };
        assert!(why(&bare, &values).contains("not for the trust domain example.com"));
    }

    #[test]
    fn no_anchor_that_proxies_believe_is_taken_away() {
        let (first, second) = (made().0.certificate().to_pem(), made().0.certificate().to_pem());
        let both = format!("{second}{first}");
        assert!(keeps_all(&first, &both).is_ok() && keeps_all(&first, &first).is_ok());
        let refused = keeps_all(&both, &first).unwrap_err().to_string();
        assert!(refused.contains("proxies believe CN=root.cluster.local"), "{refused}");
    }
}
