//! `hawser check`: is the mesh healthy?
//!
//! The checks are in [`crate::checks::list`]; here they are asked, asked again, and shown.

use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::output::{self, Glyph};
use super::{Global, Outcome};
use crate::checks::{self, Finding, Health, Severity, Stage, Verdict};
use crate::cluster::client::{self, Cluster};
use crate::cluster::snapshot::{self, Wanted};

/// Between two looks at a mesh that is not healthy yet: often enough that nobody waits for us.
const PAUSE: Duration = Duration::from_millis(200);
/// Of what speaks against a check, this many lines are for reading; JSON has all.
const EVIDENCE_LINES_MAX: usize = 10;

/// Check that the mesh is healthy
///
/// Looks at the cluster, the control plane, its certificates, the webhook and every proxy, all at once, and says what to do about
/// what is wrong. Exits with 1 where the mesh is not healthy, with 2 where that could not be told; warnings change nothing.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Check whether hawser can be installed, instead
    #[arg(long)]
    pre: bool,
    /// Only check the proxies of this namespace, beside the control plane [default: all]
    #[arg(long, short)]
    namespace: Option<String>,
    /// How to print what was found
    #[arg(long, short, default_value = "table")]
    output: Format,
    /// Wait for the mesh to become healthy, at most this long, such as 30s or 5m [without a value: 5m]
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "5m", value_parser = duration)]
    wait: Option<Duration>,
    /// All checks look at the proxies anyway
    #[arg(long, hide = true)]
    proxy: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Format {
    Json,
    /// Only what is not well
    Short,
    Table,
}

pub(super) fn run(global: &Global, args: &Args, out: &mut impl Write) -> anyhow::Result<Outcome> {
    let wanted = Wanted {
        control_namespace: global.hawser_namespace.clone(),
        namespace: args.namespace.clone(),
        stage: if args.pre { Stage::Before } else { Stage::Installed },
    };
    let deadline = Instant::now() + args.wait.unwrap_or_default();
    let findings = super::block_on(async {
        let cluster = connect(&global.cluster(), deadline).await?;
        Ok(Box::pin(until_healthy(&cluster, &wanted, deadline)).await)
    });
    let findings = match findings {
        Ok(findings) => findings,
        Err(error) => {
            // Whoever reads JSON finds there what the error says.
            if args.output == Format::Json {
                print(&[checks::unreachable(output::causes(error.as_ref()))], args.output, out)?;
            }
            return Err(error);
        }
    };
    print(&findings, args.output, out)?;
    Ok(match checks::health(&findings) {
        Health::Healthy => Outcome::Yes,
        Health::Unhealthy => Outcome::No,
        Health::Unknown => Outcome::Unknown,
    })
}

/// Connects, and tries again until the deadline while the API server is away.
async fn connect(options: &client::Options, deadline: Instant) -> Result<Cluster, client::Error> {
    let progress = output::spinner("connecting");
    loop {
        match client::connect(options).await {
            Err(error @ (client::Error::Unreachable { .. } | client::Error::NoAnswer { .. }))
                if Instant::now() + PAUSE < deadline =>
            {
                progress.set_message(format!("waiting: {error}"));
            }
            connected => return connected,
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Asks until all is well or the deadline; says what it waits for.
pub(super) async fn until_healthy(cluster: &Cluster, wanted: &Wanted, deadline: Instant) -> Vec<Finding> {
    let progress = output::spinner("checking");
    loop {
        let snapshot = Box::pin(snapshot::read(cluster, wanted)).await;
        let findings = checks::run(&snapshot, wanted.stage);
        if checks::health(&findings) == Health::Healthy || Instant::now() + PAUSE > deadline {
            return findings;
        }
        if let Some(first) =
            findings.iter().find(|finding| finding.check.severity == Severity::Error && !is_well(finding))
        {
            let evidence = evidence(&first.verdict).into_iter().next().unwrap_or_default();
            progress.set_message(format!("waiting: {}: {evidence}", first.check.title));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn is_well(finding: &Finding) -> bool {
    matches!(finding.verdict, Verdict::Passed | Verdict::PassedWith(_) | Verdict::Skipped)
}

/// What speaks against a check, or why it could not be told.
fn evidence(verdict: &Verdict) -> Vec<String> {
    match verdict {
        Verdict::Failed(evidence) => evidence.lines.clone(),
        Verdict::Unknown(why) => vec![format!("could not tell: {why}")],
        Verdict::Passed | Verdict::PassedWith(_) | Verdict::Skipped => Vec::new(),
    }
}

/// Prints what was found, but of what is well nothing.
pub(super) fn print_complaints(findings: &[Finding], out: &mut impl Write) -> anyhow::Result<()> {
    print(findings, Format::Short, out)
}

fn print(findings: &[Finding], format: Format, out: &mut impl Write) -> anyhow::Result<()> {
    if format == Format::Json {
        return output::json(&report(findings), out);
    }
    let colours = output::colours();
    for category in findings.chunk_by(|one, next| one.check.category == next.check.category) {
        let shown: Vec<_> = category.iter().filter(|finding| format == Format::Table || !is_well(finding)).collect();
        let Some(first) = shown.first() else { continue };
        writeln!(out, "{}\n{}", first.check.category, "-".repeat(first.check.category.len()))?;
        for finding in shown {
            writeln!(out, "{} {}", glyph(finding).paint(colours), finding.check.title)?;
            let evidence = evidence(&finding.verdict);
            for line in evidence.iter().take(EVIDENCE_LINES_MAX) {
                writeln!(out, "    {line}")?;
            }
            if evidence.len() > EVIDENCE_LINES_MAX {
                writeln!(out, "    and {} more", evidence.len() - EVIDENCE_LINES_MAX)?;
            }
            if !is_well(finding) {
                writeln!(out, "    hint: {}", finding.check.hint)?;
            }
        }
        writeln!(out)?;
    }
    let (glyph, why) = match checks::health(findings) {
        Health::Healthy => (Glyph::Good, ""),
        Health::Unhealthy => (Glyph::Bad, ""),
        Health::Unknown => (Glyph::Warning, " (not everything could be told)"),
    };
    writeln!(out, "Status check results are {}{why}", glyph.paint(colours))?;
    Ok(())
}

fn glyph(finding: &Finding) -> Glyph {
    match (&finding.verdict, finding.check.severity) {
        (Verdict::Failed(_), Severity::Error) => Glyph::Bad,
        (Verdict::Failed(_), Severity::Warning) | (Verdict::Unknown(_), _) => Glyph::Warning,
        (Verdict::Passed | Verdict::PassedWith(_) | Verdict::Skipped, _) => Glyph::Good,
    }
}

/// The keys people's scripts know (`categories`, `checks`, `description`, `result` …), and ours beside them.
fn report(findings: &[Finding]) -> Value {
    let health = checks::health(findings);
    let categories = findings.chunk_by(|one, next| one.check.category == next.check.category);
    json!({
        "success": health == Health::Healthy,
        "categories": categories.map(|category| json!({
            "categoryName": category[0].check.category,
            "checks": category.iter().map(check).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
    })
}

fn check(finding: &Finding) -> Value {
    let (result, value) = match (&finding.verdict, finding.check.severity) {
        (Verdict::Failed(evidence), Severity::Error) => ("error", evidence.value.clone()),
        (Verdict::Failed(evidence), Severity::Warning) => ("warning", evidence.value.clone()),
        (Verdict::Unknown(_), _) => ("unknown", Value::Null),
        (Verdict::PassedWith(value), _) => ("success", value.clone()),
        (Verdict::Passed | Verdict::Skipped, _) => ("success", Value::Null),
    };
    let mut check = json!({
        "id": finding.check.id,
        "description": finding.check.title,
        "severity": finding.check.severity,
        "result": result,
    });
    if !value.is_null() {
        check["value"] = value;
    }
    if !is_well(finding) {
        check["error"] = evidence(&finding.verdict).join("\n").into();
        check["evidence"] = evidence(&finding.verdict).into();
        check["hint"] = finding.check.hint.into();
    }
    check
}

/// `90s`, `5m` or `1h`.
fn duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("{text:?} is not a time such as 30s, 5m or 1h");
    let (number, unit) = text.split_at(text.len() - text.chars().next_back().ok_or_else(invalid)?.len_utf8());
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(invalid()),
    };
    let number: u64 = number.parse().map_err(|_| invalid())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::tests::{config_map, forbidden, healthy};
    use crate::manifest::names;

    fn printed(findings: &[Finding], format: Format) -> String {
        let mut out = Vec::new();
        print(findings, format, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_healthy_mesh_is_all_ticks() {
        let findings = checks::run(&healthy(), Stage::Installed);
        let text = printed(&findings, Format::Table);
        assert!(text.starts_with("kubernetes-api\n--------------\n√ can query the Kubernetes API\n"), "{text}");
        assert!(text.ends_with("\nStatus check results are √\n"), "{text}");
        assert_eq!(text.matches('√').count(), findings.len() + 1);
        assert_eq!(printed(&findings, Format::Short), "Status check results are √\n");
    }

    #[test]
    fn what_is_wrong_says_why_and_what_to_do() {
        let mut snapshot = healthy();
        snapshot.webhooks = Ok(vec![]);
        let text = printed(&checks::run(&snapshot, Stage::Installed), Format::Short);
        let expected = "\
hawser-webhook
--------------
× the injector's webhook is registered, with a CA
    there is no MutatingWebhookConfiguration `hawser-injector`
    hint: the injector writes the CA when it starts: `kubectl logs` of its pod tells what holds it up

Status check results are ×
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_warning_is_shown_and_changes_nothing() {
        let mut snapshot = healthy();
        snapshot.config_maps.as_mut().unwrap()[0] = config_map(names::CONFIG_MAP, &[("version", "0.0.9")]);
        let text = printed(&checks::run(&snapshot, Stage::Installed), Format::Short);
        assert!(text.contains("‼ the control plane and this command line") && text.ends_with("are √\n"), "{text}");
    }

    #[test]
    fn what_could_not_be_told_is_neither_well_nor_wrong() {
        let mut snapshot = healthy();
        snapshot.pods = forbidden();
        let findings = checks::run(&snapshot, Stage::Installed);
        let text = printed(&findings, Format::Short);
        assert!(text.contains("    could not tell: forbidden\n") && text.ends_with("(not everything could be told)\n"));
        assert_eq!(report(&findings)["success"], false);
    }

    #[test]
    fn json_has_ids_severities_and_values() {
        let mut snapshot = healthy();
        snapshot.kubernetes_version = Ok("v1.20.0".into());
        let value: Value =
            serde_json::from_str(&printed(&checks::run(&snapshot, Stage::Installed), Format::Json)).unwrap();
        assert_eq!(value["success"], false);
        let version = &value["categories"][1]["checks"][0];
        assert_eq!(version["id"], "kubernetes-version");
        assert_eq!((&version["result"], &version["severity"]), (&json!("error"), &json!("error")));
        assert_eq!(version["value"], "v1.20.0");
        assert_eq!(version["evidence"], json!(["it runs v1.20.0"]));
        let clock = &value["categories"][0]["checks"][1];
        assert_eq!((&clock["result"], &clock["value"]), (&json!("success"), &json!(0)));
        assert_eq!(clock.get("hint"), None);
    }

    #[test]
    fn long_evidence_is_cut_for_people_only() {
        let mut snapshot = healthy();
        snapshot.permissions =
            Ok(["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"].map(|one| (one, false)).into());
        let findings = checks::run(&snapshot, Stage::Before);
        assert!(printed(&findings, Format::Short).contains("    and 2 more\n"));
        assert!(printed(&findings, Format::Json).contains("may not create l"));
    }

    #[test]
    fn times_are_numbers_with_a_unit() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        for wrong in ["", "5", "m", "-1s", "5 m", "5µ"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
