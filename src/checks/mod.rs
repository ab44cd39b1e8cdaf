//! What hawser can judge of a mesh: facts in, verdicts out.
//!
//! ```text
//! cluster/snapshot.rs ─ Snapshot ─> list.rs: [Check] ─ run ─> [Finding] ─> cli/check.rs
//! ```
//!
//! A [`Check`] is data and one pure function of a [`Snapshot`]. What could not be read is a fact of its own ([`Unread`]): a check
//! that needs it says [`Verdict::Unknown`], never that all is well. A check whose ground another one has found missing
//! says [`Verdict::Skipped`], so that one cause is one line.
//!
//! Start at [`list::CHECKS`] and [`run`].

pub mod control_plane;
pub mod data_plane;
pub mod kubernetes;
pub mod leaf;
pub mod list;
pub mod pre_install;
pub mod proxy_pod;
pub mod trust;
pub mod webhook;

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use rustls_pki_types::CertificateDer;
use serde::Serialize;
use serde_json::Value;

use crate::mesh::clock::Offset;
use crate::pki::{IdentityTold, ProxyTold};

/// Everything the checks look at, as it was at one time.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// By the clock here.
    pub now: SystemTime,
    /// By the API server's clock, in whole seconds.
    pub server_now: Fact<SystemTime>,
    /// Such as `v1.36.1`.
    pub kubernetes_version: Fact<String>,
    pub control_namespace: String,
    /// Of the command line.
    pub version: String,
    pub namespaces: Fact<Vec<Namespace>>,
    /// Of the control plane's namespace.
    pub deployments: Fact<Vec<Deployment>>,
    /// The names of those in the control plane's namespace.
    pub service_accounts: Fact<BTreeSet<String>>,
    pub cluster_roles: Fact<BTreeSet<String>>,
    pub cluster_role_bindings: Fact<BTreeSet<String>>,
    /// Of the control plane's namespace.
    pub config_maps: Fact<Vec<ConfigMap>>,
    pub webhooks: Fact<Vec<MutatingWebhookConfiguration>>,
    /// Of the namespaces that are looked at, and of the control plane's.
    pub pods: Fact<Vec<Pod>>,
    /// Whether only the pods of some namespace are looked at.
    pub namespace: Option<String>,
    /// What proxies showed in a handshake, by namespace and name of the pod.
    pub shown: BTreeMap<(String, String), Fact<Vec<CertificateDer<'static>>>>,
    /// How far the clocks of proxies are from the identity role's, by their own word; none of those that have not measured it, or do not tell.
    pub clocks: BTreeMap<(String, String), Offset>,
    /// What proxies tell of whom they believe, by namespace and name of the pod. None of one that does not tell.
    pub believing: BTreeMap<(String, String), Fact<Option<ProxyTold>>>,
    /// What the identity role's pods tell of what they sign with, by name. None of one that does not tell.
    pub signing: BTreeMap<String, Fact<Option<IdentityTold>>>,
    /// What the injector showed; none where there was no pod of it to ask.
    pub webhook_shown: Option<Fact<Vec<CertificateDer<'static>>>>,
    /// What `install` creates, and whether we may; empty where it was not asked.
    pub permissions: Fact<BTreeMap<&'static str, bool>>,
}

/// What was read, or why it was not.
pub type Fact<T> = Result<T, Unread>;

/// Why something could not be read, in words.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct Unread(pub String);

/// When a check makes sense.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stage {
    /// Before an installation, and after.
    Always,
    Before,
    Installed,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The mesh does not do its work.
    Error,
    /// It does, but someone should look.
    Warning,
}

/// One thing that can be right or wrong.
pub struct Check {
    /// For scripts and documentation: never changes.
    pub id: &'static str,
    pub category: &'static str,
    pub stage: Stage,
    /// What is the case when all is well.
    pub title: &'static str,
    pub severity: Severity,
    /// What to do when it is not.
    pub hint: &'static str,
    pub verdict: fn(&Snapshot) -> Verdict,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    Passed,
    /// With what was measured.
    PassedWith(Value),
    Failed(Evidence),
    /// It could not be told, and why.
    Unknown(String),
    /// It cannot be asked, for what it is about is not there: another check says so.
    Skipped,
}

/// What speaks against it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evidence {
    /// One line each.
    pub lines: Vec<String>,
    /// What was measured, for machines.
    pub value: Value,
}

impl Verdict {
    pub fn failed(line: impl Into<String>) -> Self {
        Self::Failed(Evidence { lines: vec![line.into()], value: Value::Null })
    }

    /// Passed where nothing speaks against it.
    pub fn unless(lines: Vec<String>) -> Self {
        if lines.is_empty() { Self::Passed } else { Self::Failed(Evidence { lines, value: Value::Null }) }
    }

    /// The same, with what was measured.
    #[must_use]
    pub fn with(self, value: impl Into<Value>) -> Self {
        match self {
            Self::Passed | Self::PassedWith(_) => Self::PassedWith(value.into()),
            Self::Failed(evidence) => Self::Failed(Evidence { value: value.into(), ..evidence }),
            other => other,
        }
    }
}

/// So that a check can ask for its facts with `?`.
impl From<&Unread> for Verdict {
    fn from(unread: &Unread) -> Self {
        Self::Unknown(unread.0.clone())
    }
}

/// A check and what it found.
pub struct Finding {
    pub check: &'static Check,
    pub verdict: Verdict,
}

/// How a mesh is, all in all.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Health {
    Healthy,
    Unhealthy,
    /// Nothing is known to be wrong, but something could not be told.
    Unknown,
}

/// Judges a snapshot by every check of `stage`, in their order; those that were skipped are left out.
pub fn run(snapshot: &Snapshot, stage: Stage) -> Vec<Finding> {
    let checks = list::CHECKS.iter().filter(|check| check.stage == stage || check.stage == Stage::Always);
    let findings = checks.map(|check| Finding { check, verdict: (check.verdict)(snapshot) });
    findings.filter(|finding| finding.verdict != Verdict::Skipped).collect()
}

/// What is found where the cluster cannot be asked at all, and why.
pub fn unreachable(why: Vec<String>) -> Finding {
    let check = &list::CHECKS[0];
    Finding { check, verdict: Verdict::Failed(Evidence { lines: why, value: Value::Null }) }
}

/// Warnings do not make a mesh unhealthy.
pub fn health(findings: &[Finding]) -> Health {
    let grave = || findings.iter().filter(|finding| finding.check.severity == Severity::Error);
    if grave().any(|finding| matches!(finding.verdict, Verdict::Failed(_))) {
        Health::Unhealthy
    } else if grave().any(|finding| matches!(finding.verdict, Verdict::Unknown(_))) {
        Health::Unknown
    } else {
        Health::Healthy
    }
}

/// Runs a check's body, in which `?` on a fact that could not be read makes it unknown.
fn judge(body: impl FnOnce() -> Result<Verdict, Verdict>) -> Verdict {
    body().unwrap_or_else(|verdict| verdict)
}

impl Snapshot {
    /// The ConfigMap of this name in the control plane's namespace.
    fn config_map(&self, name: &str) -> Result<Option<&ConfigMap>, &Unread> {
        let maps = self.config_maps.as_ref()?;
        Ok(maps.iter().find(|map| map.metadata.name.as_deref() == Some(name)))
    }

    fn pods_of_control_plane(&self) -> Result<impl Iterator<Item = &Pod>, &Unread> {
        let pods = self.pods.as_ref()?;
        Ok(pods.iter().filter(|pod| pod.metadata.namespace.as_deref() == Some(&self.control_namespace)))
    }

    /// Whether there is a control plane to ask questions about.
    fn is_installed(&self) -> Result<bool, &Unread> {
        let deployments = self.deployments.as_ref()?;
        Ok(!deployments.is_empty())
    }
}

#[cfg(test)]
pub(crate) mod tests;
