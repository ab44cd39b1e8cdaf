//! Decides which rule of a list of routes an HTTP request falls under.
//!
//! In: rules with what they match, and a request. Out: the rule that matches best, whatever its place in the list; of
//! equals the first. The order is that of the Gateway API: host before path before headers before query before method.
//!
//! Start at [`best`]. Policies of servers use it ([`super::policy`]); routes of clients may as well.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use regex::{Regex, RegexBuilder};

/// The names a route is for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum HostMatch {
    /// This name, in lower case.
    Exact(String),
    /// Any name below this one, which is in lower case and without the leading dot.
    Suffix(String),
}

/// The paths a rule is for.
#[derive(Clone, Debug)]
pub enum PathMatch {
    Exact(String),
    /// This path and those below it: `/a` matches `/a` and `/a/b`, but not `/ab`.
    Prefix(String),
    /// The whole path.
    Regex(Regex),
}

/// The values a rule is for.
#[derive(Clone, Debug)]
pub enum ValueMatch<T> {
    Exact(T),
    /// The whole value.
    Regex(Regex),
}

/// What one request must have, all of it, to fall under a rule.
#[derive(Clone, Debug)]
pub enum RequestMatch {
    Http(HttpMatch),
    Grpc(GrpcMatch),
}

/// The default matches every request.
#[derive(Clone, Debug, Default)]
pub struct HttpMatch {
    pub path: Option<PathMatch>,
    pub headers: Vec<(HeaderName, ValueMatch<HeaderValue>)>,
    pub query: Vec<(String, ValueMatch<String>)>,
    pub method: Option<Method>,
}

/// The default matches every call.
#[derive(Clone, Debug, Default)]
pub struct GrpcMatch {
    pub service: Option<String>,
    pub method: Option<String>,
    pub headers: Vec<(HeaderName, ValueMatch<HeaderValue>)>,
}

/// How well a request matched; greater is better. Fields in the order in which they count.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
struct Score {
    host: HostScore,
    path: PathScore,
    headers: usize,
    query: usize,
    method: bool,
}

#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum HostScore {
    #[default]
    Any,
    Suffix(usize),
    Exact,
}

#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
enum PathScore {
    #[default]
    Any,
    Regex(usize),
    /// Of a call: how much of service and method was named.
    Rpc(usize, usize),
    Prefix(usize),
    Exact,
}

/// Compiles a pattern that must match the whole of a text.
///
/// # Errors
/// Where the pattern is no regular expression.
pub fn whole(pattern: &str) -> Result<Regex, regex::Error> {
    Regex::new(&format!("^(?:{pattern})$"))
}

/// The same, of a pattern that may not grow beyond so many bytes when it is compiled, nor be nested deeper than that.
///
/// # Errors
/// Where the pattern is no regular expression, or too large a one.
pub fn whole_within(pattern: &str, bytes_max: usize, depth_max: u32) -> Result<Regex, regex::Error> {
    RegexBuilder::new(&format!("^(?:{pattern})$")).size_limit(bytes_max).nest_limit(depth_max).build()
}

/// The best of `rules`, each given with its route's hosts and its own matches.
///
/// A route without hosts is for all of them, and a rule without matches for all requests.
pub fn best<'r, R, B>(
    rules: impl IntoIterator<Item = (&'r [HostMatch], &'r [RequestMatch], R)>,
    request: &http::Request<B>,
) -> Option<R> {
    let host = host(request.uri(), request.headers());
    let mut best: Option<(Score, R)> = None;
    for (hosts, matches, rule) in rules {
        let Some(host) = score_host(hosts, host.as_deref()) else { continue };
        let score = if matches.is_empty() {
            Some(Score { host, ..Score::default() })
        } else {
            matches.iter().filter_map(|one| one.score(host, request)).max()
        };
        let Some(score) = score else { continue };
        if best.as_ref().is_none_or(|(known, _)| score > *known) {
            best = Some((score, rule));
        }
    }
    best.map(|(_, rule)| rule)
}

/// The name a request is for, in lower case and without port: of its URI, else of its `host` header.
pub fn host(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    let host = match uri.host() {
        Some(host) => host.to_owned(),
        None => {
            let header = headers.get(http::header::HOST)?.to_str().ok()?;
            header.parse::<http::uri::Authority>().ok()?.host().to_owned()
        }
    };
    Some(host.trim_end_matches('.').to_ascii_lowercase())
}

/// How well `host` fits any of `hosts`; none where it does not. No hosts fit all, even no name.
pub fn score_host(hosts: &[HostMatch], host: Option<&str>) -> Option<HostScore> {
    if hosts.is_empty() {
        return Some(HostScore::Any);
    }
    let host = host?;
    let score = |one: &HostMatch| match one {
        HostMatch::Exact(name) => (name == host).then_some(HostScore::Exact),
        HostMatch::Suffix(suffix) => {
            let below = host.strip_suffix(suffix.as_str())?;
            (below.len() > 1 && below.ends_with('.')).then_some(HostScore::Suffix(suffix.len()))
        }
    };
    hosts.iter().filter_map(score).max()
}

impl RequestMatch {
    fn score<B>(&self, host: HostScore, request: &http::Request<B>) -> Option<Score> {
        match self {
            Self::Http(http) => http.score(host, request),
            Self::Grpc(grpc) => grpc.score(host, request),
        }
    }
}

impl HttpMatch {
    fn score<B>(&self, host: HostScore, request: &http::Request<B>) -> Option<Score> {
        let path = match &self.path {
            None => PathScore::Any,
            Some(path) => path.score(request.uri().path())?,
        };
        if self.method.as_ref().is_some_and(|method| method != request.method()) {
            return None;
        }
        let query = request.uri().query().unwrap_or_default();
        let all = have_headers(&self.headers, request.headers())
            && self.query.iter().all(|(name, value)| has_parameter(query, name, value));
        all.then_some(Score {
            host,
            path,
            headers: self.headers.len(),
            query: self.query.len(),
            method: self.method.is_some(),
        })
    }
}

impl PathMatch {
    fn score(&self, path: &str) -> Option<PathScore> {
        match self {
            Self::Exact(exact) => (exact == path).then_some(PathScore::Exact),
            Self::Prefix(prefix) => {
                let prefix = prefix.trim_end_matches('/');
                let rest = path.strip_prefix(prefix)?;
                (rest.is_empty() || rest.starts_with('/')).then_some(PathScore::Prefix(prefix.len()))
            }
            Self::Regex(pattern) => pattern.is_match(path).then_some(PathScore::Regex(path.len())),
        }
    }
}

impl GrpcMatch {
    fn score<B>(&self, host: HostScore, request: &http::Request<B>) -> Option<Score> {
        // Calls are POSTs to /package.Service/Method.
        if request.method() != Method::POST {
            return None;
        }
        let (service, method) = request.uri().path().strip_prefix('/')?.split_once('/')?;
        let named = |wanted: &Option<String>, is: &str| match wanted {
            None => Some(0),
            Some(wanted) => (wanted == is).then_some(wanted.len()),
        };
        let path = PathScore::Rpc(named(&self.service, service)?, named(&self.method, method)?);
        have_headers(&self.headers, request.headers()).then_some(Score {
            host,
            path,
            headers: self.headers.len(),
            ..Score::default()
        })
    }
}

fn have_headers(wanted: &[(HeaderName, ValueMatch<HeaderValue>)], headers: &HeaderMap) -> bool {
    wanted.iter().all(|(name, wanted)| {
        headers.get_all(name).iter().any(|value| match wanted {
            ValueMatch::Exact(exact) => exact == value,
            ValueMatch::Regex(pattern) => value.to_str().is_ok_and(|value| pattern.is_match(value)),
        })
    })
}

/// Whether a query has a parameter with such a value. Values are compared as they were sent, without decoding.
fn has_parameter(query: &str, name: &str, wanted: &ValueMatch<String>) -> bool {
    query.split('&').any(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        key == name
            && match wanted {
                ValueMatch::Exact(exact) => exact == value,
                ValueMatch::Regex(pattern) => pattern.is_match(value),
            }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(path: PathMatch) -> RequestMatch {
        RequestMatch::Http(HttpMatch { path: Some(path), ..HttpMatch::default() })
    }

    fn get(uri: &str) -> http::Request<()> {
        http::Request::get(uri).body(()).unwrap()
    }

    /// The place of the best of `rules`, all of routes without hosts.
    fn place(rules: &[Vec<RequestMatch>], request: &http::Request<()>) -> Option<usize> {
        best(rules.iter().enumerate().map(|(at, matches)| (&[][..], matches.as_slice(), at)), request)
    }

    #[test]
    fn prefers_an_exact_path_to_the_longest_prefix_to_a_pattern() {
        let rules = [
            vec![http(PathMatch::Regex(whole("/a.*").unwrap()))],
            vec![http(PathMatch::Prefix("/".into()))],
            vec![http(PathMatch::Prefix("/a/b".into()))],
            vec![http(PathMatch::Exact("/a/b/c".into()))],
        ];
        assert_eq!(place(&rules, &get("/a/b/c")), Some(3));
        assert_eq!(place(&rules, &get("/a/b/d")), Some(2));
        assert_eq!(place(&rules, &get("/a/bd")), Some(1));
        assert_eq!(place(&rules[..1], &get("/abc")), Some(0));
    }

    #[test]
    fn a_prefix_ends_at_a_slash() {
        let rules = [vec![http(PathMatch::Prefix("/a/".into()))]];
        assert_eq!(place(&rules, &get("/a")), Some(0));
        assert_eq!(place(&rules, &get("/a/b")), Some(0));
        assert_eq!(place(&rules, &get("/ab")), None);
    }

    #[test]
    fn a_pattern_matches_the_whole_path_only() {
        let rules = [vec![http(PathMatch::Regex(whole("/a|/b").unwrap()))]];
        assert_eq!(place(&rules, &get("/b")), Some(0));
        assert_eq!(place(&rules, &get("/a/b")), None);
    }

    #[test]
    fn of_equals_the_first_is_best() {
        let rules = [vec![], vec![]];
        assert_eq!(place(&rules, &get("/")), Some(0));
    }

    #[test]
    fn no_rules_match_nothing() {
        assert_eq!(place(&[], &get("/")), None);
    }

    #[test]
    fn prefers_more_headers_and_refuses_where_one_is_missing() {
        let secret = (HeaderName::from_static("x-secret"), ValueMatch::Exact(HeaderValue::from_static("yes")));
        let rules =
            [vec![], vec![RequestMatch::Http(HttpMatch { headers: vec![secret.clone()], ..HttpMatch::default() })]];
        let with = http::Request::get("/").header("x-secret", "yes").body(()).unwrap();
        let wrong = http::Request::get("/").header("x-secret", "no").body(()).unwrap();
        assert_eq!(place(&rules, &with), Some(1));
        assert_eq!(place(&rules, &wrong), Some(0));
    }

    #[test]
    fn matches_method_and_query() {
        let rules = [vec![RequestMatch::Http(HttpMatch {
            query: vec![("v".into(), ValueMatch::Exact("2".into()))],
            method: Some(Method::GET),
            ..HttpMatch::default()
        })]];
        assert_eq!(place(&rules, &get("/?u=1&v=2")), Some(0));
        assert_eq!(place(&rules, &get("/?v=3")), None);
        assert_eq!(place(&rules, &http::Request::post("/?v=2").body(()).unwrap()), None);
    }

    #[test]
    fn hosts_come_from_the_uri_or_the_header_without_port() {
        let hosts = [HostMatch::Exact("web.shop".into()), HostMatch::Suffix("example.com".into())];
        let matched = |request| best([(&hosts[..], &[][..], ())], &request).is_some();
        assert!(matched(get("http://WEB.shop:8080/")));
        assert!(matched(http::Request::get("/").header("host", "a.example.com:80").body(()).unwrap()));
        assert!(!matched(get("http://example.com/")), "the suffix itself is not below it");
        assert!(!matched(get("http://badexample.com/")));
        assert!(!matched(get("/")));
    }

    #[test]
    fn a_call_is_matched_by_service_and_method() {
        let call = |path: &str| http::Request::post(path).body(()).unwrap();
        let rules = [
            vec![RequestMatch::Grpc(GrpcMatch { service: Some("shop.Cart".into()), ..GrpcMatch::default() })],
            vec![RequestMatch::Grpc(GrpcMatch {
                service: Some("shop.Cart".into()),
                method: Some("Add".into()),
                ..GrpcMatch::default()
            })],
        ];
        assert_eq!(place(&rules, &call("/shop.Cart/Get")), Some(0));
        assert_eq!(place(&rules, &call("/shop.Cart/Add")), Some(1));
        assert_eq!(place(&rules, &call("/shop.Other/Add")), None);
        assert_eq!(place(&rules, &get("/shop.Cart/Add")), None, "calls are POSTs");
    }
}
