//! Reads and writes YAML as `kubectl` understands it.
//!
//! In: text, any number of documents. Out: JSON values, and back. `kubectl` reads YAML 1.1: `defaultMode: 0644` is octal there,
//! and `on` is true, but only where they are not quoted. A reader for YAML 1.2 or one that forgets the quotes would change such manifests on
//! their way through `hawser inject`, so this one keeps kubectl's rules; what is written means the same to readers of either version.
//!
//! Start at [`parse`] and [`write`].

use std::borrow::Cow;
use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle, Span, StrInput};
use serde_json::{Map, Number, Value};

/// Aliases can make a small text enormous ("billion laughs"); no manifest of people comes near this many nodes.
const NODES_MAX: usize = 2_000_000;

/// Why a text is no YAML that can be used.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    #[error("line {line}: {what}")]
    Syntax { line: usize, what: String },
    #[error("line {line}: the key {key:?} is there twice")]
    Duplicate { line: usize, key: String },
    #[error("line {line}: a mapping's key must be a text, a number or a boolean")]
    Key { line: usize },
    #[error("line {line}: `<<` merges mappings only")]
    Merge { line: usize },
    #[error("aliases make it larger than {NODES_MAX} values")]
    TooLarge,
}

/// The documents of `text`; empty ones are left out.
///
/// # Errors
/// Where `text` is not YAML, or not such that JSON can express it.
pub fn parse(text: &str) -> Result<Vec<Value>, Invalid> {
    let options = granit_parser::options! { emit_comments: false };
    let mut reader =
        Reader { events: Parser::new_from_str_with_options(text, options), anchors: HashMap::new(), nodes: 0 };
    let mut documents = Vec::new();
    while let Some((event, span)) = reader.next()? {
        match event {
            Event::StreamStart | Event::StreamEnd | Event::DocumentStart(..) => {}
            // Anchors do not reach over documents.
            Event::DocumentEnd => reader.anchors.clear(),
            event => match reader.node(event, span)? {
                Value::Null => {}
                document => documents.push(document),
            },
        }
    }
    Ok(documents)
}

/// The documents as one text, with `---` between them.
pub fn write(documents: &[Value]) -> String {
    let mut text = String::new();
    for (at, document) in documents.iter().enumerate() {
        if at > 0 {
            text.push_str("---\n");
        }
        write_block(document, 0, &mut text);
    }
    text
}

struct Reader<'a> {
    events: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Value>,
    nodes: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, Invalid> {
        match self.events.next_event() {
            None => Ok(None),
            Some(Ok(next)) => Ok(Some(next)),
            Some(Err(error)) => Err(Invalid::Syntax { line: error.marker().line(), what: error.info() }),
        }
    }

    /// The next event inside a collection, which the parser guarantees to be there.
    fn inside(&mut self) -> Result<(Event<'a>, Span), Invalid> {
        self.next()?.ok_or_else(|| Invalid::Syntax { line: 0, what: "ends in the middle".into() })
    }

    fn node(&mut self, event: Event<'a>, span: Span) -> Result<Value, Invalid> {
        self.count(1)?;
        let (anchor, value) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let is_text = style != ScalarStyle::Plain || tag.is_some_and(|tag| tag.is_yaml_core_schema_tag("str"));
                (anchor, if is_text { Value::String(text.into_owned()) } else { resolve(&text) })
            }
            Event::SequenceStart(_, anchor, _) => {
                let mut items = Vec::new();
                loop {
                    match self.inside()? {
                        (Event::SequenceEnd, _) => break,
                        (event, span) => items.push(self.node(event, span)?),
                    }
                }
                (anchor, Value::Array(items))
            }
            Event::MappingStart(_, anchor, _) => (anchor, Value::Object(self.mapping()?)),
            Event::Alias(anchor) => {
                let value = self.anchors.get(&anchor).cloned().unwrap_or(Value::Null);
                self.count(size(&value))?;
                return Ok(value);
            }
            _ => {
                return Err(Invalid::Syntax { line: span.start.line(), what: "there is no value here".into() });
            }
        };
        if anchor > 0 {
            self.anchors.insert(anchor, value.clone());
        }
        Ok(value)
    }

    fn mapping(&mut self) -> Result<Map<String, Value>, Invalid> {
        let mut map = Map::new();
        let mut merged: Vec<Map<String, Value>> = Vec::new();
        loop {
            let (event, span) = self.inside()?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let line = span.start.line();
            let is_merge = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, ..) if text == "<<");
            let key = match self.node(event, span)? {
                Value::String(key) => key,
                // kubectl writes such keys as the text they stand for.
                key @ (Value::Number(_) | Value::Bool(_)) => key.to_string(),
                _ => return Err(Invalid::Key { line }),
            };
            let (event, span) = self.inside()?;
            let value = self.node(event, span)?;
            if is_merge {
                let maps = if let Value::Array(maps) = value { maps } else { vec![value] };
                for value in maps {
                    let Value::Object(value) = value else { return Err(Invalid::Merge { line }) };
                    merged.push(value);
                }
            } else if map.insert(key.clone(), value).is_some() {
                return Err(Invalid::Duplicate { line, key });
            }
        }
        for (key, value) in merged.into_iter().flatten() {
            map.entry(key).or_insert(value);
        }
        Ok(map)
    }

    fn count(&mut self, nodes: usize) -> Result<(), Invalid> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > NODES_MAX { Err(Invalid::TooLarge) } else { Ok(()) }
    }
}

fn size(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(size).sum::<usize>(),
        Value::Object(map) => 1 + map.values().map(size).sum::<usize>(),
        _ => 1,
    }
}

/// What an unquoted scalar means to kubectl.
pub fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => return Value::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Value::Bool(false);
        }
        _ => {}
    }
    number(text).map_or_else(|| Value::String(text.into()), Value::Number)
}

fn number(text: &str) -> Option<Number> {
    if !text.starts_with(|first: char| first.is_ascii_digit() || "+-.".contains(first)) {
        return None;
    }
    let digits = text.replace('_', "");
    let (sign, magnitude) = match digits.strip_prefix(['-', '+']) {
        Some(rest) => (if digits.starts_with('-') { "-" } else { "" }, rest),
        None => ("", digits.as_str()),
    };
    let (radix, magnitude) = match magnitude.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &magnitude[2..]),
        [b'0', b'o' | b'O', ..] => (8, &magnitude[2..]),
        [b'0', b'b' | b'B', ..] => (2, &magnitude[2..]),
        [b'0', _, ..] => (8, &magnitude[1..]),
        _ => (10, magnitude),
    };
    if magnitude.bytes().all(|digit| digit.is_ascii_alphanumeric()) {
        if let Ok(int) = i64::from_str_radix(&format!("{sign}{magnitude}"), radix) {
            return Some(int.into());
        }
        if sign.is_empty()
            && let Ok(int) = u64::from_str_radix(magnitude, radix)
        {
            return Some(int.into());
        }
    }
    let is_float = digits.bytes().any(|byte| byte.is_ascii_digit())
        && digits.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    let float: f64 = if is_float { digits.parse().ok()? } else { return None };
    // Such as 089, which is no octal number.
    #[expect(clippy::cast_possible_truncation, reason = "checked to be a whole number in range")]
    if float.fract() == 0.0 && float.abs() < 1e15 && !digits.contains(['.', 'e', 'E']) {
        return Some((float as i64).into());
    }
    Number::from_f64(float)
}

fn write_block(value: &Value, indent: usize, text: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                pad(indent, text);
                write_entry(key, value, indent, text);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                pad(indent, text);
                write_item(item, indent, text);
            }
        }
        scalar => {
            pad(indent, text);
            write_scalar(scalar, indent, text);
            text.push('\n');
        }
    }
}

fn write_entry(key: &str, value: &Value, indent: usize, text: &mut String) {
    text.push_str(&inline(key));
    text.push(':');
    match value {
        Value::Object(map) if !map.is_empty() => {
            text.push('\n');
            write_block(value, indent + 2, text);
        }
        // Lists sit at their key's own depth, as kubectl prints them.
        Value::Array(items) if !items.is_empty() => {
            text.push('\n');
            write_block(value, indent, text);
        }
        scalar => {
            text.push(' ');
            write_scalar(scalar, indent, text);
            text.push('\n');
        }
    }
}

fn write_item(item: &Value, indent: usize, text: &mut String) {
    text.push_str("- ");
    match item {
        Value::Object(map) if !map.is_empty() => {
            for (at, (key, value)) in map.iter().enumerate() {
                if at > 0 {
                    pad(indent + 2, text);
                }
                write_entry(key, value, indent + 2, text);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    pad(indent + 2, text);
                }
                write_item(item, indent + 2, text);
            }
        }
        scalar => {
            write_scalar(scalar, indent, text);
            text.push('\n');
        }
    }
}

fn write_scalar(value: &Value, indent: usize, text: &mut String) {
    match value {
        Value::String(string) if reads_well_as_a_block(string) => {
            text.push_str(if string.ends_with('\n') { "|" } else { "|-" });
            for line in string.strip_suffix('\n').unwrap_or(string).split('\n') {
                text.push('\n');
                if !line.is_empty() {
                    pad(indent + 2, text);
                    text.push_str(line);
                }
            }
        }
        Value::String(string) => text.push_str(&inline(string)),
        other => text.push_str(&other.to_string()),
    }
}

/// Whether a text of several lines survives as a literal block: nothing in it that a block cannot say.
fn reads_well_as_a_block(string: &str) -> bool {
    let body = string.strip_suffix('\n').unwrap_or(string);
    string.contains('\n')
        && !body.ends_with('\n')
        && !body.is_empty()
        && !body.starts_with([' ', '\n'])
        && body.chars().all(|c| c == '\n' || c == '\t' || is_printable(c))
        && body.split('\n').all(|line| !line.ends_with([' ', '\t']) && !line.starts_with('\t'))
}

fn is_printable(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}')
}

/// A text on one line: plain where no reader can misread it, else quoted.
fn inline(string: &str) -> Cow<'_, str> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || "_./$(".contains(c);
    let is_plain = string.starts_with(is_word)
        && string.chars().all(|c| c.is_ascii_graphic() || c == ' ')
        && !string.contains(": ")
        && !string.contains(" #")
        && !string.ends_with([':', ' '])
        && matches!(resolve(string), Value::String(_))
        // Dates, times and versions: some reader takes them for numbers.
        && !(string.starts_with(|c: char| c.is_ascii_digit() || c == '.') && string.bytes().all(|b| !b.is_ascii_alphabetic() || b == b'T' || b == b'Z' || b == b'e'));
    if is_plain {
        return Cow::Borrowed(string);
    }
    // JSON's escapes are YAML's too; DEL and the others that YAML does not take as they are follow as escapes.
    let mut quoted = String::with_capacity(string.len() + 2);
    for c in Value::from(string).to_string().chars() {
        if is_printable(c) {
            quoted.push(c);
        } else {
            quoted.push_str(&format!("\\u{:04x}", u32::from(c)));
        }
    }
    Cow::Owned(quoted)
}

fn pad(indent: usize, text: &mut String) {
    text.extend(std::iter::repeat_n(' ', indent));
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
        let read = one(
            "mode: 0644\nhex: 0x1F\nyes: yes\nquoted: \"yes\"\ncode: '0644'\nten: 1e1\nbad: 089\nneg: -7\nt: 12:30\nv: 1.2.3\nnone: ~\n",
        );
        assert_eq!(
            read,
            json!({"mode": 420, "hex": 31, "true": true, "quoted": "yes", "code": "0644", "ten": 10.0, "bad": 89, "neg": -7, "t": "12:30", "v": "1.2.3", "none": null})
        );
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
            "tab\tin",
            "\u{7f}",
            "\u{85}",
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
        ] {
            let value = json!({"k": nasty, "l": [nasty, {"m": nasty, nasty: [[nasty, 1], []]}], "o": {}});
            let text = write(std::slice::from_ref(&value));
            assert_eq!(parse(&text).unwrap(), [value], "{text}");
        }
    }

    #[test]
    fn reads_documents_anchors_and_merges() {
        let read = parse("a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}\n---\n# nothing\n---\n- 80: x\n").unwrap();
        assert_eq!(read, [json!({"a": {"b": 1, "c": 2}, "d": {"c": 3, "b": 1}}), json!([{"80": "x"}])]);
    }

    #[test]
    fn refuses_what_is_broken_with_its_line() {
        assert!(matches!(parse("a: 1\nb: [\n"), Err(Invalid::Syntax { .. })));
        assert!(matches!(parse("a: 1\na: 2\n"), Err(Invalid::Duplicate { line: 2, .. })));
        assert!(matches!(parse("? {a: 1}\n: 2\n"), Err(Invalid::Key { line: 1 })));
    }

    #[test]
    fn refuses_a_billion_laughs() {
        let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..9 {
            let aliases = vec![format!("*a{}", level - 1); 10].join(",");
            text.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
        }
        assert!(matches!(parse(&text), Err(Invalid::TooLarge)));
    }
}
