//! Knows whom people mean by the owner of a pod, from names alone: nobody needs to ask the cluster for it.
//!
//! In: kind and name of the object that controls a pod. Out: the workload behind it, where its controller names what it makes after itself.

/// Minutes since 1970, as CronJobs put them into the names of their Jobs: from 2017 to 2065, so that no other number of
/// that many digits is often taken for a time.
const SCHEDULED_MINUTES: std::ops::Range<u32> = 25_000_000..50_000_000;

/// The workload behind the object that controls a pod. `template_hash` is the pod's label `pod-template-hash`.
///
/// A Deployment names its ReplicaSets after itself and the hash it puts on their pods, a CronJob its Jobs after itself and their minute.
pub fn behind<'a>(kind: &'a str, name: &'a str, template_hash: Option<&str>) -> (&'a str, &'a str) {
    let maker = match kind {
        "ReplicaSet" => template_hash
            .and_then(|hash| name.strip_suffix(hash)?.strip_suffix('-'))
            .map(|deployment| ("Deployment", deployment)),
        "Job" => name.rsplit_once('-').and_then(|(cron_job, minute)| {
            let is_time = minute.parse().is_ok_and(|minute| SCHEDULED_MINUTES.contains(&minute));
            is_time.then_some(("CronJob", cron_job))
        }),
        _ => None,
    };
    maker.filter(|(_, name)| !name.is_empty()).unwrap_or((kind, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deployments_and_cron_jobs_are_told_by_the_names_of_what_they_make() {
        assert_eq!(behind("ReplicaSet", "web-7d9f", Some("7d9f")), ("Deployment", "web"));
        assert_eq!(behind("Job", "backup-29512345", None), ("CronJob", "backup"));
    }

    #[test]
    fn what_somebody_else_named_is_itself() {
        for (kind, name, hash) in [
            ("ReplicaSet", "web-7d9f", None),
            ("ReplicaSet", "web-7d9f", Some("5c6b")),
            ("ReplicaSet", "-7d9f", Some("7d9f")),
            ("Job", "backup", None),
            ("Job", "backup-2", None),
            ("Job", "backup-20261123", None),
            ("Job", "-29512345", None),
            ("StatefulSet", "db-29512345", None),
        ] {
            assert_eq!(behind(kind, name, hash), (kind, name));
        }
    }
}
