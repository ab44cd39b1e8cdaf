//! Puts values into a parsed template.
//!
//! In: a document whose scalars hold `${name}`, and the values by name. Out: the document, filled. Values go in after parsing, so none
//! can break the document, whatever is in it. A scalar that is nothing but `${name}` takes the value's type; an entry whose value turns out null is
//! left out, which is how a template says "only if set".

use std::collections::BTreeMap;

use serde_json::Value;

/// A name in a template that no value was given for.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("the template wants a value for `{0}`, and there is none")]
pub struct Unfilled(pub String);

/// What goes into templates, by name.
pub type Fillings = BTreeMap<&'static str, Value>;

/// Fills every `${name}` of `node`.
///
/// # Errors
/// Where a name has no value.
pub fn fill(node: &mut Value, fillings: &Fillings) -> Result<(), Unfilled> {
    match node {
        Value::String(text) => {
            if let Some(filled) = fill_text(text, fillings)? {
                *node = filled;
            }
        }
        Value::Array(items) => {
            for item in items {
                fill(item, fillings)?;
            }
        }
        Value::Object(map) => {
            for value in map.values_mut() {
                fill(value, fillings)?;
            }
            map.retain(|_, value| !value.is_null());
        }
        _ => {}
    }
    Ok(())
}

fn fill_text(text: &str, fillings: &Fillings) -> Result<Option<Value>, Unfilled> {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, (name, after))) =
        rest.split_once("${").and_then(|(before, after)| Some((before, after.split_once('}')?)))
    {
        let value = fillings.get(name).ok_or_else(|| Unfilled(name.into()))?;
        if before.is_empty() && after.is_empty() && rest.len() == text.len() {
            return Ok(Some(value.clone()));
        }
        filled.push_str(before);
        match value {
            Value::String(value) => filled.push_str(value),
            value => filled.push_str(&value.to_string()),
        }
        rest = after;
    }
    if rest.len() == text.len() {
        return Ok(None);
    }
    filled.push_str(rest);
    Ok(Some(filled.into()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_lone_name_keeps_its_type_and_null_leaves_the_entry_out() {
        let mut node = json!({"replicas": "${n}", "name": "a-${ns}-${n}", "gid": "${none}", "list": ["${ns}"], "shell": "$(x) $y"});
        let fillings = Fillings::from([("n", json!(3)), ("ns", json!("\"mesh\": ${n}\n")), ("none", Value::Null)]);
        fill(&mut node, &fillings).unwrap();
        assert_eq!(
            node,
            json!({"replicas": 3, "name": "a-\"mesh\": ${n}\n-3", "list": ["\"mesh\": ${n}\n"], "shell": "$(x) $y"})
        );
    }

    #[test]
    fn names_what_is_missing() {
        let refused = fill(&mut json!({"a": [{"b": "x${missing}"}]}), &Fillings::new());
        assert_eq!(refused, Err(Unfilled("missing".into())));
    }
}
