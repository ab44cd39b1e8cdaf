//! Follows what the control plane says of one target: its profile, its policy, and the endpoints of what it balances over.
//!
//! In: the streams of the control plane. Out: the target's [`super::Plan`], made anew with each thing that is learnt.
//!
//! Start at [`Shared::look_up`].

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use prometheus_client::metrics::gauge::Gauge;
use tonic::{Code, Status};

use super::lookups::Lookups;
use super::{Answer, PROFILE_PATIENCE, Place, Shared, TargetState, lock};
use crate::proxy::backend::{Backend, Spec};
use crate::proxy::subscription::{self, Event, Limits};
use crate::wire::destination::GetDestination;
use crate::wire::outbound::{TrafficSpec, traffic_spec};

impl Shared {
    /// Follows what is said of a target, for as long as it is polled.
    pub(super) async fn look_up(self: &Arc<Self>, place: &Place, has_profile: bool, state: &TargetState) {
        let profile = async {
            if !has_profile {
                return;
            }
            let question = GetDestination {
                path: place.to_string(),
                context_token: self.settings.context.clone(),
                ..Default::default()
            };
            let is_final = |code| matches!(code, Code::InvalidArgument | Code::FailedPrecondition);
            let ask = || (self.control.profile)(question.clone());
            let learn = |profile| self.replan(state, |lookups| lookups.profile(profile));
            let refused = self
                .follow(
                    &format!("the profile of {place}"),
                    self.settings.limits,
                    &state.interrupted,
                    is_final,
                    ask,
                    learn,
                )
                .await;
            tracing::debug!(%place, status = %refused, "a target has no profile");
            self.replan(state, Lookups::no_profile);
        };
        let policy = async {
            let target = match place {
                Place::Address(address) => traffic_spec::Target::Addr((*address).into()),
                Place::Name(name) => traffic_spec::Target::Authority(name.to_string()),
            };
            let question = TrafficSpec { source_workload: self.settings.workload.clone(), target: Some(target) };
            let is_final = |code| {
                matches!(code, Code::InvalidArgument | Code::FailedPrecondition | Code::NotFound | Code::Unimplemented)
            };
            let ask = || (self.control.policy)(question.clone());
            let learn = |policy| self.replan(state, |lookups| lookups.policy(policy));
            let refused = self
                .follow(
                    &format!("the policy of {place}"),
                    self.settings.limits,
                    &state.interrupted,
                    is_final,
                    ask,
                    learn,
                )
                .await;
            self.replan(state, |lookups| lookups.no_policy(&refused));
        };
        let patience = async {
            // Only from when there can be a plan without it.
            let mut plan = state.lookups_changed();
            while !lock(&state.lookups).can_do_without_profile() {
                if plan.changed().await.is_err() {
                    return;
                }
            }
            tokio::time::sleep(PROFILE_PATIENCE).await;
            self.replan(state, Lookups::profile_is_late);
        };
        tokio::join!(profile, policy, patience);
    }

    /// Learns something of a target, and makes the plan that follows from it.
    fn replan(self: &Arc<Self>, state: &TargetState, learn: impl FnOnce(&mut Lookups)) {
        let mut lookups = lock(&state.lookups);
        learn(&mut lookups);
        let before = state.plan.borrow().clone();
        let held = before.as_ref().map(|plan| plan.backends.as_slice()).unwrap_or_default();
        let plan = lookups.plan(&mut |spec| self.backend(spec, held));
        drop(lookups);
        match plan {
            Some(plan) => drop(state.plan.send_replace(Some(Arc::new(plan)))),
            // Wakes those who watch what has been looked up.
            None => state.plan.send_modify(|_| {}),
        }
    }

    /// The backend that `spec` says: one that is `held` already or in use for another target, else a new one.
    pub(super) fn backend(self: &Arc<Self>, spec: Spec, held: &[Arc<Backend>]) -> Arc<Backend> {
        if let Some(backend) = held.iter().find(|backend| backend.spec == spec) {
            return backend.clone();
        }
        let Spec::Balance { authority, .. } = &spec else {
            return Arc::new(Backend::new(spec, self.connector.clone(), self.settings.queues));
        };
        let authority = authority.clone();
        let mut balances = lock(&self.balances);
        if let Some(backend) = balances.get(&authority).and_then(Weak::upgrade)
            && backend.spec == spec
        {
            return backend;
        }
        let backend = Arc::new(Backend::new(spec, self.connector.clone(), self.settings.queues));
        balances.insert(authority.clone(), Arc::downgrade(&backend));
        drop(balances);
        let (shared, weak, stopped) = (self.clone(), Arc::downgrade(&backend), backend.stopped());
        let interrupted = backend.interrupted.clone();
        self.connector.drain.spawn(async move {
            tokio::select! {
                () = shared.follow_endpoints(authority, weak, &interrupted) => {}
                () = stopped.cancelled() => {}
                () = shared.connector.drain.started() => {}
            }
        });
        backend
    }

    async fn follow_endpoints(&self, authority: String, backend: Weak<Backend>, interrupted: &AtomicUsize) {
        let question = GetDestination {
            path: authority.clone(),
            context_token: self.settings.context.clone(),
            ..Default::default()
        };
        // The stock control plane says nothing at all of a service without endpoints: silence is no reason to ask again.
        let limits = Limits { initial: None, idle: None, ..self.settings.limits };
        let is_final = |code| matches!(code, Code::InvalidArgument | Code::FailedPrecondition);
        let ask = || {
            if let Some(backend) = backend.upgrade() {
                backend.updates_anew();
            }
            (self.control.endpoints)(question.clone())
        };
        let learn = |update| {
            if let Some(backend) = backend.upgrade() {
                backend.update(update);
            }
        };
        let refused =
            self.follow(&format!("the endpoints of {authority}"), limits, interrupted, is_final, ask, learn).await;
        tracing::info!(authority, status = %refused, "a service has no endpoints that the control plane would tell");
        if let Some(backend) = backend.upgrade() {
            backend.refuse(refused.to_string());
        }
    }

    /// Follows one stream until its question is refused for good; counts it while it is interrupted, in all and in `own`.
    async fn follow<T>(
        &self,
        what: &str,
        limits: Limits,
        own: &AtomicUsize,
        is_final: impl Fn(Code) -> bool,
        ask: impl Fn() -> Answer<T>,
        learn: impl Fn(T),
    ) -> Status {
        let mut interrupted = Interrupted::new(&self.interrupted, own);
        subscription::follow(limits, is_final, ask, |event| match event {
            Event::Message(message) => {
                interrupted.set(false);
                learn(message);
            }
            Event::Interrupted(status) => {
                tracing::debug!(%status, "the stream about {what} is interrupted");
                interrupted.set(is_away(&status));
            }
        })
        .await
    }
}

/// Whether a stream ended for want of a control plane. One that says it does not know is there, and may yet learn.
fn is_away(status: &Status) -> bool {
    status.code() != Code::NotFound
}

/// One stream's part in the counts of those that are interrupted: of all, and of its own target or backend.
struct Interrupted<'a> {
    all: &'a Gauge,
    own: &'a AtomicUsize,
    is: bool,
}

impl<'a> Interrupted<'a> {
    fn new(all: &'a Gauge, own: &'a AtomicUsize) -> Self {
        Self { all, own, is: false }
    }

    fn set(&mut self, is: bool) {
        match (self.is, is) {
            (false, true) => {
                self.all.inc();
                self.own.fetch_add(1, Ordering::Relaxed);
            }
            (true, false) => {
                self.all.dec();
                self.own.fetch_sub(1, Ordering::Relaxed);
            }
            _ => {}
        }
        self.is = is;
    }
}

impl Drop for Interrupted<'_> {
    fn drop(&mut self) {
        self.set(false);
    }
}
