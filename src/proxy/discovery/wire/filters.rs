//! Reads the filters of rules and backends, of each of the four kinds of routes, and the names that TLS routes go by.
//!
//! A filter of an unknown kind is not skipped: it may be the one that refuses.

use crate::mesh::route::{HostMatch, RequestMatch};
use crate::proxy::discovery::plan::{Failure, HttpFilter, Refusal};
use crate::proxy::policy::convert::{self, Invalid};
use crate::wire::{opaque_route, outbound, tls_route};

pub(super) fn http_filter(
    filter: outbound::http_route::Filter,
    matches: &[RequestMatch],
) -> Result<HttpFilter, Invalid> {
    use outbound::http_route::filter::Kind;
    Ok(match filter.kind.ok_or(Invalid::Missing("the kind of a filter"))? {
        Kind::FailureInjector(fail) => {
            let with = Failure::Http(convert::status(fail.status)?, fail.message);
            HttpFilter::Fail { with, ratio: convert::ratio(fail.ratio)? }
        }
        Kind::RequestHeaderModifier(edit) => {
            HttpFilter::RequestHeaders(convert::header_modifier(edit.add, edit.set, &edit.remove)?)
        }
        Kind::ResponseHeaderModifier(edit) => {
            HttpFilter::ResponseHeaders(convert::header_modifier(edit.add, edit.set, &edit.remove)?)
        }
        Kind::Redirect(to) => HttpFilter::Redirect(convert::redirect(to, matches)?),
    })
}

pub(super) fn grpc_filter(filter: outbound::grpc_route::Filter) -> Result<HttpFilter, Invalid> {
    use outbound::grpc_route::filter::Kind;
    Ok(match filter.kind.ok_or(Invalid::Missing("the kind of a filter"))? {
        Kind::FailureInjector(fail) => {
            let code = i32::try_from(fail.code).map_err(|_| convert::unparsable("gRPC code", fail.code))?;
            HttpFilter::Fail { with: Failure::Grpc(code, fail.message), ratio: convert::ratio(fail.ratio)? }
        }
        Kind::RequestHeaderModifier(edit) => {
            HttpFilter::RequestHeaders(convert::header_modifier(edit.add, edit.set, &edit.remove)?)
        }
    })
}

pub(super) fn opaque_filter(filter: outbound::opaque_route::Filter) -> Result<Refusal, Invalid> {
    use outbound::opaque_route::filter::Kind;
    Ok(match filter.kind.ok_or(Invalid::Missing("the kind of a filter"))? {
        Kind::Forbidden(opaque_route::Forbidden {}) => Refusal::Forbidden,
        Kind::Invalid(invalid) => Refusal::Invalid(invalid.message),
    })
}

pub(super) fn tls_filter(filter: outbound::tls_route::Filter) -> Result<Refusal, Invalid> {
    use outbound::tls_route::filter::Kind;
    Ok(match filter.kind.ok_or(Invalid::Missing("the kind of a filter"))? {
        Kind::Forbidden(opaque_route::Forbidden {}) => Refusal::Forbidden,
        Kind::Invalid(invalid) => Refusal::Invalid(invalid.message),
    })
}

pub(super) fn sni_match(sni: tls_route::SniMatch) -> Result<HostMatch, Invalid> {
    use tls_route::sni_match::Match;
    match sni.r#match.ok_or(Invalid::Missing("the name of an SNI"))? {
        Match::Exact(exact) => Ok(HostMatch::Exact(exact.to_ascii_lowercase())),
        Match::Suffix(suffix) => {
            let labels = suffix.reverse_labels.iter().rev().map(|label| label.to_ascii_lowercase());
            Ok(HostMatch::Suffix(labels.collect::<Vec<_>>().join(".")))
        }
    }
}
