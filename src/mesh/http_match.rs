//! Decides which of several routes an HTTP request belongs to.
//!
//! In: a request's method, URI and headers. Out: a [`Rank`] for each match that fits; the highest one wins, and among
//! equals the first listed. Start at [`RequestMatch::rank`] and [`host_rank`].

use http::{HeaderMap, HeaderName, Method, Uri};
use regex::bytes::{Regex, RegexBuilder};

/// How large a compiled expression may get. Expressions come from people by way of the control plane.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// A host that a route is for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum HostMatch {
    /// In lower case.
    Exact(String),
    /// The name under a `*.`, in lower case.
    Suffix(String),
}

/// An expression that must match the whole of a text.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

#[derive(Clone, Debug)]
pub enum PathMatch {
    Exact(String),
    /// Whole segments: `/a` fits `/a/b`, not `/ab`.
    Prefix(String),
    /// A gRPC method of any service.
    Method(String),
    Regex(Pattern),
}

#[derive(Clone, Debug)]
pub enum ValueMatch {
    Exact(Vec<u8>),
    Regex(Pattern),
}

/// What a request must be like; nothing said fits all.
#[derive(Clone, Debug, Default)]
pub struct RequestMatch {
    pub path: Option<PathMatch>,
    pub headers: Vec<(HeaderName, ValueMatch)>,
    pub query: Vec<(String, ValueMatch)>,
    pub method: Option<Method>,
}

/// How closely a request was matched; the greater is the closer.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Rank {
    path: PathRank,
    headers: usize,
    query: usize,
    method: bool,
}

#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
enum PathRank {
    #[default]
    Any,
    Regex,
    Prefix(usize),
    Exact(usize),
}

/// How closely a host was matched; the greater is the closer.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum HostRank {
    Any,
    Suffix(usize),
    Exact,
}

impl RequestMatch {
    /// How closely the request fits; none where it does not.
    pub fn rank(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Option<Rank> {
        let path = match &self.path {
            None => PathRank::Any,
            Some(path) => path.rank(uri.path())?,
        };
        if self.method.as_ref().is_some_and(|wanted| wanted != method) {
            return None;
        }
        let header_fits = |(name, value): &(HeaderName, ValueMatch)| {
            headers.get_all(name).iter().any(|header| value.fits(header.as_bytes()))
        };
        if !self.headers.iter().all(header_fits) {
            return None;
        }
        let query_fits = |(name, value): &(String, ValueMatch)| {
            let parameters = uri.query().unwrap_or_default().split('&');
            parameters
                .map(|parameter| parameter.split_once('=').unwrap_or((parameter, "")))
                .find(|(parameter, _)| parameter == name)
                .is_some_and(|(_, text)| value.fits(text.as_bytes()))
        };
        if !self.query.iter().all(query_fits) {
            return None;
        }
        Some(Rank { path, headers: self.headers.len(), query: self.query.len(), method: self.method.is_some() })
    }
}

impl PathMatch {
    fn rank(&self, path: &str) -> Option<PathRank> {
        let (fits, rank) = match self {
            Self::Exact(exact) => (path == exact, PathRank::Exact(exact.len())),
            Self::Prefix(prefix) => {
                let segments = prefix.trim_end_matches('/');
                let fits = path.strip_prefix(segments).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
                (fits, PathRank::Prefix(prefix.len()))
            }
            Self::Method(name) => (path.rsplit_once('/').is_some_and(|(_, last)| last == name), PathRank::Prefix(0)),
            Self::Regex(pattern) => (pattern.fits(path.as_bytes()), PathRank::Regex),
        };
        fits.then_some(rank)
    }
}

impl ValueMatch {
    fn fits(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => exact == value,
            Self::Regex(pattern) => pattern.fits(value),
        }
    }
}

impl Pattern {
    /// # Errors
    /// Where the expression does not parse, or is too large.
    pub fn new(expression: &str) -> Result<Self, regex::Error> {
        let whole = format!("^(?:{expression})$");
        RegexBuilder::new(&whole).unicode(false).size_limit(REGEX_BYTES_MAX).build().map(Self)
    }

    fn fits(&self, text: &[u8]) -> bool {
        self.0.is_match(text)
    }
}

/// How closely `host` (without port) fits any of `hosts`; none where it does not. No hosts fit all.
pub fn host_rank(hosts: &[HostMatch], host: Option<&str>) -> Option<HostRank> {
    if hosts.is_empty() {
        return Some(HostRank::Any);
    }
    let host = host?.to_ascii_lowercase();
    let rank = |wanted: &HostMatch| match wanted {
        HostMatch::Exact(exact) => (host == *exact).then_some(HostRank::Exact),
        HostMatch::Suffix(suffix) => host
            .strip_suffix(suffix.as_str())
            .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            .then_some(HostRank::Suffix(suffix.len())),
    };
    hosts.iter().filter_map(rank).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(wanted: &RequestMatch, path: &str) -> Option<Rank> {
        wanted.rank(&Method::GET, &path.parse().unwrap(), &HeaderMap::new())
    }

    fn path(path: PathMatch) -> RequestMatch {
        RequestMatch { path: Some(path), ..RequestMatch::default() }
    }

    #[test]
    fn a_prefix_fits_whole_segments_only() {
        let wanted = path(PathMatch::Prefix("/a".into()));
        assert!(rank(&wanted, "/a").is_some() && rank(&wanted, "/a/b").is_some());
        assert_eq!(rank(&wanted, "/ab"), None);
        assert!(rank(&path(PathMatch::Prefix("/".into())), "/ab").is_some());
    }

    #[test]
    fn exact_beats_the_longer_prefix_beats_the_expression() {
        let exact = rank(&path(PathMatch::Exact("/a/b".into())), "/a/b");
        let long = rank(&path(PathMatch::Prefix("/a/b".into())), "/a/b");
        let short = rank(&path(PathMatch::Prefix("/a".into())), "/a/b");
        let regex = rank(&path(PathMatch::Regex(Pattern::new("/a/.*").unwrap())), "/a/b");
        assert!(exact > long && long > short && short > regex && regex > rank(&RequestMatch::default(), "/a/b"));
    }

    #[test]
    fn an_expression_must_fit_the_whole_path() {
        let wanted = path(PathMatch::Regex(Pattern::new(r"/\d+").unwrap()));
        assert!(rank(&wanted, "/42").is_some());
        assert_eq!(rank(&wanted, "/42/x"), None);
    }

    #[test]
    fn every_header_and_parameter_must_fit() {
        let wanted = RequestMatch {
            headers: vec![(HeaderName::from_static("x-user"), ValueMatch::Exact(b"eve".to_vec()))],
            query: vec![("page".into(), ValueMatch::Regex(Pattern::new("[0-9]+").unwrap()))],
            ..RequestMatch::default()
        };
        let headers = HeaderMap::from_iter([(HeaderName::from_static("x-user"), "eve".parse().unwrap())]);
        let fits = |uri: &str| wanted.rank(&Method::GET, &uri.parse().unwrap(), &headers).is_some();
        assert!(fits("/?page=7"));
        assert!(!fits("/?page=x") && !fits("/"));
        assert_eq!(rank(&wanted, "/?page=7"), None, "without the header");
    }

    #[test]
    fn a_wildcard_host_fits_names_below_it_only() {
        let hosts = [HostMatch::Suffix("example.com".into()), HostMatch::Exact("a.example.com".into())];
        assert_eq!(host_rank(&hosts, Some("A.example.com")), Some(HostRank::Exact));
        assert_eq!(host_rank(&hosts, Some("b.example.com")), Some(HostRank::Suffix(11)));
        assert_eq!(host_rank(&hosts, Some("example.com")), None);
        assert_eq!(host_rank(&hosts, Some("badexample.com")), None);
        assert_eq!(host_rank(&hosts, None), None);
    }
}
