//! Reads and writes YAML as `kubectl` understands it.
//!
//! In: text, any number of documents. Out: JSON values, and back. `kubectl` reads YAML 1.1: `defaultMode: 0644` is octal there, and `on`
//! is true, but only where they are not quoted. The library is told to read so, and what it writes is quoted wherever a
//! reader of either version could misread it, so that a manifest comes out of `hawser inject` meaning what it meant.
//!
//! It reads differently from kubectl, as `reads_scalars_as_kubectl_does` lists: a key is the text that is written (kubectl makes `true` of the
//! key `on`), `1__0` and `0777_` are texts, and `tRue` is true. Start at [`parse`] and [`write`].

use serde::ser::{Serialize, Serializer};
use serde_json::Value;
use serde_yaml::{DoubleQuoted, Options, SerializerOptions, UserMessageFormatter};

/// Bundles of CRDs have tens of thousands of lines, with two or three values in each.
const NODES_MAX: usize = 2_000_000;
/// The library's own events, of which a collection has two and each document a few more.
const EVENTS_MAX: usize = 3 * NODES_MAX;
/// Aliases can make a small text enormous ("billion laughs"); what people give a name to is a few lines.
const ANCHORED_MAX: usize = 100_000;
/// Far above what one stream of manifests holds: a namespace is a document or a few thousand.
const DOCUMENTS_MAX: usize = 100_000;
/// Why a text is no YAML that can be used; says the line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(String);

/// The documents of `text`; empty ones are left out.
///
/// # Errors
/// Where `text` is not YAML, has a key twice, or is not such that JSON can express it.
pub fn parse(text: &str) -> Result<Vec<Value>, Invalid> {
    serde_yaml::from_multiple_with_options(text, reading())
        .map_err(|error| Invalid(error.render_with_formatter(&UserMessageFormatter)))
}

/// The documents as one text, with `---` between them.
pub fn write(documents: &[Value]) -> String {
    let documents: Vec<Written<'_>> = documents.iter().map(Written).collect();
    serde_yaml::to_string_multiple_with_options(&documents, writing()).expect("JSON values are YAML values")
}

fn reading() -> Options {
    serde_yaml::options! {
        budget: serde_yaml::budget! {
            max_nodes: NODES_MAX,
            max_events: EVENTS_MAX,
            max_documents: DOCUMENTS_MAX,
            max_recorded_anchor_events: ANCHORED_MAX,
        },
        legacy_octal_numbers: true,
        strict_booleans: false,
        with_snippet: false,
    }
}

fn writing() -> SerializerOptions {
    // Folded lines are as right, but a long argument in several lines is hard to search for.
    serde_yaml::ser_options! { folded_wrap_chars: usize::MAX }
}

/// A value on its way out. The library writes a text whose first line begins with a tab as a block, as YAML 1.2 allows, and kubectl's reader
/// refuses it: a Makefile in a ConfigMap. Such texts are quoted instead.
struct Written<'a>(&'a Value);

impl Serialize for Written<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::String(text) if text.trim_start_matches(['\n', ' ']).starts_with('\t') => {
                DoubleQuoted(text).serialize(serializer)
            }
            Value::Array(items) => serializer.collect_seq(items.iter().map(Written)),
            Value::Object(map) => serializer.collect_map(map.iter().map(|(key, value)| (key, Written(value)))),
            scalar => scalar.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn one(text: &str) -> Value {
        parse(text).unwrap().remove(0)
    }

    #[test]
    fn reads_scalars_as_kubectl_does() {
        // Each as `kubectl annotate --local -o json` 1.36 prints it.
        for (text, means) in [
            ("0644", json!(420)),
            ("-0644", json!(-420)),
            ("0o17", json!(15)),
            ("0x1F", json!(31)),
            ("0b101", json!(5)),
            ("1_000", json!(1000)),
            ("yes", json!(true)),
            ("Off", json!(false)),
            ("n", json!(false)),
            ("\"yes\"", json!("yes")),
            ("'0644'", json!("0644")),
            ("!!str 0644", json!("0644")),
            ("!!int '12'", json!(12)),
            ("!!binary aGVsbG8=", json!("hello")),
            ("~", json!(null)),
            ("", json!(null)),
            ("1.10", json!(1.1)),
            ("-7", json!(-7)),
            ("12:30", json!("12:30")),
            ("1.2.3", json!("1.2.3")),
            ("2001-01-01", json!("2001-01-01")),
            ("100m", json!("100m")),
        ] {
            assert_eq!(one(&format!("a: {text}\n")), json!({ "a": means }), "{text}");
        }
        assert!(parse("a: .inf\n").is_err(), "kubectl refuses it as well");
    }

    #[test]
    fn the_differences_to_kubectl_are_these() {
        for (text, means) in [
            ("a: tRue", json!({"a": true})),
            ("a: 1__0", json!({"a": "1__0"})),
            ("a: 0777_", json!({"a": "0777_"})),
            ("on: x", json!({"on": "x"})),
            ("0644: x", json!({"0644": "x"})),
        ] {
            assert_eq!(one(text), means, "{text}");
        }
        assert!(parse("commit: 5e12345\n").is_err(), "a text to kubectl, by its size only");
    }

    #[test]
    fn what_is_written_reads_the_same() {
        for nasty in [
            "yes",
            "on",
            "n",
            "0644",
            "1_000",
            "0b1",
            "12:30",
            "2001-01-01",
            "~",
            "",
            " lead",
            "trail ",
            "a: b",
            "a #b",
            "- x",
            "# x",
            "*a",
            "&a",
            "!t",
            "{}",
            "[",
            "a\nb",
            "a\nb\n",
            "\n",
            "a\n\n",
            " a\nb",
            "a \nb",
            "\ta\nb",
            "\n \ta\nb",
            "tab\tin",
            "\u{7f}",
            "\u{85}",
            "\u{2028}",
            "\u{0}",
            "é",
            "1e3",
            ".5",
            "0x",
            "+",
            "-",
            "<<",
            "=",
            "null",
            "%x",
            "@x",
            "`x`",
            "\"q\"",
            "it's",
            "a\r\nb",
            "http://x:80/",
            "10.0.0.0/8,fd00::/8",
            "\u{feff}x",
            "-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n",
            "{\"ns\":\"$(_pod_ns)\"}\n",
            "?",
            "? x",
            "a:",
            ":a",
            "|",
            ">",
            "...",
            "---",
            "a\n---\nb",
        ] {
            let value = json!({"k": nasty, "l": [nasty, {"m": nasty, nasty: [[nasty, 1], []]}], "o": {}});
            let text = write(&[value.clone(), value.clone()]);
            assert_eq!(parse(&text).unwrap(), [value.clone(), value], "{text}");
        }
    }

    #[test]
    fn what_any_reader_could_misread_is_quoted() {
        let texts =
            ["yes", "on", "y", "0644", "1_000", "0o17", "12:30", "2001-01-01", "1.10", "~", "null", "1e3", "<<"];
        for text in texts {
            assert_eq!(write(&[json!({ text: text })]), format!("\"{text}\": \"{text}\"\n"));
        }
        assert_eq!(write(&[json!({"image": "hawser:0.1.0"})]), "image: hawser:0.1.0\n");
    }

    /// The one thing `Written` is there for; goes when the library's own answer is one that kubectl reads.
    #[test]
    fn a_text_that_begins_with_a_tab_is_quoted_for_kubectl() {
        let makefile = json!({"Makefile": "\tcc x.c\n"});
        assert_eq!(write(std::slice::from_ref(&makefile)), "Makefile: \"\\tcc x.c\\n\"\n");
        let alone = serde_yaml::to_string_with_options(&makefile, writing()).unwrap();
        assert_eq!(
            alone, "Makefile: |\n  \tcc x.c\n",
            "kubectl: found a tab character where an indentation space is expected"
        );
    }

    #[test]
    fn reads_documents_anchors_and_merges() {
        let read = parse("a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}\n---\n# nothing\n---\n- 80: x\n").unwrap();
        assert_eq!(read, [json!({"a": {"b": 1, "c": 2}, "d": {"c": 3, "b": 1}}), json!([{"80": "x"}])]);
    }

    #[test]
    fn refuses_what_is_broken_with_its_line() {
        let said = |text: &str| parse(text).unwrap_err().to_string();
        assert_eq!(said("a: 1\nb: [\n"), "unclosed bracket '[' at line 2, column 4");
        assert_eq!(said("a: 1\na: 2\n"), "duplicate mapping key `a` is not allowed here at line 2, column 1");
        assert_eq!(said("? {a: 1}\n: 2\n"), "expected string scalar at line 1, column 3");
    }

    #[test]
    fn takes_what_large_manifests_have_and_refuses_a_billion_laughs() {
        let large = "---\na: {b: {c: [1, 2, 3]}}\n".repeat(5_000);
        assert_eq!(parse(&large).unwrap().len(), 5_000);
        let deep = format!("{}x{}", "{a: ".repeat(60), "}".repeat(60));
        assert!(parse(&deep).is_ok());
        let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..9 {
            let aliases = vec![format!("*a{}", level - 1); 10].join(",");
            text.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
        }
        let said = parse(&text).unwrap_err().to_string();
        assert!(said.contains("too large"), "{said}");
    }
}
