//! What those who believe and sign tell about it on `/trust` of their admin ports: the same words for who writes and who reads.

use std::collections::BTreeSet;
use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{Bundle, Certificate};
use crate::mesh::clock::Offset;

/// Whom a proxy believes, and what it proves itself with.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ProxyTold {
    pub identity: Option<String>,
    /// The SHA-256 of the bundle.
    pub bundle: String,
    pub anchors: Vec<AnchorTold>,
    pub certificate: Option<LeafTold>,
    /// How far this clock is ahead of the identity role's; none before it was told the time.
    #[serde(default)]
    pub clock: Option<Offset>,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AnchorTold {
    pub subject: String,
    pub fingerprint: String,
    pub expires_at: u64,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LeafTold {
    pub serial: String,
    pub issuer: String,
    pub expires_at: u64,
    /// The fingerprint of the anchor that vouches for it; none where the bundle has none that does.
    #[serde(default)]
    pub anchor: Option<String>,
}

/// What the identity role signs with, and what keeps it from taking what it finds in its Secrets.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct IdentityTold {
    /// The SHA-256 of the bundle that it tells proxies.
    #[serde(default)]
    pub bundle: Option<String>,
    pub issuer: Option<IssuerTold>,
    pub trouble: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct IssuerTold {
    pub subject: String,
    pub serial: String,
    /// When the first certificate of its chain ends.
    pub expires_at: u64,
    /// Who keeps it instead, where it is not the mesh's own to renew, nor the anchor above it to rotate.
    #[serde(default)]
    pub keeper: Option<Keeper>,
}

/// What the Secret of an issuer that was brought says of whoever keeps it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Keeper {
    /// Such as `kubernetes.io/tls`.
    pub secret_type: String,
    /// Who wrote the key last, as the API server calls them.
    pub written_by: Option<String>,
}

impl fmt::Display for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a secret of type {}", self.secret_type)?;
        self.written_by.as_ref().map_or(Ok(()), |written_by| write!(f, ", last written by {written_by}"))
    }
}

impl ProxyTold {
    /// Whether every anchor of `bundle` is believed; more may be.
    pub fn believes(&self, bundle: &Bundle) -> bool {
        let believed: BTreeSet<&str> = self.anchors.iter().map(|anchor| anchor.fingerprint.as_str()).collect();
        bundle.anchors().iter().all(|anchor| believed.contains(anchor.fingerprint().as_str()))
    }
}

impl From<&Certificate> for AnchorTold {
    fn from(anchor: &Certificate) -> Self {
        Self {
            subject: anchor.subject().into(),
            fingerprint: anchor.fingerprint(),
            expires_at: seconds(anchor.not_after()),
        }
    }
}

/// Since 1970.
pub fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::Anchor;

    #[test]
    fn who_believes_more_believes_the_bundle_and_who_believes_less_does_not() {
        let anchor = || Anchor::create("cluster.local", SystemTime::UNIX_EPOCH).unwrap().certificate().to_pem();
        let (old, new) = (anchor(), anchor());
        let [one, both] = [old.clone(), old + &new].map(|pem| Bundle::parse_pem(&pem).unwrap());
        let told = |bundle: &Bundle| ProxyTold {
            identity: None,
            bundle: bundle.sha256_hex(),
            anchors: bundle.anchors().iter().map(AnchorTold::from).collect(),
            certificate: None,
            clock: None,
        };
        assert!(told(&both).believes(&one) && told(&both).believes(&both));
        assert!(!told(&one).believes(&both));
    }

    #[test]
    fn an_older_proxy_does_not_tell_which_anchor_vouches_for_it() {
        let leaf: LeafTold = serde_json::from_str(r#"{"serial":"1","issuer":"CN=i","expires_at":1}"#).unwrap();
        assert_eq!(leaf.anchor, None);
    }
}
