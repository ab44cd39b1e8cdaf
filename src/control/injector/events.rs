//! Leaves word at workloads of what became of their pods. Best effort: a word that cannot be left is no harm, and no pod waits for it.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::super::Role;
use crate::manifest::names::INJECTOR;

/// While the API server is slow, more than these are dropped: workloads that start a thousand pods repeat themselves.
const QUEUE_MAX: usize = 256;
const API_TIMEOUT: Duration = Duration::from_secs(5);
/// The API server refuses events of more than 1 KiB.
const NOTE_CHARS_MAX: usize = 900;

/// Where words are handed in.
#[derive(Clone)]
pub struct Events(Option<mpsc::Sender<(Event, ObjectReference)>>);

impl Events {
    /// Leaves no word anywhere.
    pub fn none() -> Self {
        Self(None)
    }

    pub(super) fn start(role: &Role) -> Self {
        let (sender, mut queue) = mpsc::channel(QUEUE_MAX);
        let recorder = Recorder::new(role.client.clone(), INJECTOR.into());
        let drain = role.drain.clone();
        role.drain.spawn(async move {
            loop {
                let (event, about) = tokio::select! {
                    next = queue.recv() => match next { Some(next) => next, None => return },
                    () = drain.started() => return,
                };
                match timeout(API_TIMEOUT, recorder.publish(&event, &about)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%error, "cannot record an event"),
                    Err(_) => tracing::debug!("cannot record an event in time"),
                }
            }
        });
        Self(Some(sender))
    }

    pub(super) fn record(&self, about: ObjectReference, is_warning: bool, reason: &str, note: &str) {
        let event = Event {
            type_: if is_warning { EventType::Warning } else { EventType::Normal },
            reason: reason.into(),
            note: Some(note.chars().take(NOTE_CHARS_MAX).collect()),
            action: "Inject".into(),
            secondary: None,
        };
        if let Some(queue) = &self.0 {
            let _ = queue.try_send((event, about));
        }
    }
}
