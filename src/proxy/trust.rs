//! Learns whom to believe while the proxy runs: the identity role tells the bundle and each change of it, so that a new anchor needs no restart.
//!
//! In: the stream of the identity role, over mutual TLS. Out: the bundle on the watch channel that every handshake looks at, and in a file that a
//! restarted container starts from: what the pod was created with may be an anchor that is gone by then. A text that is no bundle changes
//! nothing. A control plane that knows no such stream is asked again from time to time, for it may be replaced by one that does.
//!
//! The first message of each stream is an answer, and says when it was sent: by that the [`Clock`] is measured.
//!
//! Start at [`follow`].

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tonic::Code;

use super::clock::Clock;
use super::control::{Channel, InvalidControl};
use super::metrics::Metrics;
use super::settings::ControlAddr;
use super::subscription::{self, Event, Limits};
use super::tls::Tls;
use crate::mesh::Identity;
use crate::mesh::clock::Offset;
use crate::net::drain::Drain;
use crate::pki::Bundle;
use crate::wire::trust::{WatchRequest, watch as subscribe};

/// How often a control plane that does not know our API is asked whether it does now: once per proxy of the cluster is not much then.
const ASK_AGAIN: Duration = Duration::from_secs(15 * 60);
/// The name of the file in the folder that the proxy may write to.
const FILE: &str = "hawser-trust-bundle.crt";

/// Who tells, and where it is kept.
#[derive(Clone, Debug)]
pub struct Settings {
    pub service: ControlAddr,
    /// The identity the service must prove; none for one in this pod.
    pub server: Option<Identity>,
    /// A folder that outlives the container, but not the pod. None: nothing is kept.
    pub folder: Option<PathBuf>,
    pub limits: Limits,
}

/// Keeps `bundle` what the identity role says, until `drain` starts. `tls` must be made of its receiver.
///
/// # Errors
/// Where the service cannot be asked at all.
pub async fn follow(
    settings: Settings,
    tls: Tls,
    bundle: watch::Sender<Arc<Bundle>>,
    clock: Clock,
    metrics: Metrics,
    drain: Drain,
) -> Result<(), InvalidControl> {
    // When it was asked, until it is answered.
    let asked_at = Mutex::new(None);
    let note =
        |at: Option<Instant>| std::mem::replace(&mut *asked_at.lock().unwrap_or_else(PoisonError::into_inner), at);
    let stop = drain.clone();
    let following = async {
        loop {
            // Let go of between two long waits: a stock control plane should not hold a connection for nothing.
            let channel = Channel::new(settings.service.clone(), settings.server.clone(), &tls, drain.clone())?;
            let channel = channel.counted(&metrics);
            let status = subscription::follow(
                settings.limits,
                |code| code == Code::Unimplemented,
                || {
                    let (channel, bundle_sha256) = (channel.clone(), bundle.borrow().sha256_hex());
                    async move {
                        // Not the time that connecting takes, which tells nothing of the clock.
                        channel.connected().await?;
                        note(Some(Instant::now()));
                        subscribe(channel, WatchRequest { bundle_sha256 }).await
                    }
                },
                |event| match event {
                    Event::Message(told) => {
                        let round_trip = note(None).map(|asked_at| asked_at.elapsed());
                        let offset = round_trip.and_then(|round_trip| {
                            Offset::measure(told.sent_at_ms, SystemTime::now(), round_trip)
                        });
                        if let Some(offset) = offset {
                            clock.observe(offset);
                        }
                        adopt(&told.pem, &bundle, settings.folder.as_deref());
                    }
                    Event::Interrupted(status) => {
                        tracing::debug!(code = ?status.code(), message = status.message(), "the stream of the bundle was interrupted");
                    }
                },
            )
            .await;
            tracing::info!(message = status.message(), "the control plane does not tell the bundle live");
            sleep(ASK_AGAIN.mul_f64(rand::random_range(0.5..1.5))).await;
        }
    };
    tokio::select! {
        ended = following => ended,
        () = stop.started() => Ok(()),
    }
}

fn adopt(pem: &str, bundle: &watch::Sender<Arc<Bundle>>, folder: Option<&Path>) {
    let told = match Bundle::parse_pem(pem) {
        Ok(told) => told,
        Err(error) => {
            return tracing::warn!(%error, "the identity role told a bundle that is none; keeping the one there is");
        }
    };
    let sha256 = told.sha256_hex();
    if let Some(folder) = folder
        && let Err(error) = keep(&told, folder)
    {
        tracing::warn!(%error, folder = %folder.display(), "cannot keep the bundle for a restart of this container");
    }
    let is_new = bundle.send_if_modified(|held| {
        let is_new = **held != told;
        if is_new {
            *held = Arc::new(told);
        }
        is_new
    });
    if is_new {
        tracing::info!(bundle = sha256, "believing what the new bundle vouches for");
    }
}

/// Some kilobytes into memory: not worth a thread of its own.
fn keep(bundle: &Bundle, folder: &Path) -> io::Result<()> {
    let (text, file) = (bundle.to_pem(), folder.join(FILE));
    if std::fs::read(&file).is_ok_and(|kept| kept == text.as_bytes()) {
        return Ok(());
    }
    // A rename, so that nobody starts from half a bundle.
    let unfinished = folder.join(format!("{FILE}.unfinished"));
    std::fs::write(&unfinished, text)?;
    std::fs::rename(&unfinished, &file)
}

/// The bundle that this pod's proxy was told last, before its container was restarted.
pub fn kept(folder: &Path) -> Option<Bundle> {
    Bundle::parse_pem(&std::fs::read_to_string(folder.join(FILE)).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::pki::Anchor;

    fn pem() -> String {
        Anchor::create("cluster.local", SystemTime::UNIX_EPOCH).unwrap().certificate().to_pem()
    }

    #[test]
    fn a_new_bundle_is_believed_and_kept_for_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (pem(), pem());
        let bundle = watch::Sender::new(Arc::new(Bundle::parse_pem(&first).unwrap()));
        assert_eq!(kept(folder.path()), None);
        let both = Bundle::parse_pem(&format!("{first}{second}")).unwrap();
        let mut seen = bundle.subscribe();
        adopt(&both.to_pem(), &bundle, Some(folder.path()));
        assert!(seen.has_changed().unwrap() && **seen.borrow_and_update() == both);
        assert_eq!(kept(folder.path()), Some(both.clone()));
        adopt(&both.to_pem(), &bundle, Some(folder.path()));
        assert!(!seen.has_changed().unwrap(), "told the same again");
    }

    #[test]
    fn what_is_no_bundle_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let first = Bundle::parse_pem(&pem()).unwrap();
        let bundle = watch::Sender::new(Arc::new(first.clone()));
        for told in ["", "no certificate", "-----BEGIN CERTIFICATE-----"] {
            adopt(told, &bundle, Some(folder.path()));
            assert!(**bundle.borrow() == first && kept(folder.path()).is_none());
        }
        std::fs::write(folder.path().join(FILE), "broken").unwrap();
        assert_eq!(kept(folder.path()), None);
    }
}
