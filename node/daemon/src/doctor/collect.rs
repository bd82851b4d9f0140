//! Looks around for the facts. Nothing is changed, and whatever can't be found out is left out.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use postern_model::{Fqdn, Sha256, token::HostPort};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{CoordinatorSays, Facts, Resolved};
use crate::{
    clock,
    local::{
        client,
        protocol::{Request, ResourceRow, Status},
    },
    netcheck,
    os::{self, nat64, routes},
    state_dir::{Identity, StateDir},
};

/// How long a resolver may take, and the coordinator's HTTPS.
const PATIENCE: Duration = Duration::from_secs(5);
/// The most of an answer's head that is read, in bytes.
const MAX_HEAD: u64 = 8 << 10;
/// Nobody has this name in a zone: it is too long to be typed by chance.
const MADE_UP: &str = "no-such-resource-7f3a9c51e2";

/// All facts, given how the node is.
///
/// # Errors
/// When the daemon is there and can't be asked.
pub async fn collect(state_dir: &Path, status: Status) -> Result<Facts> {
    let identity = StateDir::identity_in(state_dir).ok().flatten();
    let (network, resources) = if status.running {
        let network = ask(state_dir, &Request::Netcheck).await?;
        let resources: Option<Vec<ResourceRow>> = match status.up {
            true => ask(state_dir, &Request::Resources).await.ok(),
            false => None,
        };
        (network, resources.unwrap_or_default())
    } else {
        (netcheck::run(netcheck::Known::of(identity.as_ref())).await, Vec::new())
    };
    let name = match resources.first() {
        Some(row) => Some((row.fqdn.clone(), row.addr, resolve(&row.fqdn).await)),
        None => None,
    };
    let made_up = status.zone.as_ref().and_then(|zone| format!("{MADE_UP}.{zone}").parse::<Fqdn>().ok());
    let made_up = match made_up {
        Some(name) => Some((name.clone(), resolve(&name).await)),
        None => None,
    };
    let coordinator = match &identity {
        Some(identity) => ask_time(&identity.coordinator, identity.pin).await,
        None => CoordinatorSays::Nothing,
    };
    let interface = status.interface.clone().unwrap_or_default();
    let closed = match status.wireguard_port {
        Some(port) => os::closed_to(port, &interface).await,
        None => None,
    };
    Ok(Facts {
        version: env!("CARGO_PKG_VERSION").into(),
        now: i64::try_from(clock::since_epoch().as_secs()).unwrap_or(i64::MAX),
        certificate: identity.as_ref().and_then(validity),
        coordinator,
        left_over: if status.up { Vec::new() } else { os::left_over(state_dir) },
        name,
        made_up,
        routes: routes::routes().await.unwrap_or_default(),
        tunnels: routes::tunnels().await.unwrap_or_default(),
        closed,
        network: Some(network),
        status,
    })
}

async fn ask<T: serde::de::DeserializeOwned>(state_dir: &Path, request: &Request) -> Result<T> {
    let daemon = client::connect(state_dir).await?.context("the daemon has ended")?;
    client::ask(daemon, request).await
}

async fn resolve(name: &Fqdn) -> Resolved {
    match tokio::time::timeout(PATIENCE, tokio::net::lookup_host((name.as_str(), 0))).await {
        Ok(Ok(found)) => {
            let mut found: Vec<_> = found.map(|addr| addr.ip()).collect();
            found.sort_unstable();
            found.dedup();
            Resolved::To(found)
        }
        // The system's resolver tells "no such name" by words alone.
        Ok(Err(error)) if error.to_string().contains("not known") => Resolved::To(Vec::new()),
        Ok(Err(error)) => Resolved::Failed(error.to_string()),
        Err(_) => Resolved::Failed("no answer came in time".into()),
    }
}

fn validity(identity: &Identity) -> Option<(i64, i64)> {
    let (_, certificate) = X509Certificate::from_der(&identity.certificate).ok()?;
    let validity = certificate.validity();
    Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

/// Asks for nothing, since every answer of the coordinator says what time it is.
async fn ask_time(at: &HostPort, pin: Sha256) -> CoordinatorSays {
    match tokio::time::timeout(PATIENCE, head(at, pin)).await {
        Ok(Ok(head)) => date(&head).map_or(CoordinatorSays::Nothing, CoordinatorSays::Time),
        Ok(Err(error)) => {
            let tls = error.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref()?.downcast_ref());
            if tls.is_some_and(postern_pin::is_wrong_pin) {
                CoordinatorSays::WrongKey
            } else {
                CoordinatorSays::Nothing
            }
        }
        Err(_) => CoordinatorSays::Nothing,
    }
}

async fn head(at: &HostPort, pin: Sha256) -> Result<String> {
    let addresses = nat64::addresses(at).await?;
    let tcp = TcpStream::connect(&addresses[..]).await?;
    let mut config = postern_pin::client(pin)?.with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from("postern-coordinator")?;
    let mut tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
    let request = format!("HEAD / HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
    tls.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    // One that closes without a farewell has said enough.
    let _ = tls.take(MAX_HEAD).read_to_end(&mut head).await;
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// The `Date` of an HTTP answer, in seconds since the Unix epoch.
fn date(head: &str) -> Option<i64> {
    let date = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.trim().eq_ignore_ascii_case("date").then(|| value.trim())
    })?;
    let at = httpdate::parse_http_date(date).ok()?;
    let since = at.duration_since(std::time::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_secs()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_is_read_and_whatever_is_none_is_not() {
        let head = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n";
        assert_eq!(date(head), Some(784_111_777));
        assert_eq!(date("HTTP/1.1 200 OK\r\nDate: yesterday\r\n\r\n"), None);
        assert_eq!(date(""), None);
    }
}
