//! Text to words, each with its place.

use super::ConditionError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Word {
    /// A name, maybe with dots in it.
    Name(String),
    Number(i64),
    Text(String),
    /// One of [`SYMBOLS`].
    Symbol(&'static str),
    End,
}

/// The longer ones first.
const SYMBOLS: [&str; 17] =
    ["..=", "..", "&&", "||", "==", "!=", "<=", ">=", "<", ">", "!", "(", ")", "[", "]", ",", "-"];

/// A word, and which bytes of the text it is.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub(super) word: Word,
    pub(super) start: usize,
    pub(super) end: usize,
}

pub(super) fn error(text: &str, at: usize, what: impl Into<String>) -> ConditionError {
    let column = text.get(..at).map_or(0, |before| before.chars().count()) + 1;
    ConditionError { column, what: what.into() }
}

pub(super) fn scan(text: &str) -> Result<Vec<Placed>, ConditionError> {
    let mut words = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        if first.is_whitespace() {
            at += first.len_utf8();
            continue;
        }
        let rest = &text[at..];
        let (word, length) = if first == '"' {
            string(text, at)?
        } else if first.is_ascii_digit() {
            let length = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let number = rest[..length].parse().map_err(|_| error(text, at, "this number is too large"))?;
            (Word::Number(number), length)
        } else if first.is_ascii_alphabetic() {
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
            let length = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            // `mon..fri`: the dots of a range are no part of a name.
            let length = rest[..length].find("..").unwrap_or(length);
            (Word::Name(rest[..length].to_owned()), length)
        } else {
            let symbol = SYMBOLS.into_iter().find(|symbol| rest.starts_with(symbol));
            let symbol = symbol.ok_or_else(|| error(text, at, strange(first)))?;
            (Word::Symbol(symbol), symbol.len())
        };
        words.push(Placed { word, start: at, end: at + length });
        at += length;
    }
    words.push(Placed { word: Word::End, start: text.len(), end: text.len() });
    Ok(words)
}

/// What a character that has no meaning may have been meant for.
fn strange(first: char) -> String {
    let hint = match first {
        '&' => "; write '&&'",
        '|' => "; write '||'",
        '=' => "; write '=='",
        '.' => "; versions are written in quotes, like \"6.1\"",
        '\'' => "; texts are written in double quotes",
        _ => "",
    };
    format!("'{first}' has no meaning here{hint}")
}

fn string(text: &str, start: usize) -> Result<(Word, usize), ConditionError> {
    let mut value = String::new();
    let mut chars = text[start + 1..].char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((Word::Text(value), at + 2)),
            '\\' => match chars.next() {
                Some((_, escaped @ ('"' | '\\'))) => value.push(escaped),
                _ => return Err(error(text, start + 1 + at, "after a backslash, only \\\" and \\\\ have a meaning")),
            },
            c if c.is_control() => return Err(error(text, start + 1 + at, "control characters can't be in a text")),
            c => value.push(c),
        }
    }
    Err(error(text, start, "this text has no closing '\"'"))
}
