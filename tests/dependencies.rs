//! What may be linked into the binary is what deny.toml allows. `make deny` asks cargo-deny the same and more; these
//! need nothing but Cargo, so that nobody has to remember.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use crate::support::text;

const DENY: &str = include_str!("../deny.toml");

/// The expression of each package's licence, of those linked into the binary or into what builds it.
fn licences() -> BTreeMap<String, String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--target", "x86_64-unknown-linux-musl", "--edges", "normal,build"])
        .args(["--prefix", "none", "--no-dedupe", "--format", "{p}\t{l}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let lines = text(&output.stdout);
    lines.lines().filter_map(|line| line.split_once('\t')).map(|(package, of)| (package.into(), of.into())).collect()
}

fn allowed() -> BTreeSet<&'static str> {
    let (_, list) = DENY.split_once("allow = [").unwrap();
    list.split_once(']').unwrap().0.split('"').skip(1).step_by(2).collect()
}

/// Whether an SPDX expression can be met. `OR` binds weakest; older packages write `/` for it.
fn is_met(expression: &str, allowed: &BTreeSet<&str>) -> bool {
    // Terms become 1 or 0, so that what is in parentheses can be replaced by what it comes to.
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut stack = vec![String::new()];
    for word in spaced.split_whitespace() {
        match word {
            "(" => stack.push(String::new()),
            ")" => {
                let inner = stack.pop().unwrap();
                let met = if is_flat_met(&inner, allowed) { "TRUE" } else { "FALSE" };
                stack.last_mut().unwrap().push_str(&format!(" {met}"));
            }
            word => stack.last_mut().unwrap().push_str(&format!(" {word}")),
        }
    }
    is_flat_met(&stack.concat(), allowed)
}

fn is_flat_met(expression: &str, allowed: &BTreeSet<&str>) -> bool {
    expression
        .split(" OR ")
        .any(|all| all.split(" AND ").map(str::trim).all(|licence| licence == "TRUE" || allowed.contains(licence)))
}

#[test]
fn every_package_has_a_licence_that_is_allowed() {
    let licences = licences();
    assert!(licences.len() > 100, "cargo tree lists the packages: {licences:#?}");
    let refused: Vec<_> = licences.iter().filter(|(_, licence)| !is_met(licence, &allowed())).collect();
    assert!(refused.is_empty(), "{refused:#?}");
}

#[test]
fn no_licence_is_allowed_that_no_package_needs() {
    let licences = licences();
    for licence in allowed() {
        let mut others = allowed();
        others.remove(licence);
        assert!(licences.values().any(|expression| !is_met(expression, &others)), "{licence} is not needed");
    }
}

#[test]
fn there_is_one_crypto_provider_and_one_tls_stack() {
    let (_, bans) = DENY.split_once("deny = [").unwrap();
    let banned: Vec<&str> = bans.split("name = \"").skip(1).map(|rest| rest.split_once('"').unwrap().0).collect();
    assert!(banned.contains(&"ring"));
    for package in licences().keys() {
        let name = package.split(' ').next().unwrap();
        assert!(!banned.contains(&name), "{package}");
    }
}

#[test]
fn licence_expressions_are_read_as_spdx_says() {
    let allowed = BTreeSet::from(["MIT", "ISC"]);
    for met in ["MIT", "MIT OR GPL-3.0", "GPL-3.0/MIT", "MIT AND ISC", "GPL-3.0 AND X OR MIT", "ISC AND (X OR MIT)"] {
        assert!(is_met(met, &allowed), "{met}");
    }
    for unmet in ["", "GPL-3.0", "MIT AND GPL-3.0", "MIT AND (X OR GPL-3.0)", "MIT WITH exception", "(MIT) AND X"] {
        assert!(!is_met(unmet, &allowed), "{unmet}");
    }
}
