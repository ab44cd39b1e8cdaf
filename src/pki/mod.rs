//! Keys, certificates and bundles: bytes in, bytes out, `now` passed in.
//!
//! ```text
//!   Bundle ∋ Anchor ──signs──> Issuer ──signs──> Leaf      (certificates)
//!                                       Csr <── LeafKey    (what a proxy makes)
//! ```
//!
//! Everything is DER on the wire and ECDSA P-256 where we make it. A proxy makes a [`LeafKey`] and a CSR from it; the
//! identity role reads that as a [`Csr`] and has its [`Issuer`] sign a [`Leaf`]; the proxy checks the answer against its
//! [`Bundle`].

mod brought;
mod bundle;
mod certificate;
mod create;
mod csr;
pub mod encrypted;
mod issuer;
mod leaf_key;
mod lifetimes;
mod rotation;
pub mod serving;
mod told;

pub use brought::{Brought, Offer, Refused, Unfit, Unusable, judge, judge_anchors};
pub use bundle::{Bundle, InvalidBundle, NotTrusted};
pub use certificate::{Certificate, InvalidCertificate};
pub use create::{Created, KeyKind, Wish, create};
pub use csr::{Asked, Csr, InvalidCsr, WrongCsr};
pub use issuer::{Anchor, CannotSign, InvalidIssuer, Issued, Issuer, Leaf, Validity};
pub use leaf_key::{LeafKey, NoKey};
pub use lifetimes::{InvalidLifetimes, Lifetime, Lifetimes, parse_duration};
pub use rotation::{EXPIRE_MARGIN, PUBLISH_MIN, Phase, Request, Rotation};
pub use told::{AnchorTold, IdentityTold, IssuerTold, Keeper, LeafTold, ProxyTold, seconds};
