//! The metrics of a proxy, as dashboards rely on them: names, labels and buckets, without the values.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::eventually;

const SOON: Duration = Duration::from_secs(30);

/// Waits until what `scrape` shows has the names, labels and buckets of the golden file `name`. `UPDATE_GOLDEN=1` writes the file anew.
#[track_caller]
pub(crate) fn are_golden(name: &str, scrape: impl Fn() -> String) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/metrics").join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        // What is counted when a body has ended is counted by then.
        std::thread::sleep(Duration::from_secs(2));
        std::fs::write(&path, shape(&scrape())).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    eventually(&format!("the metrics are those of {}", path.display()), SOON, || {
        let shape = shape(&scrape());
        if shape == golden { Ok(()) } else { Err(shape) }
    });
}

/// A line for each name with its labels; for histograms with their bounds, too.
fn shape(text: &str) -> String {
    let mut shapes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, _) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.strip_suffix('}').and_then(|series| series.split_once('{')).unwrap_or((series, ""));
        let (mut keys, mut bound) = (Vec::new(), None);
        for label in labels.split("\",").filter(|label| !label.is_empty()) {
            let (key, value) = label.split_once("=\"").unwrap();
            match key {
                "le" => bound = Some(value.trim_end_matches('"').to_owned()),
                key => keys.push(key),
            }
        }
        let bounds = shapes.entry(format!("{name}{{{}}}", keys.join(","))).or_default();
        bounds.extend(bound.filter(|bound| !bounds.contains(bound)));
    }
    let line = |(series, bounds): (String, Vec<String>)| match bounds.as_slice() {
        [] => series + "\n",
        bounds => format!("{series} {}\n", bounds.join(" ")),
    };
    shapes.into_iter().map(line).collect()
}
