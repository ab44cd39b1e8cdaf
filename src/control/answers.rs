//! Streams of answers: the present one at once, and another each time it has changed.
//!
//! Nothing is queued: a subscriber that reads slowly is told the latest when it reads again.

use std::sync::Arc;

use futures_util::stream::{self, Stream};
use tonic::Status;

use super::index::{Index, Topic};
use crate::net::drain::Drain;

/// Refuses to answer from an index that has not heard everything yet. Proxies ask again.
pub(super) fn only_if_complete(index: &Index) -> Result<(), Status> {
    if index.is_complete() { Ok(()) } else { Err(Status::unavailable("the cluster is still being listed")) }
}

/// Asks `answer` now and whenever `topic` has changed; ends with its first refusal, or the drain.
pub(super) fn answers<T, A>(
    index: Arc<Index>,
    topic: Topic,
    drain: Drain,
    answer: A,
) -> impl Stream<Item = Result<T, Status>>
where
    T: Clone + PartialEq + Send,
    A: Fn(&Index) -> Result<T, Status> + Send,
{
    let changes = index.subscribe(topic);
    let start = Some((index, changes, None::<T>, answer));
    stream::unfold(start, move |state| {
        let drain = drain.clone();
        async move {
            let (index, mut changes, mut told, answer) = state?;
            loop {
                if told.is_some() {
                    tokio::select! {
                        changed = changes.changed() => changed.ok()?,
                        () = drain.started() => return None,
                    }
                } else {
                    changes.mark_unchanged();
                }
                match answer(&index) {
                    Err(status) => return Some((Err(status), None)),
                    Ok(answered) if told.as_ref() == Some(&answered) => {}
                    Ok(answered) => {
                        told = Some(answered.clone());
                        return Some((Ok(answered), Some((index, changes, told, answer))));
                    }
                }
            }
        }
    })
}
