//! The TUN device's addresses and routes. They go with the device, so nothing of it is in the journal.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use rtnetlink::{
    Handle, LinkUnspec, RouteMessageBuilder,
    packet_route::{
        address::{AddressAttribute, AddressFlags},
        route::RouteScope,
    },
};

use super::NetworkConfig;

/// Gives the device its addresses, brings it up, and leads the overlay's ranges to it.
pub(super) async fn apply(config: &NetworkConfig) -> Result<()> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let task = tokio::spawn(connection);
    let applied = configure(&handle, config).await;
    task.abort();
    applied
}

async fn configure(handle: &Handle, config: &NetworkConfig) -> Result<()> {
    let mut links = handle.link().get().match_name(config.interface.clone()).execute();
    let link = links.try_next().await?.with_context(|| format!("the interface {} is gone", config.interface))?;
    let index = link.header.index;
    add_address(handle, index, config.addr.v4.into(), 32).await.context("the IPv4 address can't be set")?;
    let v6 = add_address(handle, index, config.addr.v6.into(), 128).await;
    handle
        .link()
        .set(LinkUnspec::new_with_index(index).up().build())
        .execute()
        .await
        .context("the interface can't be brought up")?;
    if let Err(error) = &v6 {
        tracing::warn!(%error, "this machine has no IPv6; resources are reached by IPv4 alone");
    }
    let mut ranges = config.ranges.resource_ranges().to_vec();
    if config.is_gateway {
        // Replies to clients.
        ranges.extend(config.ranges.device_ranges());
    }
    for (range, prefix) in ranges.into_iter().filter(|(range, _)| range.is_ipv4() || v6.is_ok()) {
        let source: IpAddr = if range.is_ipv4() { config.addr.v4.into() } else { config.addr.v6.into() };
        let route = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(range, prefix)?
            .pref_source(source)?
            .output_interface(index)
            .scope(if range.is_ipv4() { RouteScope::Link } else { RouteScope::Universe })
            .build();
        let added = handle.route().add(route).replace().execute().await;
        added.with_context(|| format!("the route to {range}/{prefix} can't be set"))?;
    }
    Ok(())
}

async fn add_address(handle: &Handle, index: u32, addr: IpAddr, prefix: u8) -> Result<(), rtnetlink::Error> {
    let mut request = handle.address().add(index, addr, prefix).replace();
    if addr.is_ipv6() {
        // Nobody else can have it, so it need not wait for anyone to object.
        let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute;
        request.message_mut().attributes.push(AddressAttribute::Flags(flags));
    }
    request.execute().await
}
