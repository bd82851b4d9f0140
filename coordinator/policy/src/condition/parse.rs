//! Words to an [`Expr`].

use postern_model::Check;

use super::{
    Atom, Attribute, Comparison, ConditionError, Expr, Kind, Test, Versioned, What,
    attributes::{ATTRIBUTES, WEEKDAYS, named},
    scan::{Placed, Word, error, scan},
};

/// The longest condition, in bytes.
const MAX_LENGTH: usize = 4096;
/// The deepest nesting.
const MAX_DEPTH: usize = 32;

/// Reads a condition.
///
/// # Errors
/// With the column and with what would be right.
pub(crate) fn parse(text: &str) -> Result<Expr, ConditionError> {
    if text.len() > MAX_LENGTH {
        return Err(error(text, 0, format!("it is longer than {MAX_LENGTH} bytes")));
    }
    let words = scan(text)?;
    let mut parser = Parser { text, words, at: 0, depth: 0 };
    let expr = parser.any(false)?;
    match parser.peek() {
        Word::End => Ok(expr),
        _ => Err(parser.expected("'&&', '||' or the end")),
    }
}

struct Parser<'a> {
    text: &'a str,
    words: Vec<Placed>,
    at: usize,
    depth: usize,
}

type Parsed<T> = Result<T, ConditionError>;

impl Parser<'_> {
    fn placed(&self) -> &Placed {
        // The last one is the end, which is never passed.
        &self.words[self.at.min(self.words.len() - 1)]
    }

    fn peek(&self) -> &Word {
        &self.placed().word
    }

    fn takes(&mut self, symbol: &'static str) -> bool {
        let is_next = *self.peek() == Word::Symbol(symbol);
        self.at += usize::from(is_next);
        is_next
    }

    fn error(&self, what: impl Into<String>) -> ConditionError {
        error(self.text, self.placed().start, what)
    }

    fn expected(&self, what: &str) -> ConditionError {
        let found = &self.text[self.placed().start..self.placed().end];
        let found = if found.is_empty() { "the condition ends here".to_owned() } else { format!("here is '{found}'") };
        self.error(format!("{found}, but {what} is expected"))
    }

    fn require(&mut self, symbol: &'static str) -> Parsed<()> {
        if self.takes(symbol) { Ok(()) } else { Err(self.expected(&format!("'{symbol}'"))) }
    }

    /// `negated`: under an odd number of `!`, where "and" and "or" change places.
    fn any(&mut self, negated: bool) -> Parsed<Expr> {
        let mut parts = vec![self.all(negated)?];
        while self.takes("||") {
            parts.push(self.all(negated)?);
        }
        Ok(join(parts, negated))
    }

    fn all(&mut self, negated: bool) -> Parsed<Expr> {
        let mut parts = vec![self.one(negated)?];
        while self.takes("&&") {
            parts.push(self.one(negated)?);
        }
        Ok(join(parts, !negated))
    }

    fn one(&mut self, negated: bool) -> Parsed<Expr> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error("it is nested too deeply"));
        }
        let expr = if self.takes("!") {
            self.one(!negated)?
        } else if self.takes("(") {
            let expr = self.any(negated)?;
            self.require(")")?;
            expr
        } else {
            let start = self.placed().start;
            let what = self.test()?;
            let end = self.words[self.at - 1].end;
            let text = self.text[start..end].to_owned();
            Expr::Test(Test { text, negated, what })
        };
        self.depth -= 1;
        Ok(expr)
    }

    fn test(&mut self) -> Parsed<What> {
        let name = match self.peek() {
            Word::Name(name) => name.clone(),
            _ => return Err(self.expected("an attribute like posture.disk_encrypted")),
        };
        if ["file", "process", "package"].contains(&name.as_str()) {
            return self.check(&name);
        }
        let attribute = named(&name).ok_or_else(|| {
            let known: Vec<_> = ATTRIBUTES.iter().map(|attribute| attribute.name).collect();
            self.error(format!(
                "'{name}' is not known; there are {}, file(\"/PATH\"), process(\"NAME\") and package(\"NAME\")",
                known.join(", ")
            ))
        })?;
        self.at += 1;
        match attribute.kind {
            Kind::Flag => Ok(What::Flag(attribute)),
            Kind::Number { .. } | Kind::Weekday => self.number_test(attribute),
            Kind::Text => self.text_test(attribute),
            Kind::Version => {
                let what = if attribute.field == "kernel" { Versioned::Kernel } else { Versioned::Postern };
                self.version_test(what)
            }
            Kind::Address => {
                if !self.takes_in() {
                    return Err(self.expected(&format!("'in \"10.0.0.0/8\"' after {}", attribute.name)));
                }
                Ok(What::Network(attribute, self.texts(is_network, "an address or network like \"10.0.0.0/8\"")?))
            }
        }
    }

    fn takes_in(&mut self) -> bool {
        self.takes_name("in")
    }

    fn takes_name(&mut self, name: &str) -> bool {
        let is_next = matches!(self.peek(), Word::Name(next) if next == name);
        self.at += usize::from(is_next);
        is_next
    }

    fn comparison(&mut self) -> Option<Comparison> {
        use Comparison::{AtLeast, AtMost, Equal, Less, More, NotEqual};
        [Equal, NotEqual, AtMost, AtLeast, Less, More].into_iter().find(|comparison| self.takes(comparison.symbol()))
    }

    fn number_test(&mut self, attribute: &'static Attribute) -> Parsed<What> {
        if self.takes_in() {
            if self.takes("[") {
                let mut values = vec![self.number(attribute)?];
                while self.takes(",") {
                    values.push(self.number(attribute)?);
                }
                self.require("]")?;
                return Ok(What::OneOf(attribute, values));
            }
            let from = self.number(attribute)?;
            let is_closed = self.takes("..=");
            if !is_closed {
                self.require("..")?;
            }
            let at = self.at;
            let to = if is_closed { self.number(attribute)? + 1 } else { self.bound(attribute)? };
            let is_cycle = matches!(attribute.kind, Kind::Number { is_cycle: true, .. } | Kind::Weekday);
            if to == from || (to < from && !is_cycle) {
                self.at = at;
                return Err(self.error(format!("nothing is from {from} up to {to}, without {to}")));
            }
            return Ok(What::Range(attribute, from, to));
        }
        match self.comparison() {
            Some(comparison) => Ok(What::Number(attribute, comparison, self.number(attribute)?)),
            None => Err(self.expected(&format!("a comparison (==, !=, <, <=, >, >=, in) after {}", attribute.name))),
        }
    }

    /// The end of an open range, which may lie one past the last value.
    fn bound(&mut self, attribute: &'static Attribute) -> Parsed<i64> {
        if let (Word::Number(number), Kind::Number { last, .. }) = (self.peek(), attribute.kind)
            && *number == last + 1
        {
            self.at += 1;
            return Ok(last + 1);
        }
        self.number(attribute)
    }

    fn number(&mut self, attribute: &'static Attribute) -> Parsed<i64> {
        match (attribute.kind, self.peek()) {
            (Kind::Weekday, Word::Name(name)) => {
                let at = WEEKDAYS.iter().position(|weekday| weekday == name);
                let at = at.and_then(|at| i64::try_from(at + 1).ok());
                let at = at.ok_or_else(|| self.expected("mon, tue, wed, thu, fri, sat or sun"))?;
                self.at += 1;
                Ok(at)
            }
            (Kind::Weekday, _) => Err(self.expected("mon, tue, wed, thu, fri, sat or sun")),
            (Kind::Number { first, last, .. }, Word::Number(number)) if (first..=last).contains(number) => {
                let number = *number;
                self.at += 1;
                Ok(number)
            }
            (Kind::Number { first, last, .. }, _) => Err(self.expected(&format!("a number from {first} to {last}"))),
            _ => Err(self.expected("a number")),
        }
    }

    fn text_test(&mut self, attribute: &'static Attribute) -> Parsed<What> {
        let any = |_: &str| true;
        if self.takes_name("like") {
            return Ok(What::Like(attribute, self.string(any, "a pattern like \"Debian*\"")?));
        }
        if self.takes_in() {
            return Ok(What::Text(attribute, self.texts(any, "a text in quotes")?));
        }
        if self.takes("==") {
            return Ok(What::Text(attribute, vec![self.string(any, "a text in quotes")?]));
        }
        Err(self.expected(&format!("'==', 'like' or 'in' after {}", attribute.name)))
    }

    fn version_test(&mut self, what: Versioned) -> Parsed<What> {
        let Some(comparison) = self.comparison() else {
            return Err(self.expected("a comparison (==, !=, <, <=, >, >=) with a version in quotes"));
        };
        let is_version = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || ".+-~:_".contains(c));
        let version = self.string(is_version, "a version like \"6.1\"")?;
        Ok(What::Atom(Atom::Version(what, comparison, version)))
    }

    fn check(&mut self, kind: &str) -> Parsed<What> {
        self.at += 1;
        self.require("(")?;
        let at = self.at;
        let name = self.string(|_| true, "a name in quotes")?;
        let check: Check = format!("{kind}:{name}").parse().map_err(|problem: postern_model::check::CheckError| {
            self.at = at;
            self.error(problem.to_string())
        })?;
        self.require(")")?;
        let has_version = [">=", "<=", "==", "!=", "<", ">"].into_iter().any(|it| *self.peek() == Word::Symbol(it));
        match check {
            Check::Package(name) if has_version => self.version_test(Versioned::Package(name)),
            check => Ok(What::Atom(Atom::Check(check))),
        }
    }

    /// One text, or a list of them.
    fn texts(&mut self, is_valid: impl Fn(&str) -> bool, what: &str) -> Parsed<Vec<String>> {
        if !self.takes("[") {
            return Ok(vec![self.string(is_valid, what)?]);
        }
        let mut texts = vec![self.string(&is_valid, what)?];
        while self.takes(",") {
            texts.push(self.string(&is_valid, what)?);
        }
        self.require("]")?;
        Ok(texts)
    }

    fn string(&mut self, is_valid: impl Fn(&str) -> bool, what: &str) -> Parsed<String> {
        match self.peek() {
            Word::Text(text) if !text.is_empty() && is_valid(text) => {
                let text = text.clone();
                self.at += 1;
                Ok(text)
            }
            _ => Err(self.expected(what)),
        }
    }
}

fn join(mut parts: Vec<Expr>, is_all: bool) -> Expr {
    match (parts.len(), is_all) {
        (1, _) => parts.remove(0),
        (_, true) => Expr::All(parts),
        (_, false) => Expr::Any(parts),
    }
}

fn is_network(text: &str) -> bool {
    let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
    let Ok(address) = address.parse::<std::net::IpAddr>() else { return false };
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let is_length = |text: &str| text.parse::<u8>().is_ok_and(|length| length <= longest && length.to_string() == text);
    // Cedar reads no IPv4 address within an IPv6 address, and sources are never written like that.
    !(address.is_ipv6() && text.contains('.')) && address.to_canonical() == address && prefix.is_none_or(is_length)
}
