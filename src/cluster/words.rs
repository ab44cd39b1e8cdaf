//! Errors in words: each cause once, and what the API server said in its own words.
//!
//! In: an error with its causes. Out: a line for each. Many crates repeat the cause in their own text, and those of kube are made
//! for logs.
//!
//! Start at [`causes`].

use std::error::Error;

/// An error and its causes, a line each; what a line before has said already is left out.
pub fn causes(error: &(dyn Error + 'static)) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut cause = Some(error);
    while let Some(error) = cause {
        let (line, next) = words(error);
        if !lines.last().is_some_and(|last| last.contains(&line)) {
            lines.push(line);
        }
        cause = next;
    }
    lines
}

/// One error without its causes, and the next of those. The texts of kube are made for logs: each repeats all of its causes.
fn words<'e>(error: &'e (dyn Error + 'static)) -> (String, Option<&'e (dyn Error + 'static)>) {
    match error.downcast_ref::<kube::Error>() {
        Some(kube::Error::Api(status)) if status.message.is_empty() => {
            (format!("the API server answered {} {}", status.code, status.reason), None)
        }
        Some(kube::Error::Api(status)) => (status.message.clone(), None),
        Some(kube::Error::Service(error)) => words(error.as_ref()),
        Some(kube::Error::HyperError(error)) => words(error),
        _ => {
            let mut line = error.to_string();
            // The rest of such a line is said by the next one.
            if let Some(source) = error.source()
                && let Some(start) = line.find(&format!(": {source}"))
            {
                line.truncate(start);
            }
            (line, error.source())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layers_of_kube_are_no_causes_of_their_own() {
        let refused = std::io::Error::other("connection refused");
        let error = Wrapped(kube::Error::Service(Box::new(refused)));
        assert_eq!(causes(&error), ["cannot reach it", "connection refused"]);
    }

    #[derive(Debug, thiserror::Error)]
    #[error("cannot reach it")]
    struct Wrapped(#[source] kube::Error);
}
