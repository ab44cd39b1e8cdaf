//! Knocks at an endpoint that could not be reached, with growing pauses, until it answers.

use std::sync::Weak;
use std::time::Duration;

use super::{Backend, Kind};
use crate::net::backoff::Backoff;
use crate::proxy::client::http::Client;

/// An endpoint that was just restarted is back in well under a second;
const PROBE_FIRST: Duration = Duration::from_millis(100);
/// and one that stays away is worth a connection attempt a minute.
const PROBE_LONGEST: Duration = Duration::from_secs(60);

/// Knocks at an endpoint until it answers, or nobody wants to know any more.
pub(super) async fn until_it_answers(backend: Weak<Backend>, client: Weak<Client>) {
    let mut backoff = Backoff::new(PROBE_FIRST, PROBE_LONGEST);
    loop {
        tokio::time::sleep(backoff.delay()).await;
        let Some(client) = client.upgrade() else { return };
        if let Err(error) = client.probe().await {
            tracing::debug!(address = %client.endpoint.address, %error, "an endpoint is still out of reach");
            continue;
        }
        let Some(backend) = backend.upgrade() else { return };
        if let Kind::Balance(balance) = &backend.kind {
            balance.lock().balancer.put_in(client.endpoint.address, &client, std::time::Instant::now());
            balance.changed.send_replace(());
        }
        return;
    }
}
