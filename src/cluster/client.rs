//! Connects the command line to a cluster: kubeconfig, context and impersonation in, a client that has been answered once out.
//!
//! In: what the global flags say. Out: a [`Cluster`], or an [`Error`] that says which of the many things between a
//! person and an API server is missing; the hints for each are in `cli/output.rs`. Roles in pods do not come here: theirs
//! is `control::Role::client`.
//!
//! Start at [`connect`].

use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::version::Info;
use kube::config::{Config, KubeConfigOptions, Kubeconfig, KubeconfigError};

/// For a TCP and TLS handshake with an API server; behind a VPN that takes a second at worst.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two pieces of an answer. The API server itself ends requests after 60 s; a person has left by then.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// For the first answer. It has no work to do, so that later is never.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// Which cluster to talk to, and as whom.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Instead of `$KUBECONFIG` and `~/.kube/config`.
    pub kubeconfig: Option<PathBuf>,
    /// Instead of the kubeconfig's current context.
    pub context: Option<String>,
    pub impersonate: Option<String>,
    pub impersonate_groups: Vec<String>,
}

/// A cluster whose API server has answered.
#[derive(Clone)]
pub struct Cluster {
    pub client: kube::Client,
    /// The API server's URL, for messages.
    pub url: String,
    /// What the API server says of its version; none where it does not tell us.
    pub version: Option<Info>,
}

/// Why there is no connection to a cluster.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot find a kubeconfig")]
    NoKubeconfig,
    #[error("cannot read the kubeconfig {}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("cannot use the kubeconfig")]
    Kubeconfig(#[source] KubeconfigError),
    #[error("the kubeconfig has no context `{name}`")]
    NoSuchContext { name: String, known: Vec<String> },
    #[error("the kubeconfig has no current context")]
    NoCurrentContext { known: Vec<String> },
    #[error("cannot make a client for {url}")]
    Client { url: String, source: kube::Error },
    #[error("cannot reach the Kubernetes API at {url}")]
    Unreachable { url: String, source: kube::Error },
    #[error("the Kubernetes API at {url} did not answer within {} s", FIRST_ANSWER_TIMEOUT.as_secs())]
    NoAnswer { url: String },
    #[error("the Kubernetes API at {url} does not accept your credentials")]
    Unauthorized { url: String, source: kube::Error },
}

/// Connects to the cluster and asks for its version, so that what is wrong shows here and not in the first real question.
///
/// # Errors
/// See [`Error`]. Being forbidden to ask for the version is none: others may be allowed.
pub async fn connect(options: &Options) -> Result<Cluster, Error> {
    let mut config = config(options).await?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    // kube waits up to a thousand seconds between retries of a 503; a person would rather know.
    config.default_retry = false;
    if config.cluster_url.host().is_some_and(is_loopback) {
        // Like kubectl: what `HTTPS_PROXY` names cannot reach this machine's own clusters.
        config.proxy_url = None;
    }
    let url = config.cluster_url.to_string().trim_end_matches('/').to_owned();
    let client = kube::Client::try_from(config).map_err(|error| Error::Client { url: url.clone(), source: error })?;
    let version = tokio::time::timeout(FIRST_ANSWER_TIMEOUT, client.apiserver_version())
        .await
        .map_err(|_| Error::NoAnswer { url: url.clone() })?;
    let version = match version {
        Ok(version) => Some(version),
        Err(kube::Error::Api(status)) if status.code == 403 => None,
        Err(error @ kube::Error::Api(_)) if is_status(&error, 401) => {
            return Err(Error::Unauthorized { url, source: error });
        }
        Err(error) => return Err(Error::Unreachable { url, source: error }),
    };
    Ok(Cluster { client, url, version })
}

/// Whether the API server answered with this HTTP status.
pub fn is_status(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

async fn config(options: &Options) -> Result<Config, Error> {
    let kubeconfig = match &options.kubeconfig {
        Some(path) => Kubeconfig::read_from(path).map_err(unusable)?,
        None => match Kubeconfig::read() {
            Ok(kubeconfig) => kubeconfig,
            Err(error) if is_absent(&error) => {
                // In a pod without a kubeconfig, such as a CI job's, its service account will do.
                return Config::incluster().map_err(|_| Error::NoKubeconfig);
            }
            Err(error) => return Err(unusable(error)),
        },
    };
    let known = || kubeconfig.contexts.iter().map(|context| context.name.clone()).collect();
    let Some(name) = options.context.as_ref().or(kubeconfig.current_context.as_ref()).filter(|name| !name.is_empty())
    else {
        return Err(Error::NoCurrentContext { known: known() });
    };
    if !kubeconfig.contexts.iter().any(|context| context.name == *name) {
        return Err(Error::NoSuchContext { name: name.clone(), known: known() });
    }
    let wanted = KubeConfigOptions { context: Some(name.clone()), ..KubeConfigOptions::default() };
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &wanted).await.map_err(Error::Kubeconfig)?;
    if options.impersonate.is_some() {
        config.auth_info.impersonate.clone_from(&options.impersonate);
    }
    if !options.impersonate_groups.is_empty() {
        config.auth_info.impersonate_groups = Some(options.impersonate_groups.clone());
    }
    Ok(config)
}

fn unusable(error: KubeconfigError) -> Error {
    match error {
        KubeconfigError::ReadConfig(source, path) => Error::Unreadable { path, source },
        error => Error::Kubeconfig(error),
    }
}

/// Whether there is no kubeconfig at all: not one that cannot be read.
fn is_absent(error: &KubeconfigError) -> bool {
    match error {
        KubeconfigError::FindPath => true,
        KubeconfigError::ReadConfig(error, _) => error.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KUBECONFIG: &str = r#"
apiVersion: v1
kind: Config
clusters: [{name: here, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: me, user: {}}]
contexts: [{name: first, context: {cluster: here, user: me, namespace: shop}}]
"#;

    fn options(text: &str, context: Option<&str>) -> (tempfile::NamedTempFile, Options) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let kubeconfig = Some(file.path().to_owned());
        (file, Options { kubeconfig, context: context.map(Into::into), ..Options::default() })
    }

    #[tokio::test]
    async fn a_named_context_gives_its_cluster_and_namespace() {
        let (_file, options) = options(KUBECONFIG, Some("first"));
        let config = config(&options).await.unwrap();
        assert_eq!(config.cluster_url, "https://127.0.0.1:1");
        assert_eq!(config.default_namespace, "shop");
    }

    #[tokio::test]
    async fn an_unknown_context_is_refused_with_those_known() {
        let (_file, options) = options(KUBECONFIG, Some("second"));
        match config(&options).await {
            Err(Error::NoSuchContext { name, known }) => {
                assert_eq!((name.as_str(), known), ("second", vec!["first".into()]))
            }
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn without_a_current_context_one_must_be_named() {
        let (_file, options) = options(KUBECONFIG, None);
        assert!(matches!(config(&options).await, Err(Error::NoCurrentContext { .. })));
    }

    #[tokio::test]
    async fn a_file_that_is_no_kubeconfig_is_refused() {
        let (_file, options) = options("clusters: 7", None);
        assert!(matches!(config(&options).await, Err(Error::Kubeconfig(_))));
    }

    #[tokio::test]
    async fn a_named_file_that_is_not_there_is_refused_rather_than_replaced() {
        let options = Options { kubeconfig: Some("/nowhere/kubeconfig".into()), ..Options::default() };
        assert!(matches!(config(&options).await, Err(Error::Unreadable { .. })));
    }

    #[tokio::test]
    async fn impersonation_reaches_the_client() {
        let (_file, mut options) = options(KUBECONFIG, Some("first"));
        options.impersonate = Some("jane".into());
        options.impersonate_groups = vec!["viewers".into()];
        let config = config(&options).await.unwrap();
        assert_eq!(config.auth_info.impersonate.as_deref(), Some("jane"));
        assert_eq!(config.auth_info.impersonate_groups, Some(vec!["viewers".into()]));
    }

    #[tokio::test]
    async fn a_cluster_that_is_down_is_unreachable() {
        let (_file, options) = options(KUBECONFIG, Some("first"));
        assert!(matches!(connect(&options).await, Err(Error::Unreachable { .. })));
    }

    #[test]
    fn knows_this_machine_by_name_and_address() {
        assert!(is_loopback("localhost") && is_loopback("127.0.0.1") && is_loopback("[::1]"));
        assert!(!is_loopback("10.0.0.1") && !is_loopback("example.com"));
    }
}
