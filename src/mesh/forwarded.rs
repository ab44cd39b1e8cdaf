//! The header `forwarded` (RFC 7239): which proxies a request has passed.
//!
//! In: a header's value, which clients may have written what they like into. Out: whether this very gateway is in there.
//!
//! Quotes are not heeded, and whatever may separate parts does: a client that leaves a quote open, before somebody joins its header and a
//! gateway's into one, must not hide what the gateway wrote. What such a client can do is to have its own requests refused. A value is gone
//! through once, whatever it holds; heads are bounded where they are read.

use super::Identity;

/// Whether `value` says that a request has passed the gateway `own`.
pub fn has_passed(value: &[u8], own: &Identity) -> bool {
    value.split(|byte| b";, \t".contains(byte)).any(|pair| {
        let mut parts = pair.splitn(2, |byte| *byte == b'=').map(unquoted);
        parts.next().is_some_and(|name| name.eq_ignore_ascii_case(b"by"))
            && parts.next().is_some_and(|by| by.eq_ignore_ascii_case(own.as_str().as_bytes()))
    })
}

/// What the gateway `own` adds to a request of `client` for `host`.
pub fn element(own: &Identity, client: Option<&Identity>, host: &str) -> String {
    let client = client.map_or("unknown", Identity::as_str);
    format!("by={own};for={client};host={host};proto=https")
}

fn unquoted(text: &[u8]) -> &[u8] {
    let text = text.strip_prefix(b"\"").unwrap_or(text);
    text.strip_suffix(b"\"").unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Identity {
        "gateway.multicluster.serviceaccount.identity.hawser.cluster.local".parse().unwrap()
    }

    fn is_seen(value: &str) -> bool {
        has_passed(value.replace("OWN", own().as_str()).as_bytes(), &own())
    }

    #[test]
    fn a_gateway_knows_what_it_wrote() {
        let client = "web.shop".parse().unwrap();
        let element = element(&own(), Some(&client), "cart.shop.svc.cluster.local:8080");
        assert_eq!(element, format!("by={};for=web.shop;host=cart.shop.svc.cluster.local:8080;proto=https", own()));
        assert!(has_passed(element.as_bytes(), &own()));
        assert!(!has_passed(element.as_bytes(), &client));
    }

    #[test]
    fn a_loop_is_seen_however_it_is_written() {
        for value in [
            "by=OWN",
            "By=OWN",
            "by=\"OWN\"",
            "for=web;by=OWN;proto=https",
            "for=web; by=OWN",
            "by=other.gateway;for=web, by=OWN;for=other.gateway",
            "by=other.gateway,by=OWN",
        ] {
            assert!(is_seen(value), "{value}");
        }
    }

    #[test]
    fn nothing_that_a_client_writes_before_it_hides_a_loop() {
        for before in ["for=\"", "for=\"\\", "=", "by", "by=", ";;;", "\u{7f}\u{0}", "by=by=", "\"by=x"] {
            assert!(is_seen(&format!("{before}, by=OWN;for=web")), "{before}");
        }
    }

    #[test]
    fn others_are_no_loop() {
        for value in ["", "by=", "by", "for=OWN", "by=xOWN", "by=OWN.evil.org", "host=OWN", "xby=OWN", "by=_hidden"] {
            assert!(!is_seen(value), "{value}");
        }
        assert!(!has_passed(&[0xff; 70_000], &own()));
    }
}
