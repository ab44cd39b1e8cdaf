//! Looks up headers by going through them.
//!
//! A map of headers hashes the name that it is asked for, which takes as long as to compare it with the few names of a usual message; and proxies ask each
//! message for a dozen names that are hardly ever there.

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

/// Up to so many names are gone through.
const FEW: usize = 24;

/// Whether there is a header of this name.
pub fn has(headers: &HeaderMap, name: &HeaderName) -> bool {
    if headers.keys_len() > FEW { headers.contains_key(name) } else { headers.keys().any(|key| key == name) }
}

/// Whether there is a header whose name begins with `prefix`.
pub fn has_any_of(headers: &HeaderMap, prefix: &str) -> bool {
    headers.keys().any(|key| key.as_str().starts_with(prefix))
}

/// The first value of the header of this name.
pub fn get<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    if has(headers, name) { headers.get(name) } else { None }
}

/// Removes the header of this name; returns the first of its values.
pub fn take(headers: &mut HeaderMap, name: &HeaderName) -> Option<HeaderValue> {
    if has(headers, name) { headers.remove(name) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_found_among_few_and_among_many_and_one_that_is_not_there_is_not() {
        for others in [0, FEW - 1, FEW, 10 * FEW] {
            let mut headers = HeaderMap::new();
            for other in 0..others {
                headers.insert(format!("x-{other}").parse::<HeaderName>().unwrap(), HeaderValue::from_static("no"));
            }
            let name = HeaderName::from_static("l5d-require-id");
            assert!(!has(&headers, &name) && get(&headers, &name).is_none() && take(&mut headers, &name).is_none());
            headers.append(&name, HeaderValue::from_static("first"));
            headers.append(&name, HeaderValue::from_static("second"));
            assert!(has(&headers, &name));
            assert_eq!(get(&headers, &name).unwrap(), "first");
            assert_eq!(take(&mut headers, &name).unwrap(), "first");
            assert_eq!(headers.len(), others);
        }
    }
}
