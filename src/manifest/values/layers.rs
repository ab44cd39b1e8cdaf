//! How values are said: files, `--set a.b=c`, and what another version wrote.
//!
//! In: a tree, whose names are those of [`Values`]. Out: the values with that tree over them, or what is wrong with it, with the names that people may have
//! meant. Start at [`Values::layer`].

use serde_json::{Value, json};

use super::{Invalid, Values};
use crate::manifest::near::distance;
use crate::manifest::yaml;

/// Where people choose the keys themselves, so that any is fine.
const FREE: [&str; 3] = ["nodeSelector", "podLabels", "podAnnotations"];
impl Values {
    /// Lays `tree` over these values.
    ///
    /// # Errors
    /// Where it has a key that does not exist, or a value of the wrong kind.
    pub fn layer(&self, tree: &Value) -> Result<Self, Invalid> {
        let mut known = to_tree(self);
        check_keys(tree, &known, &mut Vec::new())?;
        merge(&mut known, tree);
        serde_json::from_value(known).map_err(|error| self.culprit(tree, &error))
    }

    /// Lays the one document of a values file over these values; an empty file changes nothing.
    ///
    /// # Errors
    /// As [`Values::layer`], or where the text is no YAML mapping.
    pub fn layer_file(&self, text: &str, name: &str) -> Result<Self, Invalid> {
        let mut values = self.clone();
        for document in yaml::parse(text)? {
            if !document.is_object() {
                return Err(Invalid::NotAMapping(name.into()));
            }
            values = values.layer(&document)?;
        }
        Ok(values)
    }

    /// Applies one `--set`: `a.b=c`, or several with commas between them. A comma that does not start another assignment is
    /// part of the value, so that lists of ports need no escapes.
    ///
    /// # Errors
    /// As [`Values::layer`].
    pub fn assign(&self, assignments: &str) -> Result<Self, Invalid> {
        let mut values = self.clone();
        for (path, text) in split_assignments(assignments)? {
            let outcome = values.layer(&nest(&path, typed(&text)));
            values = match outcome {
                // `--set image=1.0` is a text all the same.
                Err(Invalid::Value { .. }) => values.layer(&nest(&path, Value::String(text))).or(outcome)?,
                outcome => outcome?,
            };
        }
        Ok(values)
    }

    /// Reads the values of an installation, which another version may have written: what this version does not know, it leaves out.
    ///
    /// # Errors
    /// Where the text is no YAML mapping.
    pub fn read(text: &str) -> Result<Self, Invalid> {
        let known = to_tree(&Self::default());
        let mut values = Self::default();
        for document in yaml::parse(text)? {
            let Value::Object(map) = document else {
                return Err(Invalid::NotAMapping("the installation's configuration".into()));
            };
            for (path, value) in leaves(&Value::Object(map)) {
                if check_keys(&nest(&path, value.clone()), &known, &mut Vec::new()).is_ok()
                    && let Ok(layered) = values.layer(&nest(&path, value))
                {
                    values = layered;
                }
            }
        }
        Ok(values)
    }

    pub fn to_yaml(&self) -> String {
        yaml::write(&[to_tree(self)])
    }

    /// Which leaf of `tree` is at fault: the one that cannot even stand alone.
    fn culprit(&self, tree: &Value, error: &serde_json::Error) -> Invalid {
        for (path, value) in leaves(tree) {
            let mut known = to_tree(self);
            merge(&mut known, &nest(&path, value.clone()));
            if let Err(error) = serde_json::from_value::<Self>(known) {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                return Invalid::Value { path: path.join("."), value, why: error.to_string() };
            }
        }
        Invalid::Value { path: ".".into(), value: String::new(), why: error.to_string() }
    }
}

fn to_tree(values: &Values) -> Value {
    serde_json::to_value(values).expect("values have only text keys")
}

fn merge(known: &mut Value, tree: &Value) {
    match (known, tree) {
        (Value::Object(known), Value::Object(tree)) => {
            for (key, value) in tree {
                merge(known.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (known, tree) => *known = tree.clone(),
    }
}

fn check_keys(tree: &Value, known: &Value, path: &mut Vec<String>) -> Result<(), Invalid> {
    let (Value::Object(tree), Value::Object(known)) = (tree, known) else { return Ok(()) };
    if FREE.contains(&path.join(".").as_str()) {
        return Ok(());
    }
    for (key, value) in tree {
        path.push(key.clone());
        let Some(below) = known.get(key) else {
            let path = path.join(".");
            return Err(Invalid::Unknown { near: near(&path), path });
        };
        check_keys(value, below, path)?;
        path.pop();
    }
    Ok(())
}

/// The values that people may have meant by `path`, the nearest first.
fn near(path: &str) -> Vec<String> {
    // Of two names that are further apart than this, nobody mistypes one for the other.
    const DISTANCE_MAX: usize = 3;
    let known = to_tree(&Values::default());
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_lowercase();
    let mut near: Vec<(usize, String)> = paths(&known)
        .into_iter()
        .filter_map(|known| {
            let same_name = last(&known) == last(path);
            let distance = if same_name {
                0
            } else {
                distance(&known.to_lowercase(), &path.to_lowercase()).min(distance(&last(&known), &last(path)) + 1)
            };
            (distance <= DISTANCE_MAX.min(path.len() / 2)).then_some((distance, known))
        })
        .collect();
    near.sort();
    near.truncate(3);
    near.into_iter().map(|(_, path)| path).collect()
}

fn paths(tree: &Value) -> Vec<String> {
    let Value::Object(map) = tree else { return Vec::new() };
    map.iter()
        .flat_map(|(key, value)| {
            std::iter::once(key.clone()).chain(paths(value).into_iter().map(move |below| format!("{key}.{below}")))
        })
        .collect()
}

fn nest(path: &[String], value: Value) -> Value {
    path.iter().rev().fold(value, |value, key| json!({ key: value }))
}

/// The values of `tree` with their paths; what people choose the keys of is one value.
fn leaves(tree: &Value) -> Vec<(Vec<String>, Value)> {
    fn walk(tree: &Value, path: &mut Vec<String>, found: &mut Vec<(Vec<String>, Value)>) {
        match tree {
            Value::Object(map) if !map.is_empty() && !FREE.contains(&path.join(".").as_str()) => {
                for (key, value) in map {
                    path.push(key.clone());
                    walk(value, path, found);
                    path.pop();
                }
            }
            value => found.push((path.clone(), value.clone())),
        }
    }
    let mut found = Vec::new();
    walk(tree, &mut Vec::new(), &mut found);
    found
}

/// What YAML makes of a value: `5` is a number, `[{operator: Exists}]` a list, and nothing at all unsets.
fn typed(text: &str) -> Value {
    match yaml::parse(text).as_deref() {
        Ok([value]) => value.clone(),
        Ok([]) if !text.starts_with('#') => Value::Null,
        _ => text.into(),
    }
}

fn split_assignments(text: &str) -> Result<Vec<(Vec<String>, String)>, Invalid> {
    let invalid = || Invalid::Assignment(text.into());
    let mut found: Vec<(Vec<String>, String)> = Vec::new();
    let is_path = |path: &str| {
        !path.is_empty()
            && path.chars().all(|c| c.is_ascii_alphanumeric() || "._-/\\".contains(c))
            && !path.starts_with('.')
    };
    for piece in text.split(',') {
        match piece.split_once('=') {
            Some((path, value)) if is_path(path.trim()) => found.push((split_path(path.trim()), value.into())),
            _ => {
                let (_, value) = found.last_mut().ok_or_else(invalid)?;
                value.push(',');
                value.push_str(piece);
            }
        }
    }
    Ok(found)
}

/// `a.b` as its names; `\.` is a dot in a name, as in `nodeSelector.kubernetes\.io/os`.
fn split_path(path: &str) -> Vec<String> {
    let mut names = vec![String::new()];
    let mut chars = path.chars();
    while let Some(c) = chars.next() {
        match c {
            '.' => names.push(String::new()),
            c => {
                let c = if c == '\\' { chars.next().unwrap_or(c) } else { c };
                names.last_mut().expect("there is always one").push(c);
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::values::Ports;

    #[test]
    fn later_layers_win_and_leave_the_rest() {
        let values = Values::default()
            .layer_file("proxy:\n  logLevel: debug\n  resources: {cpu: {limit: \"1\"}}\ncontrollerReplicas: 2\n", "a")
            .unwrap()
            .assign("controllerReplicas=5,proxy.opaquePorts=25,587,proxy.await=false")
            .unwrap();
        assert_eq!(values.controller_replicas, 5);
        assert_eq!(values.proxy.opaque_ports, "25,587");
        assert!(!values.proxy.await_ready);
        assert_eq!(values.proxy.log_level, "debug");
        assert_eq!(values.proxy.resources.to_requirements(), json!({"limits": {"cpu": "1"}}));
        assert_eq!(values.proxy.ports, Ports::default());
    }

    #[test]
    fn a_number_can_be_meant_as_text() {
        let values = Values::default().assign("image=1.0").unwrap().assign("proxy.resources.cpu.limit=2").unwrap();
        assert_eq!((values.image.as_str(), values.proxy.resources.cpu.limit.as_deref()), ("1.0", Some("2")));
    }

    #[test]
    fn lists_and_free_maps_can_be_set() {
        let values = Values::default()
            .assign("tolerations=[{operator: Exists}]")
            .unwrap()
            .assign("nodeSelector.example\\.com/pool=mesh")
            .unwrap();
        assert_eq!(values.tolerations, [json!({"operator": "Exists"})]);
        assert_eq!(values.node_selector["example.com/pool"], "mesh");
    }

    #[test]
    fn nothing_unsets_and_what_is_no_yaml_is_text() {
        let domain = |text: &str| {
            let set = Values::default().assign("identityTrustDomain=a.b").unwrap();
            set.assign(&format!("identityTrustDomain={text}")).unwrap().identity_trust_domain
        };
        assert_eq!((domain(""), domain("null")), (None, None));
        for text in ["#x", "[", "a: b", "yes"] {
            assert_eq!(domain(text).as_deref(), Some(text));
        }
    }

    #[test]
    fn refuses_an_unknown_key_and_names_the_near_ones() {
        let said = |assignment: &str| Values::default().assign(assignment).unwrap_err().to_string();
        assert_eq!(said("proxy.loglevel=x"), "unknown value `proxy.loglevel`; did you mean `proxy.logLevel`?");
        assert_eq!(
            said("controlerReplicas=3"),
            "unknown value `controlerReplicas`; did you mean `controllerReplicas`?"
        );
        assert_eq!(said("entirelyOther.thing=3"), "unknown value `entirelyOther`");
    }

    #[test]
    fn refuses_a_value_of_the_wrong_kind_with_its_path() {
        let refused = Values::default().layer_file("image: a\nproxy: {uid: many}\n", "a").unwrap_err().to_string();
        assert!(refused.starts_with("the value `proxy.uid` cannot be `many`: invalid type: string"), "{refused}");
        let refused = Values::default().assign("webhookFailurePolicy=Never").unwrap_err().to_string();
        assert!(refused.contains("expected `Fail` or `Ignore`"), "{refused}");
        let refused = Values::default().assign("proxy=3").unwrap_err().to_string();
        assert!(refused.starts_with("the value `proxy` cannot be `3`"), "{refused}");
    }

    #[test]
    fn refuses_what_is_no_assignment_and_no_mapping() {
        for text in ["", "image", "=x", ".a=b"] {
            assert!(matches!(Values::default().assign(text), Err(Invalid::Assignment(_))), "{text:?}");
        }
        assert!(matches!(Values::default().layer_file("- a\n", "a"), Err(Invalid::NotAMapping(_))));
    }

    #[test]
    fn reads_what_another_version_wrote() {
        let text = "image: x:1\nfromTheFuture: {a: 1}\nproxy: {uid: not-a-number, logLevel: debug}\n";
        let values = Values::read(text).unwrap();
        assert_eq!((values.image.as_str(), values.proxy.uid, values.proxy.log_level.as_str()), ("x:1", 2102, "debug"));
    }

    #[test]
    fn writes_what_it_reads() {
        let mut values = Values::default();
        values.make_highly_available();
        assert_eq!(Values::read(&values.to_yaml()).unwrap(), values);
    }
}
