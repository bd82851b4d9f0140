//! Asks the router to pass packets on to this node: by PCP, by NAT-PMP, by UPnP. Where that works, peers reach it at an address
//! that does not depend on what the NAT does otherwise.
//!
//! Only the default gateway is asked, UPnP's search too: elsewhere on the network anybody may answer. Failure is the usual case
//! and quiet; `postern netcheck` tells of it. A mapping is renewed at half of its life, and taken back when the node goes down.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU16,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use crab_nat::{InternetProtocol, PortMappingOptions, PortMappingType, TimeoutConfig, natpmp};
use igd_next::{
    PortMappingProtocol, SearchOptions,
    aio::{self, tokio::Tokio},
};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

/// How long a mapping is asked for.
const LIFE: Duration = Duration::from_secs(7200);
/// The shortest time after which one is renewed, whatever the router says.
const SHORTEST: Duration = Duration::from_secs(60);
/// When a router that could not is asked again.
const RETRY: Duration = Duration::from_secs(600);
/// How long each of the protocols may take, and taking back a mapping.
const PATIENCE: Duration = Duration::from_secs(4);
const FAREWELL: Duration = Duration::from_secs(1);
/// Where UPnP's routers listen for searches.
const SEARCH_PORT: u16 = 1900;
/// What a router's list of mappings shows.
const DESCRIPTION: &str = "postern";

/// Where a mapping is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// The router.
    pub(super) gateway: Ipv4Addr,
    /// This machine's address towards it.
    pub(super) own: Ipv4Addr,
}

/// How a router was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MappingProtocol {
    /// RFC 6887.
    Pcp,
    /// RFC 6886.
    NatPmp,
    /// UPnP's WANIPConnection.
    Upnp,
}

impl std::fmt::Display for MappingProtocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Pcp => "PCP",
            Self::NatPmp => "NAT-PMP",
            Self::Upnp => "UPnP",
        })
    }
}

/// What became of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum PortMapping {
    /// There is no NAT, or it is not known yet.
    #[default]
    NotNeeded,
    /// The router is being asked.
    Asking,
    /// It passes packets on from this address.
    Mapped {
        /// How it was asked.
        protocol: MappingProtocol,
        /// From where.
        addr: SocketAddr,
    },
    /// It does not do that, as far as it can be asked.
    Unavailable,
}

/// Keeps a mapping for as long as one is wanted.
#[derive(Debug)]
pub(super) struct Keeper {
    wanted: watch::Sender<Option<Place>>,
    state: watch::Receiver<PortMapping>,
    task: JoinHandle<()>,
}

impl Keeper {
    /// For the WireGuard port.
    pub(super) fn start(port: u16) -> Self {
        let (wanted, latest) = watch::channel(None);
        let (tell, state) = watch::channel(PortMapping::NotNeeded);
        Self { wanted, state, task: tokio::spawn(keep(port, latest, tell)) }
    }

    /// Where a mapping is wanted, if anywhere. The same place again changes nothing.
    pub(super) fn want(&self, place: Option<Place>) {
        self.wanted.send_if_modified(|wanted| std::mem::replace(wanted, place) != place);
    }

    /// The network has changed: a router that looks the same may be another one.
    pub(super) fn begin_anew(&self) {
        self.wanted.send_modify(|_| {});
    }

    /// What became of it; changes are told.
    pub(super) fn state(&mut self) -> &mut watch::Receiver<PortMapping> {
        &mut self.state
    }

    /// Takes the mapping back.
    pub(super) async fn stop(self) {
        drop(self.wanted);
        let abort = self.task.abort_handle();
        if timeout(FAREWELL * 2, self.task).await.is_err() {
            abort.abort();
        }
    }
}

/// A mapping that the router has made.
enum Mapping {
    /// By PCP or NAT-PMP.
    Asked(Box<crab_nat::PortMapping>),
    Upnp {
        router: aio::Gateway<Tokio>,
        own: SocketAddr,
        external: u16,
    },
}

async fn keep(port: u16, mut wanted: watch::Receiver<Option<Place>>, tell: watch::Sender<PortMapping>) {
    let Some(port) = NonZeroU16::new(port) else { return };
    loop {
        let Some(place) = *wanted.borrow_and_update() else {
            tell.send_replace(PortMapping::NotNeeded);
            if wanted.changed().await.is_err() {
                return;
            }
            continue;
        };
        tell.send_replace(PortMapping::Asking);
        let mapped = tokio::select! {
            mapped = map(place, port) => mapped,
            changed = wanted.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        let (protocol, addr, mut mapping) = match mapped {
            Ok(mapped) => mapped,
            Err(error) => {
                tracing::debug!(error = format!("{error:#}"), "the router maps no port");
                tell.send_replace(PortMapping::Unavailable);
                tokio::select! {
                    () = sleep(RETRY) => continue,
                    changed = wanted.changed() => match changed {
                        Ok(()) => continue,
                        Err(_) => return,
                    },
                }
            }
        };
        tracing::info!(%protocol, %addr, "the router passes packets on to this node");
        tell.send_replace(PortMapping::Mapped { protocol, addr });
        let is_over = loop {
            tokio::select! {
                () = sleep(mapping.renew_in()) => if let Err(error) = mapping.renew().await {
                    tracing::debug!(error = format!("{error:#}"), "a port mapping can't be renewed");
                    break false;
                },
                changed = wanted.changed() => break changed.is_err(),
            }
        };
        let _ = timeout(FAREWELL, mapping.take_back()).await;
        if is_over {
            return;
        }
    }
}

/// Asks by one protocol after the other.
async fn map(place: Place, port: NonZeroU16) -> Result<(MappingProtocol, SocketAddr, Mapping)> {
    let mapped = match timeout(PATIENCE, ask(place, port)).await {
        Ok(Ok(mapped)) => Ok(mapped),
        Ok(Err(error)) => Err(error),
        Err(_) => bail_silent("PCP and NAT-PMP"),
    };
    let error = match mapped {
        Ok(mapped) => return Ok(mapped),
        Err(error) => error,
    };
    tracing::debug!(error = format!("{error:#}"), "the router speaks neither PCP nor NAT-PMP");
    timeout(PATIENCE, ask_upnp(place, port)).await.context("no answer to UPnP came in time")?
}

fn bail_silent<T>(what: &str) -> Result<T> {
    bail!("no answer to {what} came in time")
}

async fn ask(place: Place, port: NonZeroU16) -> Result<(MappingProtocol, SocketAddr, Mapping)> {
    let Place { gateway, own } = place;
    let patience = TimeoutConfig {
        initial_timeout: Duration::from_millis(250),
        max_retries: 2,
        max_retry_timeout: Some(Duration::from_millis(750)),
    };
    let options = PortMappingOptions {
        external_port: Some(port),
        lifetime_seconds: u32::try_from(LIFE.as_secs()).ok(),
        timeout_config: Some(patience),
    };
    let by_pcp = crab_nat::PortMapping::new(gateway.into(), own.into(), InternetProtocol::Udp, port, options).await;
    let mapping = match by_pcp {
        Ok(mapping) => mapping,
        // Some routers that speak only the older one are silent instead of saying so.
        Err(_) => natpmp::port_mapping(gateway.into(), InternetProtocol::Udp, port, options).await?,
    };
    let (protocol, external) = match mapping.mapping_type() {
        PortMappingType::Pcp { external_ip, .. } => (MappingProtocol::Pcp, external_ip),
        PortMappingType::NatPmp => {
            let external = natpmp::external_address(gateway.into(), Some(patience)).await?;
            (MappingProtocol::NatPmp, IpAddr::V4(external))
        }
    };
    let addr = SocketAddr::new(external.to_canonical(), mapping.external_port().get());
    Ok((protocol, sensible(addr)?, Mapping::Asked(Box::new(mapping))))
}

async fn ask_upnp(place: Place, port: NonZeroU16) -> Result<(MappingProtocol, SocketAddr, Mapping)> {
    let options = SearchOptions {
        bind_addr: (place.own, 0).into(),
        broadcast_address: (place.gateway, SEARCH_PORT).into(),
        timeout: Some(PATIENCE),
        single_search_timeout: Some(PATIENCE),
    };
    let router = aio::tokio::search_gateway(options).await?;
    if router.addr.ip() != IpAddr::V4(place.gateway) {
        bail!("somebody else answered in the router's place");
    }
    let own = SocketAddr::from((place.own, port.get()));
    let life = u32::try_from(LIFE.as_secs())?;
    let addr = router.get_any_address(PortMappingProtocol::UDP, own, life, DESCRIPTION).await?;
    let mapping = Mapping::Upnp { router, own, external: addr.port() };
    Ok((MappingProtocol::Upnp, sensible(addr)?, mapping))
}

/// A router may say anything.
fn sensible(addr: SocketAddr) -> Result<SocketAddr> {
    let ip = addr.ip();
    if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || addr.port() == 0 {
        bail!("the router says that it passes packets on from {addr}");
    }
    Ok(addr)
}

impl Mapping {
    fn renew_in(&self) -> Duration {
        match self {
            Self::Asked(mapping) => (Duration::from_secs(mapping.lifetime().into()) / 2).clamp(SHORTEST, LIFE / 2),
            Self::Upnp { .. } => LIFE / 2,
        }
    }

    async fn renew(&mut self) -> Result<()> {
        let renewing = async {
            match self {
                Self::Asked(mapping) => {
                    let before = (mapping.external_port(), format!("{:?}", mapping.mapping_type()));
                    mapping.renew().await?;
                    if before != (mapping.external_port(), format!("{:?}", mapping.mapping_type())) {
                        bail!("the router maps another address now");
                    }
                }
                Self::Upnp { router, own, external } => {
                    let life = u32::try_from(LIFE.as_secs())?;
                    router.add_port(PortMappingProtocol::UDP, *external, *own, life, DESCRIPTION).await?;
                }
            }
            Ok(())
        };
        timeout(PATIENCE, renewing).await.context("no answer came in time")?
    }

    async fn take_back(self) {
        let taken = match self {
            Self::Asked(mapping) => mapping.try_drop().await.map_err(|(error, _)| error.to_string()),
            Self::Upnp { router, external, .. } => {
                router.remove_port(PortMappingProtocol::UDP, external).await.map_err(|error| error.to_string())
            }
        };
        if let Err(error) = taken {
            tracing::debug!(error, "a port mapping can't be taken back; it ends by itself");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UdpSocket;

    const PORT: u16 = 51820;
    const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

    /// A router that knows NAT-PMP alone, at an address of this machine's own; counts the mappings that it has.
    async fn router(socket: UdpSocket, mappings: watch::Sender<u32>) {
        let mut buffer = [0; 1100];
        loop {
            let (len, from) = socket.recv_from(&mut buffer).await.unwrap();
            let epoch = [0, 0, 0, 1];
            let answer = match &buffer[..len] {
                [0, 0] => [&[0, 128, 0, 0][..], &epoch, &OUTSIDE.octets()].concat(),
                [0, 1, _, _, internal @ .., 0, 0, 0, 0] if internal.len() == 4 => {
                    mappings.send_modify(|count| *count -= 1);
                    [&[0, 129, 0, 0][..], &epoch, &internal[..2], &[0; 6]].concat()
                }
                [0, 1, _, _, internal, port, _, _, life @ ..] => {
                    mappings.send_modify(|count| *count += 1);
                    [&[0, 129, 0, 0][..], &epoch, &[*internal, *port], &4000_u16.to_be_bytes(), life].concat()
                }
                // PCP, which it does not know.
                _ => vec![0, 129, 0, 1, 0, 0, 0, 1],
            };
            socket.send_to(&answer, from).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_mapping_is_told_and_taken_back() {
        let gateway = Ipv4Addr::new(127, 66, 7, 8);
        let socket = UdpSocket::bind((gateway, crab_nat::GATEWAY_PORT)).await.unwrap();
        let (count, mut mappings) = watch::channel(0);
        tokio::spawn(router(socket, count));
        let mut keeper = Keeper::start(PORT);
        assert_eq!(*keeper.state().borrow(), PortMapping::NotNeeded);
        keeper.want(Some(Place { gateway, own: Ipv4Addr::LOCALHOST }));
        let is_mapped = |state: &PortMapping| matches!(state, PortMapping::Mapped { .. });
        let mapped = *keeper.state().wait_for(is_mapped).await.unwrap();
        let addr = SocketAddr::from((OUTSIDE, 4000));
        assert_eq!(mapped, PortMapping::Mapped { protocol: MappingProtocol::NatPmp, addr });
        assert_eq!(*mappings.borrow_and_update(), 1);
        keeper.stop().await;
        mappings.wait_for(|count| *count == 0).await.unwrap();
    }

    #[test]
    fn a_router_that_says_nonsense_is_not_believed() {
        for addr in ["0.0.0.0:4000", "127.0.0.1:4000", "224.0.0.1:4000", "198.51.100.7:0"] {
            assert!(sensible(addr.parse().unwrap()).is_err(), "{addr}");
        }
        assert!(sensible("198.51.100.7:4000".parse().unwrap()).is_ok());
    }
}
