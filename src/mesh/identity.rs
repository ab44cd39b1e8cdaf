//! Who a workload is: the DNS-form name in its certificate.
//!
//! `<service account>.<namespace>.serviceaccount.identity.<control-plane namespace>.<trust domain>`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest DNS name, in its text form (RFC 1035 §2.3.4).
const NAME_BYTES_MAX: usize = 253;

/// The name a certificate vouches for: lower case, no trailing dot.
///
/// Mostly of the Kubernetes form above; any other DNS name parses too, for peers whose names others make.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Identity(String);

/// Why a text is no identity.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidIdentity {
    #[error("{0:?} is not a DNS name")]
    Name(String),
    #[error("{0:?} is not a DNS label (a-z, 0-9 and -, at most 63 characters)")]
    Label(String),
}

impl Identity {
    /// The identity of a Kubernetes service account.
    ///
    /// # Errors
    /// Where the account or a namespace is not a DNS label (an account's name may contain dots: it cannot have an identity).
    pub fn of_service_account(
        service_account: &str,
        namespace: &str,
        control_namespace: &str,
        trust_domain: &str,
    ) -> Result<Self, InvalidIdentity> {
        for label in [service_account, namespace, control_namespace] {
            if !is_label(label) {
                return Err(InvalidIdentity::Label(label.into()));
            }
        }
        format!("{service_account}.{namespace}.serviceaccount.identity.{control_namespace}.{trust_domain}").parse()
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What people call it: `web.shop` for a service account `web` in namespace `shop`; else the whole name.
    pub fn short(&self) -> &str {
        let mut dots = self.0.match_indices('.').map(|(at, _)| at);
        match (dots.next(), dots.next()) {
            (Some(_), Some(end)) if self.0[end..].starts_with(".serviceaccount.identity.") => &self.0[..end],
            _ => &self.0,
        }
    }
}

impl FromStr for Identity {
    type Err = InvalidIdentity;

    fn from_str(name: &str) -> Result<Self, InvalidIdentity> {
        let name = name.to_ascii_lowercase();
        if name.len() > NAME_BYTES_MAX || !name.split('.').all(is_label) {
            return Err(InvalidIdentity::Name(name));
        }
        Ok(Self(name))
    }
}

/// Whether `text` is a DNS-1123 label.
pub fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| inner(b) || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Identity {
    type Error = InvalidIdentity;

    fn try_from(name: String) -> Result<Self, InvalidIdentity> {
        name.parse()
    }
}

impl From<Identity> for String {
    fn from(identity: Identity) -> Self {
        identity.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_a_service_account() {
        let identity = Identity::of_service_account("web", "shop", "hawser", "cluster.local").unwrap();
        assert_eq!(identity.as_str(), "web.shop.serviceaccount.identity.hawser.cluster.local");
        assert_eq!(identity.short(), "web.shop");
    }

    #[test]
    fn refuses_a_service_account_with_a_dot() {
        let refused = Identity::of_service_account("web.v2", "shop", "hawser", "cluster.local");
        assert_eq!(refused, Err(InvalidIdentity::Label("web.v2".into())));
    }

    #[test]
    fn refuses_a_trailing_dot_and_empty_labels() {
        assert!("web.shop.".parse::<Identity>().is_err());
        assert!("web..shop".parse::<Identity>().is_err());
        assert!("".parse::<Identity>().is_err());
    }

    #[test]
    fn compares_without_case() {
        assert_eq!("WEB.Shop".parse::<Identity>(), "web.shop".parse());
    }

    #[test]
    fn a_foreign_name_is_its_own_short_form() {
        assert_eq!("api.example.com".parse::<Identity>().unwrap().short(), "api.example.com");
    }
}
