//! The name and port of a service, for targets that are chosen by name; and which names a gateway takes.
//!
//! In: text of a peer's or an app's. Out: a [`Name`] that is a DNS name and no address, so that nobody reaches by it what has no name.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::identity::is_label;

/// The longest DNS name, in its text form (RFC 1035 §2.3.4).
const HOST_BYTES_MAX: usize = 253;
/// The port of a name that comes without.
const DEFAULT_PORT: u16 = 80;

/// A DNS name, in lower case and without a dot at its end, and a port.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Name {
    host: Arc<str>,
    port: u16,
}

/// Why a text is no name.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is no name with a port")]
pub struct InvalidName(String);

impl Name {
    /// The service that is called `host`, at its `port`.
    ///
    /// # Errors
    /// Where `host` is no DNS name, or could be read as an address.
    pub fn new(host: &str, port: u16) -> Result<Self, InvalidName> {
        let invalid = || InvalidName(host.into());
        let host = dns_name(host).filter(|host| !is_address(host)).ok_or_else(invalid)?;
        if port == 0 {
            return Err(invalid());
        }
        Ok(Self { host: host.into(), port })
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Name {
    type Err = InvalidName;

    /// Reads `HOST` or `HOST:PORT`.
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let invalid = || InvalidName(text.into());
        let text = text.trim();
        let (host, port) = match text.rsplit_once(':') {
            // What `parse` takes besides digits is a plus sign.
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                (host, port.parse().map_err(|_| invalid())?)
            }
            Some(_) => return Err(invalid()),
            None => (text, DEFAULT_PORT),
        };
        Self::new(host, port).map_err(|_| invalid())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Ends of DNS names, whole labels each; none take no name at all.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Suffixes(Vec<Suffix>);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Suffix {
    /// `.`: every name.
    Root,
    Below(String),
}

/// Why a text is no list of suffixes.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is no DNS suffix, such as `svc.cluster.local.` or `.`")]
pub struct InvalidSuffix(String);

impl Suffixes {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `name` is one of the suffixes, or below one.
    pub fn contain(&self, name: &Name) -> bool {
        self.0.iter().any(|suffix| match suffix {
            Suffix::Root => true,
            Suffix::Below(suffix) => match name.host.strip_suffix(suffix.as_str()) {
                Some(rest) => rest.is_empty() || rest.ends_with('.'),
                None => false,
            },
        })
    }
}

impl FromStr for Suffixes {
    type Err = InvalidSuffix;

    /// Reads suffixes that are separated by commas.
    fn from_str(text: &str) -> Result<Self, InvalidSuffix> {
        let suffixes = text.split(',').map(str::trim).filter(|suffix| !suffix.is_empty());
        let suffix = |suffix: &str| match suffix {
            "." => Ok(Suffix::Root),
            _ => dns_name(suffix).map(Suffix::Below).ok_or_else(|| InvalidSuffix(suffix.into())),
        };
        suffixes.map(suffix).collect::<Result<_, _>>().map(Self)
    }
}

/// The DNS name that `text` is, without the dot that may end it.
fn dns_name(text: &str) -> Option<String> {
    let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    (text.len() <= HOST_BYTES_MAX && text.split('.').all(is_label)).then_some(text)
}

/// Whether somebody might take a name for an IPv4 address: a last label that is a number is none of a domain (RFC 3696 §2).
fn is_address(host: &str) -> bool {
    host.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_is_the_same_however_it_is_written() {
        assert_eq!(name(" Web.Shop.svc.cluster.local. ").to_string(), "web.shop.svc.cluster.local:80");
        assert_eq!(name("web.shop.svc.cluster.local:8080"), Name::new("WEB.shop.svc.cluster.local.", 8080).unwrap());
    }

    #[test]
    fn addresses_and_what_is_no_name_are_refused() {
        let long = format!("{}web", "a.".repeat(130));
        let texts =
            ["", ".", ":80", "10.1.2.3:80", "10.1.2.3", "[::1]:80", "::1", "user@shop:80", "a b", "a/b", "a..b"];
        for text in texts.into_iter().chain(["web:0", "web:+80", "web:65536", "web:", "web..", "1", long.as_str()]) {
            assert!(text.parse::<Name>().is_err(), "{text}");
        }
    }

    #[test]
    fn suffixes_end_at_labels() {
        let suffixes: Suffixes = "svc.cluster.local., example.com".parse().unwrap();
        for within in ["web.shop.svc.cluster.local", "svc.cluster.local", "a.b.example.com:8080", "EXAMPLE.com."] {
            assert!(suffixes.contain(&name(within)), "{within}");
        }
        for outside in
            ["web.notsvc.cluster.local", "xsvc.cluster.local", "cluster.local", "example.com.evil.org", "web"]
        {
            assert!(!suffixes.contain(&name(outside)), "{outside}");
        }
    }

    #[test]
    fn a_dot_takes_every_name_and_nothing_takes_none() {
        assert!(".".parse::<Suffixes>().unwrap().contain(&name("web")));
        for none in ["", " ", ","] {
            let suffixes: Suffixes = none.parse().unwrap();
            assert!(suffixes.is_empty() && !suffixes.contain(&name("web")), "{none:?}");
        }
        for wrong in ["svc..local", "*.svc", "-a", "svc.cluster.local.."] {
            assert!(wrong.parse::<Suffixes>().is_err(), "{wrong}");
        }
    }
}
