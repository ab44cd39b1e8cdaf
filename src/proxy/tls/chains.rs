//! Chains of certificates that were verified once, and need not be again: two signatures less in each handshake.
//!
//! In: the chain that a peer shows, byte for byte, and the time. Out: whether it is good, and its leaf, read. A memory belongs to one
//! bundle and one usage (of clients or of servers), and is gone with them, so trust that ends ends here too. The time is compared with
//! every validity in the chain each time. That the peer holds the leaf's key is no part of this: it is proven in each handshake.
//!
//! Start at [`Chains::verify`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::pki_types::{CertificateDer, UnixTime};

use crate::pki::{Certificate, InvalidCertificate};

/// Peers that are remembered. A pod meets a few hundred, at 3 KB each; past this all are forgotten, and met anew.
const LEAVES_MAX: usize = 500;
/// Certificates above a leaf that are remembered: meshes have one, and somebody with a good chain could add any others.
const INTERMEDIATES_MAX: usize = 3;

/// The chains that one bundle vouches for, as far as they have been shown.
#[derive(Debug, Default)]
pub(super) struct Chains(Mutex<HashMap<Box<[u8]>, Known>>);

#[derive(Debug)]
struct Known {
    leaf: Arc<Certificate>,
    intermediates: Vec<CertificateDer<'static>>,
    /// When every certificate of the chain is valid.
    from: SystemTime,
    until: SystemTime,
}

impl Chains {
    /// Says that a chain is good: because it was before, or because `verify` does now.
    ///
    /// # Errors
    /// Those of `verify`.
    pub(super) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        verify: impl FnOnce() -> Result<(), rustls::Error>,
    ) -> Result<(), rustls::Error> {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
        if let Some(known) = self.lock().get(leaf.as_ref())
            && known.intermediates == intermediates
            && known.from <= at
            && at <= known.until
        {
            return Ok(());
        }
        verify()?;
        if let Some(known) = Known::of(leaf, intermediates) {
            let mut leaves = self.lock();
            if leaves.len() >= LEAVES_MAX {
                leaves.clear();
            }
            leaves.insert(leaf.as_ref().into(), known);
        }
        Ok(())
    }

    /// The leaf of a chain that has just been verified, read.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub(super) fn leaf(&self, leaf: &CertificateDer<'_>) -> Result<Arc<Certificate>, InvalidCertificate> {
        if let Some(known) = self.lock().get(leaf.as_ref()) {
            return Ok(known.leaf.clone());
        }
        Certificate::from_der(leaf.clone().into_owned()).map(Arc::new)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<[u8]>, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// None for what is not worth remembering, or cannot be read.
    fn of(leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Option<Self> {
        if intermediates.len() > INTERMEDIATES_MAX {
            return None;
        }
        let leaf = Arc::new(Certificate::from_der(leaf.clone().into_owned()).ok()?);
        let (mut from, mut until) = (leaf.not_before(), leaf.not_after());
        let mut owned = Vec::with_capacity(intermediates.len());
        for intermediate in intermediates {
            let read = Certificate::from_der(intermediate.clone().into_owned()).ok()?;
            from = from.max(read.not_before());
            until = until.min(read.not_after());
            owned.push(read.der().clone());
        }
        Some(Self { leaf, intermediates: owned, from, until })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::mesh::Identity;
    use crate::pki::{Anchor, Csr, LeafKey, Validity};

    const LIFETIME: Duration = Duration::from_secs(3600);

    /// A chain as peers show it: the leaf and its issuer.
    fn chain() -> (CertificateDer<'static>, Vec<CertificateDer<'static>>) {
        let now = SystemTime::now();
        let issuer = Anchor::create("cluster.local", now).unwrap().create_issuer("cluster.local", now).unwrap();
        let identity: Identity = "web.shop.serviceaccount.identity.hawser.cluster.local".parse().unwrap();
        let csr = Csr::parse_der(&LeafKey::generate().unwrap().csr(&identity).unwrap()).unwrap();
        let validity = Validity { lifetime: LIFETIME, skew: Duration::from_secs(20) };
        let leaf = issuer.sign(&csr, &identity, now, validity).unwrap();
        (leaf.certificate.der().clone(), leaf.intermediates)
    }

    fn now() -> UnixTime {
        UnixTime::now()
    }

    #[test]
    fn what_was_verified_is_not_verified_again() {
        let (chains, (leaf, intermediates)) = (Chains::default(), chain());
        let verified = Cell::new(0);
        for _ in 0..3 {
            let verify = || {
                verified.set(verified.get() + 1);
                Ok(())
            };
            chains.verify(&leaf, &intermediates, now(), verify).unwrap();
        }
        assert_eq!(verified.get(), 1);
        assert_eq!(chains.leaf(&leaf).unwrap().identities().len(), 1);
    }

    fn refuse() -> Result<(), rustls::Error> {
        Err(rustls::CertificateError::UnknownIssuer.into())
    }

    #[test]
    fn what_was_refused_is_asked_about_again() {
        let (chains, (leaf, intermediates)) = (Chains::default(), chain());
        chains.verify(&leaf, &intermediates, now(), refuse).unwrap_err();
        chains.verify(&leaf, &intermediates, now(), refuse).unwrap_err();
    }

    #[test]
    fn outside_of_its_validity_a_chain_is_not_good_for_having_been() {
        let (chains, (leaf, intermediates)) = (Chains::default(), chain());
        chains.verify(&leaf, &intermediates, now(), || Ok(())).unwrap();
        let later = UnixTime::since_unix_epoch(Duration::from_secs(now().as_secs()) + 2 * LIFETIME);
        chains.verify(&leaf, &intermediates, later, refuse).unwrap_err();
        let earlier = UnixTime::since_unix_epoch(Duration::from_secs(now().as_secs()) - LIFETIME);
        chains.verify(&leaf, &intermediates, earlier, refuse).unwrap_err();
        chains.verify(&leaf, &intermediates, now(), refuse).unwrap();
    }

    #[test]
    fn another_chain_under_the_same_leaf_is_another_chain() {
        let (chains, (leaf, intermediates)) = (Chains::default(), chain());
        chains.verify(&leaf, &intermediates, now(), || Ok(())).unwrap();
        chains.verify(&leaf, &[], now(), refuse).unwrap_err();
        chains.verify(&leaf, &chain().1, now(), refuse).unwrap_err();
        chains.verify(&chain().0, &intermediates, now(), refuse).unwrap_err();
    }

    #[test]
    fn peers_without_end_are_forgotten_not_kept() {
        let chains = Chains::default();
        let (_, intermediates) = chain();
        for _ in 0..3 {
            chains.verify(&chain().0, &intermediates, now(), || Ok(())).unwrap();
        }
        assert_eq!(chains.lock().len(), 3);
        let (leaf, known) = chains.lock().drain().next().unwrap();
        for at in 0..LEAVES_MAX {
            let copy = Known { leaf: known.leaf.clone(), intermediates: Vec::new(), ..known };
            chains.lock().insert([&leaf[..], &at.to_be_bytes()].concat().into(), copy);
        }
        chains.verify(&chain().0, &intermediates, now(), || Ok(())).unwrap();
        assert_eq!(chains.lock().len(), 1);
    }
}
