//! Shutdown, once for all tasks: stop taking new work, let what runs end, leave.
//!
//! Every task that must be waited for is spawned by [`Drain::spawn`]. [`Drain::start`] tells all of them (they watch
//! [`Drain::started`]); [`Drain::finish`] waits until the last is gone, at most the grace period. A task that ignores
//! the signal is cut off by the end of the process, never the other way round.

use std::future::Future;
use std::time::Duration;

use hyper_util::server::graceful::GracefulConnection;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The one shutdown of a process. Clones are the same drain.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    started: CancellationToken,
    tasks: TaskTracker,
}

impl Drain {
    pub fn new() -> Self {
        Self::default()
    }

    /// Spawns a task that [`Drain::finish`] waits for.
    #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
    pub fn spawn<F>(&self, task: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        tokio::spawn(self.tasks.track_future(task))
    }

    /// The same drain for a part of its work, which can be told to end before the rest; it is told with the rest too.
    pub fn part(&self) -> Self {
        Self { started: self.started.child_token(), tasks: self.tasks.clone() }
    }

    /// Tells every task to end. Idempotent.
    pub fn start(&self) {
        self.started.cancel();
    }

    /// Resolves once the drain has started; at once if it already has.
    pub async fn started(&self) {
        self.started.cancelled().await;
    }

    pub fn has_started(&self) -> bool {
        self.started.is_cancelled()
    }

    /// Serves an HTTP connection until it ends; from the start of the drain on it takes no new requests.
    ///
    /// # Errors
    /// Where the client breaks the protocol or the connection.
    pub async fn serve<C: GracefulConnection>(&self, connection: C) -> Result<(), C::Error> {
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            served = connection.as_mut() => return served,
            () = self.started() => {}
        }
        connection.as_mut().graceful_shutdown();
        connection.await
    }

    /// Waits until every spawned task has ended, at most `grace`; says whether all have.
    pub async fn finish(&self, grace: Duration) -> bool {
        self.tasks.close();
        tokio::time::timeout(grace, self.tasks.wait()).await.is_ok()
    }
}

/// hyper's tasks (one per HTTP/2 stream and connection) are waited for like all others.
impl<F> hyper::rt::Executor<F> for Drain
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        // They are large, one for each request, and on their way into a task they would be moved ten times.
        self.spawn(Box::pin(task));
    }
}

/// Resolves when the process is asked to end, by SIGTERM (Kubernetes) or SIGINT (a person).
///
/// # Errors
/// Where signal handlers cannot be installed.
pub async fn signal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn finish_waits_for_tasks_that_heed_the_start() {
        let drain = Drain::new();
        let task = drain.clone();
        drain.spawn(async move { task.started().await });
        drain.start();
        assert!(drain.finish(Duration::from_secs(1)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_ends_before_the_rest_or_with_it() {
        let drain = Drain::new();
        let [first, second] = [drain.part(), drain.part()];
        first.start();
        assert_eq!([first.has_started(), second.has_started(), drain.has_started()], [true, false, false]);
        second.spawn(std::future::pending::<()>());
        drain.start();
        assert!(second.has_started());
        assert!(!drain.finish(Duration::from_secs(1)).await, "what a part spawned is waited for");
    }

    #[tokio::test(start_paused = true)]
    async fn finish_gives_up_after_the_grace_period() {
        let drain = Drain::new();
        drain.spawn(std::future::pending::<()>());
        drain.start();
        assert!(!drain.finish(Duration::from_secs(1)).await);
    }
}
