//! Judges the certificate that a server showed in a handshake.
//!
//! In: the chain as it was sent, whom it should name, the bundle and the time. Out: a [`Shown`]: what is in the certificate,
//! and every [`Fault`] of it. No fault is the only good verdict.
//!
//! Start at [`Shown::judge`].

use std::time::SystemTime;

use rustls_pki_types::CertificateDer;

use crate::mesh::Identity;
use crate::pki::{Bundle, Certificate, InvalidCertificate, NotTrusted};

/// What a server showed, judged.
#[derive(Clone, Debug)]
pub struct Shown {
    pub leaf: Certificate,
    /// As sent, without the leaf. What cannot be read is left out.
    pub intermediates: Vec<Certificate>,
    pub faults: Vec<Fault>,
}

/// What is wrong with a certificate.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Fault {
    #[error("it has expired")]
    Expired,
    #[error("it is not valid yet")]
    NotYetValid,
    #[error("it does not chain to the trust bundle: {0}")]
    NotChained(String),
    #[error("it names {}, not {expected}", named(.found))]
    WrongIdentity { expected: Identity, found: Vec<Identity> },
}

fn named(identities: &[Identity]) -> String {
    if identities.is_empty() {
        return "nobody".into();
    }
    identities.iter().map(Identity::as_str).collect::<Vec<_>>().join(" and ")
}

/// Why there is nothing to judge.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    #[error("the server showed no certificate")]
    Nothing,
    #[error(transparent)]
    Certificate(#[from] InvalidCertificate),
}

impl Shown {
    /// Reads and judges `chain`, whose first certificate should name `expected`.
    ///
    /// Without a bundle or an expected identity only the rest is judged; the caller must say so.
    ///
    /// # Errors
    /// Where the leaf cannot be read.
    pub fn judge(
        chain: &[CertificateDer<'static>],
        expected: Option<&Identity>,
        bundle: Option<&Bundle>,
        now: SystemTime,
    ) -> Result<Self, Unreadable> {
        let (leaf, rest) = chain.split_first().ok_or(Unreadable::Nothing)?;
        let leaf = Certificate::from_der(leaf.clone())?;
        let mut faults = Vec::new();
        if now < leaf.not_before() {
            faults.push(Fault::NotYetValid);
        }
        if now > leaf.not_after() {
            faults.push(Fault::Expired);
        }
        if let Some(bundle) = bundle {
            // One that has expired is judged at the end of its life: it may also be nobody's.
            let at = now.clamp(leaf.not_before(), leaf.not_after().max(leaf.not_before()));
            match bundle.verify(&leaf, rest, at) {
                Ok(()) => {}
                Err(NotTrusted::Chain { reason, .. }) => faults.push(Fault::NotChained(reason.to_string())),
                Err(NotTrusted::Expired { .. }) => {
                    faults.push(Fault::NotChained("a certificate between it and the anchor has expired".into()));
                }
                Err(NotTrusted::NotYetValid { .. }) => {
                    faults.push(Fault::NotChained("a certificate between it and the anchor is not valid yet".into()));
                }
            }
        }
        if let Some(expected) = expected
            && !leaf.identities().contains(expected)
        {
            faults.push(Fault::WrongIdentity { expected: expected.clone(), found: leaf.identities().to_vec() });
        }
        let intermediates = rest.iter().filter_map(|der| Certificate::from_der(der.clone()).ok()).collect();
        Ok(Self { leaf, intermediates, faults })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::pki::{Anchor, Csr, LeafKey, Validity};

    pub(crate) const DAY: Duration = Duration::from_secs(86_400);

    pub(crate) fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + 20_000 * DAY
    }

    pub(crate) fn identity(name: &str) -> Identity {
        Identity::of_service_account(name, "shop", "hawser", "cluster.local").unwrap()
    }

    /// A bundle, and a chain under it for `web.shop`, valid for a day from [`now`].
    pub(crate) fn chain() -> (Bundle, Vec<CertificateDer<'static>>) {
        let anchor = Anchor::create("cluster.local", now()).unwrap();
        let issuer = anchor.create_issuer("cluster.local", now()).unwrap();
        let csr = Csr::parse_der(&LeafKey::generate().unwrap().csr(&identity("web")).unwrap()).unwrap();
        let validity = Validity { lifetime: DAY, skew: Duration::from_secs(20) };
        let leaf = issuer.sign(&csr, &identity("web"), now(), validity).unwrap();
        let chain = std::iter::once(leaf.certificate.der().clone()).chain(leaf.intermediates.iter().cloned()).collect();
        (Bundle::parse_pem(&anchor.certificate().to_pem()).unwrap(), chain)
    }

    fn faults(expected: &str, bundle: &Bundle, chain: &[CertificateDer<'static>], at: SystemTime) -> Vec<Fault> {
        Shown::judge(chain, Some(&identity(expected)), Some(bundle), at).unwrap().faults
    }

    #[test]
    fn a_leaf_of_ours_has_no_fault() {
        let (bundle, chain) = chain();
        assert_eq!(faults("web", &bundle, &chain, now()), []);
    }

    #[test]
    fn one_outside_of_its_time_has() {
        let (bundle, chain) = chain();
        assert_eq!(faults("web", &bundle, &chain, now() + 2 * DAY), [Fault::Expired]);
        assert_eq!(faults("web", &bundle, &chain, now() - DAY), [Fault::NotYetValid]);
    }

    #[test]
    fn one_of_another_anchor_has() {
        let ((_, chain), (other, _)) = (chain(), chain());
        assert!(matches!(faults("web", &other, &chain, now()).as_slice(), [Fault::NotChained(_)]));
    }

    #[test]
    fn one_for_another_name_has() {
        let (bundle, chain) = chain();
        let found = vec![identity("web")];
        let expected = identity("cart");
        assert_eq!(faults("cart", &bundle, &chain, now()), [Fault::WrongIdentity { expected, found }]);
    }

    #[test]
    fn faults_do_not_hide_each_other() {
        let ((_, chain), (other, _)) = (chain(), chain());
        assert_eq!(faults("cart", &other, &chain, now() + 2 * DAY).len(), 3);
    }

    #[test]
    fn nothing_shown_and_garbage_cannot_be_judged() {
        assert!(matches!(Shown::judge(&[], None, None, now()), Err(Unreadable::Nothing)));
        let garbage = CertificateDer::from(vec![1, 2, 3]);
        assert!(matches!(Shown::judge(&[garbage], None, None, now()), Err(Unreadable::Certificate(_))));
    }
}
