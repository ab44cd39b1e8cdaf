//! One host per request: the same to whoever decides about it and to whoever answers it.
//!
//! In: a request with a host in its target, in its `host` header, in both, or in neither. Out: one with at most one, or a refusal. Policy looks
//! at the target first and an app may look at the header, so that two that differ would let a client be authorized for one and
//! served by the other (RFC 9112 §3.2, RFC 9113 §8.3.1). A request that names none is the app's to judge, as without a proxy.
//!
//! Start at [`settle`].

use http::header::{HOST, HeaderValue};
use http::{Method, Request};

/// Why a request may not go on.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unclear {
    #[error("the request has a host that is none")]
    NoHost,
    #[error("the request has more than one host")]
    Two,
}

/// Gives the request's header the host of its target, where it has another.
///
/// # Errors
/// Where it has several headers, or something in them that is no host.
pub fn settle<B>(request: &mut Request<B>) -> Result<(), Unclear> {
    let mut said = request.headers().get_all(HOST).iter();
    let host = said.next();
    if said.next().is_some() {
        return Err(Unclear::Two);
    }
    let target = request.uri().authority().filter(|_| request.method() != Method::CONNECT);
    if host.is_some_and(|host| !is_host(host.as_bytes()))
        || target.is_some_and(|target| !is_host(target.as_str().as_bytes()))
    {
        return Err(Unclear::NoHost);
    }
    if let (Some(host), Some(target)) = (host, target)
        && !host.as_bytes().eq_ignore_ascii_case(target.as_str().as_bytes())
    {
        let target = HeaderValue::from_str(target.as_str()).map_err(|_| Unclear::NoHost)?;
        request.headers_mut().insert(HOST, target);
    }
    Ok(())
}

/// Whether nothing is in there that a host and a port cannot have (RFC 3986 §3.2.2); empty is how HTTP/1.1 says none.
fn is_host(text: &[u8]) -> bool {
    text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=:[]".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, hosts: &[&str]) -> Request<()> {
        let builder = hosts.iter().fold(Request::get(uri), |builder, host| builder.header(HOST, *host));
        builder.body(()).unwrap()
    }

    #[test]
    fn one_host_or_none_stays() {
        for (uri, hosts) in [
            ("/", &["web"][..]),
            ("/", &["[::1]:80"]),
            ("/", &[""]),
            ("/", &[]),
            ("http://web/", &[]),
            ("http://WEB/", &["web"]),
        ] {
            let mut settled = request(uri, hosts);
            assert_eq!(settle(&mut settled), Ok(()), "{uri} {hosts:?}");
            assert_eq!(settled.headers(), request(uri, hosts).headers());
        }
    }

    #[test]
    fn the_targets_host_is_the_one_that_counts() {
        let mut settled = request("http://web.shop:80/", &["evil"]);
        assert_eq!(settle(&mut settled), Ok(()));
        assert_eq!(settled.headers()[HOST], "web.shop:80");
    }

    #[test]
    fn several_and_such_as_are_none_are_refused() {
        assert_eq!(settle(&mut request("/", &["web", "web"])), Err(Unclear::Two));
        for host in ["web/evil", "user@web", "web evil", "web,evil", "we\tb", "web?"] {
            assert_eq!(settle(&mut request("/", &[host])), Err(Unclear::NoHost), "{host}");
        }
        assert_eq!(settle(&mut request("http://user@web/", &[])), Err(Unclear::NoHost));
    }
}
