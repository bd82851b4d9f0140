//! An [`Expr`] as Cedar.

use std::{collections::BTreeSet, fmt::Write as _};

use super::{Attribute, Expr, Test, What};

/// The expression that is true exactly where the condition is met.
pub(crate) fn expression(expr: &Expr) -> String {
    match expr {
        Expr::All(parts) => joined(parts, " && "),
        Expr::Any(parts) => joined(parts, " || "),
        Expr::Test(it) => test(it),
    }
}

fn joined(parts: &[Expr], with: &str) -> String {
    balanced(&parts.iter().map(expression).collect::<Vec<_>>(), with)
}

/// The same for conditions that say the same things in another order, or more than once.
pub(crate) fn canonical(expr: &Expr) -> String {
    let (parts, with) = match expr {
        Expr::All(parts) => (parts, " && "),
        Expr::Any(parts) => (parts, " || "),
        Expr::Test(it) => return test(it),
    };
    let flat = parts.iter().flat_map(|part| match (expr, part) {
        (Expr::All(_), Expr::All(parts)) | (Expr::Any(_), Expr::Any(parts)) => parts.as_slice(),
        _ => std::slice::from_ref(part),
    });
    let parts: BTreeSet<_> = flat.map(canonical).collect();
    if parts.len() == 1 { parts.into_iter().collect() } else { format!("({})", Vec::from_iter(parts).join(with)) }
}

/// In halves, and these in halves: Cedar goes into the depth by each part of a chain, and refuses to go too deep.
fn balanced(parts: &[String], with: &str) -> String {
    match parts {
        [one] => one.clone(),
        _ => {
            let (first, second) = parts.split_at(parts.len() / 2);
            format!("({}{with}{})", balanced(first, with), balanced(second, with))
        }
    }
}

/// The same of one test: whether it can be answered, and then the answer.
pub(crate) fn test(test: &Test) -> String {
    let attribute = match test.what.attribute() {
        Ok(attribute) => attribute,
        Err(atom) => {
            let among = if test.negated { "failed" } else { "passed" };
            return format!("context.checks.{among}.contains({})", quoted(&atom.to_string()));
        }
    };
    let not = if test.negated { "!" } else { "" };
    let answer = answer(&test.what, &value(attribute));
    let guard = if attribute.is_given {
        String::new()
    } else {
        format!("context.{} has {} && ", attribute.record, attribute.field)
    };
    format!("({guard}{not}({answer}))")
}

fn value(attribute: &Attribute) -> String {
    format!("context.{}.{}", attribute.record, attribute.field)
}

fn answer(what: &What, value: &str) -> String {
    match what {
        What::Flag(_) => value.to_owned(),
        What::Number(_, comparison, number) => format!("{value} {} {number}", comparison.symbol()),
        What::Range(_, from, to) if from < to => format!("{value} >= {from} && {value} < {to}"),
        What::Range(_, from, to) => format!("{value} >= {from} || {value} < {to}"),
        // Sets, which are as deep however long they are.
        What::OneOf(_, numbers) => format!("{}.contains({value})", set(numbers.iter().map(i64::to_string))),
        What::Text(_, texts) => format!("{}.contains({value})", set(texts.iter().map(|text| quoted(text)))),
        // Cedar's own pattern language: a star stands for anything.
        What::Like(_, pattern) => format!("{value} like {}", quoted(pattern)),
        What::Network(_, networks) => {
            any(networks.iter().map(|network| format!("{value}.isInRange(ip({}))", quoted(network))))
        }
        What::Atom(_) => unreachable!("atoms have no attribute"),
    }
}

fn set(values: impl Iterator<Item = String>) -> String {
    format!("[{}]", values.collect::<Vec<_>>().join(", "))
}

fn any(parts: impl Iterator<Item = String>) -> String {
    balanced(&parts.collect::<Vec<_>>(), " || ")
}

/// A string literal of Cedar.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_ascii_graphic() || c == ' ' => quoted.push(c),
            c => {
                let _ = write!(quoted, "\\u{{{:x}}}", u32::from(c));
            }
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod checks {
    use super::*;

    #[test]
    fn no_text_leaves_its_quotes() {
        assert_eq!(quoted(r#"a"b\c"#), r#""a\"b\\c""#);
        assert_eq!(quoted("ä\u{7f}"), "\"\\u{e4}\\u{7f}\"");
    }
}
