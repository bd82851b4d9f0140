//! How deep experts' Cedar goes, told before Cedar's parser goes there: it calls itself for each level, and a stack that is
//! used up ends the process.

/// The most levels: brackets within each other, and the operators, branches and accesses by dot on the way to them. Each is at
/// most two levels of the JSON that is stored, which is read back up to a depth of 128.
const MAX_DEPTH: usize = 56;

/// The byte at which a text goes too deep, if it does.
pub(crate) fn too_deep(source: &str) -> Option<usize> {
    // What there was in each of the open brackets.
    let mut open = vec![Level::default()];
    let mut at = 0;
    while at < source.len() {
        let rest = &source[at..];
        let first = rest.chars().next()?;
        let innermost = open.len() - 1;
        let level = &mut open[innermost];
        let mut length = first.len_utf8();
        if first == '"' {
            length = text(rest);
        } else if rest.starts_with("//") {
            length = rest.find('\n').unwrap_or(rest.len());
        } else if first.is_ascii_alphabetic() || first == '_' {
            length = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            level.operators += usize::from(["if", "else"].contains(&&rest[..length]));
        } else {
            // A dot counts for as long as accesses follow each other.
            if !first.is_whitespace() && !".([)]".contains(first) {
                level.dots = 0;
            }
            match first {
                '(' | '[' | '{' => open.push(Level::default()),
                ')' | ']' | '}' if innermost > 0 => {
                    open.pop();
                }
                // Of `&&` and `||`, each half counts as half.
                '&' | '|' => level.halves += 1,
                '!' | '-' | '+' | '*' => level.operators += 1,
                '.' => level.dots += 1,
                ',' | ';' => *level = Level::default(),
                _ => {}
            }
        }
        if open.iter().map(Level::depth).sum::<usize>() > MAX_DEPTH {
            return Some(at);
        }
        at += length;
    }
    None
}

#[derive(Default)]
struct Level {
    operators: usize,
    halves: usize,
    dots: usize,
}

impl Level {
    fn depth(&self) -> usize {
        1 + self.operators + self.halves / 2 + self.dots
    }
}

/// The length of a text with its quotes.
fn text(rest: &str) -> usize {
    let mut is_escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            '"' if !is_escaped => return at + 1,
            '\\' => is_escaped = !is_escaped,
            _ => is_escaped = false,
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_deep_is_found_and_texts_and_comments_are_not() {
        let fine = [
            "permit (principal, action, resource);".repeat(100),
            format!("when {{ [{}] }}", "context.a.b, ".repeat(1000)),
            format!("when {{ x == \"{}\" }}", "(".repeat(1000)),
            format!("when {{ x == \"\\\"{}\" }}", "(".repeat(1000)),
            format!("// {}\nwhen {{ true }}", "(".repeat(1000)),
            ["context.time.hour == 1"; 40].join(" || "),
        ];
        for source in fine {
            assert_eq!(too_deep(&source), None, "{source}");
        }
        let deep = ["(", "!", "[", "{", "if true then ", "-", "1 + ", "a && ", "a.", "a(\"\")."];
        for part in deep {
            assert!(too_deep(&part.repeat(100)).is_some(), "{part}");
        }
    }
}
