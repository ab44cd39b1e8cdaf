//! Counts requests by the route of the ServiceProfile that they fall under.
//!
//! In: the target that a profile is of, the labels of a route, and each of its requests. Out: `route_*` of what apps asked, and
//! `route_actual_*` of what was asked of servers, with every retry. The series of a route are made by its first request.
//!
//! Start at [`ProfileRequests::start`].

use std::sync::{Arc, OnceLock};

use prometheus_client::registry::Registry;

use super::labels::Labels;
use super::requests::{self, Requests, Started};
use super::routes::Tally;
use super::{Event, Metrics};
use crate::mesh::connection::Direction;
use crate::mesh::profile::Classes;

/// The families of all routes.
#[derive(Debug)]
pub(super) struct Families {
    asked: requests::Families,
    actual: requests::Families,
}

impl Families {
    pub(super) fn registered(registry: &mut Registry) -> Self {
        let actual = "of a profile's route, with each retry";
        Self {
            asked: requests::Families::registered(registry, "route_", "of a profile's route"),
            actual: requests::Families::registered_without_latency(registry, "route_actual_", actual),
        }
    }
}

/// What is counted of one route.
#[derive(Debug)]
pub struct ProfileRequests {
    labels: Labels,
    classes: Classes,
    asked: OnceLock<Requests>,
    actual: OnceLock<Requests>,
    retryable: Tally,
}

impl ProfileRequests {
    /// Of a route of the profile of `dst`, with the labels that the profile gives it. Its `classes` say what a success is.
    pub fn new(direction: Direction, dst: &str, labels: &Labels, classes: Classes) -> Arc<Self> {
        let labels = Labels::direction(direction).and(&Labels::new([("dst", dst.to_owned())])).and(labels);
        let retryable = Tally::new(labels.clone());
        Arc::new(Self { labels, classes, asked: OnceLock::new(), actual: OnceLock::new(), retryable })
    }

    /// Counts a request now, and what becomes of it when told.
    pub fn start(&self, metrics: &Metrics) -> Started {
        self.requests(&self.asked, &metrics.profiles().asked).start()
    }

    /// Counts one attempt to have it answered.
    pub fn attempt(&self, metrics: &Metrics) -> Started {
        self.requests(&self.actual, &metrics.profiles().actual).start()
    }

    /// Counts a response for which the request is asked again, or would be if there were anything left of the budget.
    pub fn retryable(&self, metrics: &Metrics, has_budget: bool) {
        self.retryable.count_plain(metrics, Event::ProfileRetryable);
        if !has_budget {
            self.retryable.count(metrics, Event::ProfileRetryable, ("skipped", "no_budget"));
        }
    }

    fn requests<'a>(&self, made: &'a OnceLock<Requests>, families: &requests::Families) -> &'a Requests {
        made.get_or_init(|| families.classified(self.labels.clone(), self.classes.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::profile::ResponseCondition;
    use crate::proxy::metrics::Outcome;

    #[test]
    fn requests_of_a_route_are_counted_as_dashboards_know_them_and_judged_by_its_classes() {
        let metrics = Metrics::new();
        let classes = Classes::new(&[(ResponseCondition::Status(404..=404), true)]);
        let labels = Labels::new([("rt_route", "GET /books")]);
        let route = ProfileRequests::new(Direction::Outbound, "web.shop:80", &labels, classes);
        assert!(!metrics.encode().unwrap().contains("rt_route"), "a route that nobody uses is not shown");
        let outcome = |status, error: &'static str| Outcome { status, grpc_status: None, error: error.into() };
        route.attempt(&metrics).end(&outcome(503, ""));
        route.retryable(&metrics, true);
        let mut asked = route.start(&metrics);
        asked.also(route.attempt(&metrics));
        asked.end(&outcome(404, ""));
        route.retryable(&metrics, false);
        let text = metrics.encode().unwrap();
        let prefix = r#"{direction="outbound",dst="web.shop:80",rt_route="GET /books""#;
        let ended = |status, class| {
            format!(r#"{prefix},status_code="{status}",classification="{class}",grpc_status="",error=""}} 1"#)
        };
        for line in [
            format!("route_request_total{prefix}}} 1"),
            format!("route_response_total{}", ended(404, "failure")),
            format!(r#"route_response_latency_ms_count{prefix},status_code="404"}} 1"#),
            format!("route_actual_request_total{prefix}}} 2"),
            format!("route_actual_response_total{}", ended(503, "failure")),
            format!("route_actual_response_total{}", ended(404, "failure")),
            format!("route_retryable_total{prefix}}} 2"),
            format!(r#"route_retryable_total{prefix},skipped="no_budget"}} 1"#),
        ] {
            assert!(text.contains(&line), "{line} is not in:\n{text}");
        }
        assert!(!text.contains("route_actual_response_latency"), "{text}");
    }
}
