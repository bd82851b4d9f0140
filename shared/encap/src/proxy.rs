//! HTTP proxies, as the environment names them: `HTTPS_PROXY` or `ALL_PROXY`, and for whom not: `NO_PROXY`. Upper case counts
//! before lower case.
//!
//! A proxy sees which server is asked for, and TLS. Its name and password never get into logs or errors.
//!
//! - here: reading the variables; pure but for [`Proxies::from_env`]
//! - `tunnel`: asking it to connect (CONNECT, RFC 9110)
//! - `exceptions`: `NO_PROXY`

mod exceptions;
mod tunnel;

use std::{fmt, io};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use postern_model::token::{Host, HostPort};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use self::exceptions::Exceptions;

/// The port of a proxy whose address has none.
const DEFAULT_PORT: u16 = 80;

/// Why a proxy can't be used. `var` is the variable that names it, `proxy` its `host:port`.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// It speaks something else than HTTP.
    #[error("{var} names a proxy that is reached by {scheme}://, which can't be used: it has to be http://HOST:PORT")]
    Scheme {
        /// The variable.
        var: &'static str,
        /// What it speaks.
        scheme: String,
    },
    /// The variable can't be read. What it says is not repeated, as there may be a password in it.
    #[error(
        "{var} is no address of a proxy: write it like http://proxy.example.com:3128 or http://NAME:PASSWORD@HOST:PORT"
    )]
    Malformed {
        /// The variable.
        var: &'static str,
    },
    /// It can't be reached.
    #[error("the proxy {proxy} can't be reached: {error}")]
    Unreachable {
        /// Which.
        proxy: String,
        /// Why.
        error: io::Error,
    },
    /// It was left in the middle of the exchange.
    #[error("the proxy {proxy} did not answer: {error}")]
    Broken {
        /// Which.
        proxy: String,
        /// Why.
        error: io::Error,
    },
    /// It wants to know who asks.
    #[error("the proxy {proxy} wants a name and password: set them in {var}, as http://NAME:PASSWORD@HOST:PORT")]
    Unauthorized {
        /// Which.
        proxy: String,
        /// The variable.
        var: &'static str,
    },
    /// It knows who asks, or not, and wants somebody else.
    #[error("the proxy {proxy} does not accept the name and password in {var}")]
    WrongPassword {
        /// Which.
        proxy: String,
        /// The variable.
        var: &'static str,
    },
    /// It does not connect.
    #[error("the proxy {proxy} does not connect to {target}: it says '{said}'")]
    Refused {
        /// Which.
        proxy: String,
        /// To whom.
        target: String,
        /// The first line of its answer, as far as it is text.
        said: String,
    },
    /// It is no proxy.
    #[error("what answers at {proxy} is no HTTP proxy: look at {var}")]
    NoProxy {
        /// Which.
        proxy: String,
        /// The variable.
        var: &'static str,
    },
}

/// An HTTP proxy.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// The variable that names it.
    var: &'static str,
    host: String,
    port: u16,
    /// `NAME:PASSWORD` in base64.
    credentials: Option<Zeroizing<String>>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let credentials = if self.credentials.is_some() { "with a password, " } else { "" };
        write!(f, "Proxy({credentials}{self})")
    }
}

impl fmt::Display for Proxy {
    /// Where it is, without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Proxy {
    /// Reads what a variable says.
    fn parse(var: &'static str, text: &str) -> Result<Self, ProxyError> {
        let malformed = || ProxyError::Malformed { var };
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some((scheme, _)) if is_scheme(scheme) => {
                return Err(ProxyError::Scheme { var, scheme: scheme.to_ascii_lowercase() });
            }
            Some(_) => return Err(malformed()),
            None => text,
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (credentials, place) = match authority.rsplit_once('@') {
            Some((credentials, place)) => (Some(decoded(credentials).ok_or_else(malformed)?), place),
            None => (None, authority),
        };
        let (host, port) = split(place).ok_or_else(malformed)?;
        let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || !host.chars().all(is_host) {
            return Err(malformed());
        }
        let credentials = credentials.map(|plain| Zeroizing::new(BASE64_STANDARD.encode(plain.as_slice())));
        Ok(Self { var, host: host.to_owned(), port: port.unwrap_or(DEFAULT_PORT), credentials })
    }

    /// A TCP connection to the target through this proxy. Callers set the limit of time.
    ///
    /// # Errors
    /// When the proxy can't be reached, or refuses.
    pub async fn open(&self, target: &HostPort) -> Result<TcpStream, ProxyError> {
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await;
        let mut tcp = tcp.map_err(|error| ProxyError::Unreachable { proxy: self.to_string(), error })?;
        tunnel::ask(&mut tcp, self, target).await?;
        Ok(tcp)
    }
}

fn is_scheme(scheme: &str) -> bool {
    let is_of_one = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    (1..=16).contains(&scheme.len()) && scheme.chars().all(is_of_one)
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`.
fn split(place: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
        }
        None => match place.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        },
    };
    match port {
        None | Some("") => Some((host, None)),
        Some(port) => Some((host, Some(port.parse().ok().filter(|port| *port != 0)?))),
    }
}

/// With `%40` and the like as the bytes that they stand for.
fn decoded(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            let (high, low) = (digit()?, digit()?);
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    // Without a colon it is a name without a password.
    if !bytes.contains(&b':') {
        bytes.push(b':');
    }
    Some(bytes)
}

/// What the environment says of proxies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    proxy: Option<Proxy>,
    exceptions: Exceptions,
}

impl Proxies {
    /// What this process's environment says.
    ///
    /// # Errors
    /// When it names a proxy that can't be used.
    pub fn from_env() -> Result<Self, ProxyError> {
        Self::read(|var| std::env::var(var).ok())
    }

    /// What these variables say; an empty one is none.
    ///
    /// # Errors
    /// When they name a proxy that can't be used.
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ProxyError> {
        let value = |var: &'static str| {
            let text = lookup(var)?.trim().to_owned();
            (!text.is_empty()).then(|| (var, Zeroizing::new(text)))
        };
        let named = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"].into_iter().find_map(value);
        let proxy = named.map(|(var, text)| Proxy::parse(var, &text)).transpose()?;
        let exceptions = ["NO_PROXY", "no_proxy"].into_iter().find_map(value);
        Ok(Self { proxy, exceptions: exceptions.map(|(_, text)| Exceptions::parse(&text)).unwrap_or_default() })
    }

    /// The proxy for this target, if it is to be reached through one. This machine itself never is.
    pub fn toward(&self, target: &HostPort) -> Option<&Proxy> {
        let is_here = match &target.host {
            Host::Ip(ip) => ip.to_canonical().is_loopback(),
            Host::Name(name) => name.as_str() == "localhost",
        };
        self.proxy.as_ref().filter(|_| !is_here && !self.exceptions.has(target))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vars: &[(&str, &str)]) -> Result<Proxies, ProxyError> {
        Proxies::read(|var| vars.iter().find(|(name, _)| *name == var).map(|(_, value)| (*value).to_owned()))
    }

    fn toward(vars: &[(&str, &str)], target: &str) -> Option<String> {
        read(vars).unwrap().toward(&target.parse().unwrap()).map(ToString::to_string)
    }

    const TARGET: &str = "coordinator.example.com:8443";

    #[test]
    fn the_first_variable_that_says_something_counts() {
        assert_eq!(toward(&[], TARGET), None);
        assert_eq!(toward(&[("HTTP_PROXY", "http://192.0.2.1:3128")], TARGET), None, "that is for other things");
        let vars = [("all_proxy", "http://192.0.2.4:1"), ("ALL_PROXY", "192.0.2.3:1"), ("HTTPS_PROXY", " ")];
        assert_eq!(toward(&vars, TARGET).unwrap(), "192.0.2.3:1");
        let vars = [("ALL_PROXY", "192.0.2.3:1"), ("https_proxy", "http://192.0.2.2/")];
        assert_eq!(toward(&vars, TARGET).unwrap(), "192.0.2.2:80");
        let vars = [("https_proxy", "http://192.0.2.2:1"), ("HTTPS_PROXY", "HTTP://[2001:db8::1]:3128")];
        assert_eq!(toward(&vars, TARGET).unwrap(), "[2001:db8::1]:3128");
    }

    #[test]
    fn this_machine_and_exceptions_are_reached_without() {
        let vars = [("HTTPS_PROXY", "http://192.0.2.2:1"), ("no_proxy", "example.com, 10.0.0.0/8")];
        for target in
            [TARGET, "10.1.2.3:8443", "127.0.0.1:8443", "[::1]:8443", "[::ffff:127.0.0.1]:8443", "localhost:1"]
        {
            assert_eq!(toward(&vars, target), None, "{target}");
        }
        for target in ["coordinator.example.org:8443", "11.1.2.3:8443"] {
            assert!(toward(&vars, target).is_some(), "{target}");
        }
    }

    #[test]
    fn names_and_passwords_are_taken_and_never_shown() {
        let proxies = read(&[("HTTPS_PROXY", "http://alice:p%40ss%3Aw%2Frd@proxy.example.com:3128/")]).unwrap();
        let proxy = proxies.proxy.as_ref().unwrap();
        let credentials = BASE64_STANDARD.decode(proxy.credentials.as_ref().unwrap().as_bytes()).unwrap();
        assert_eq!(credentials, b"alice:p@ss:w/rd");
        let shown = format!("{proxies:?} {proxy}");
        assert!(shown.contains("proxy.example.com:3128") && !shown.contains("alice"), "{shown}");
        let encoded = BASE64_STANDARD.encode("alice:p@ss:w/rd");
        assert!(!shown.contains("ss") || !shown.contains(&encoded), "{shown}");
    }

    #[test]
    fn what_can_not_be_used_is_said_without_what_it_says() {
        for secret in [
            "socks5://alice:s3cret@192.0.2.1:1080",
            "https://alice:s3cret@192.0.2.1:3128",
            "http://alice:s3cret@",
            "http://alice:s3cret@192.0.2.1:0",
            "http://alice:s3cret@192.0.2.1:99999",
            "http://alice:s3cret%4@192.0.2.1:1",
            "http://alice:s3cret@a b:1",
            "http://alice:s3cret@[192.0.2.1]:1",
            "alice:s3cret://192.0.2.1",
        ] {
            let error = format!("{0} {0:?}", read(&[("ALL_PROXY", secret)]).unwrap_err());
            assert!(error.contains("ALL_PROXY") && !error.contains("s3cret") && !error.contains("alice"), "{error}");
        }
        let error = read(&[("https_proxy", "socks5://192.0.2.1:1080")]).unwrap_err().to_string();
        assert!(error.contains("socks5") && error.contains("http://"), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in ".*", no in ".*") {
            let _ = read(&[("HTTPS_PROXY", text.as_str()), ("NO_PROXY", no.as_str())]);
        }
    }
}
