//! Overlay addresses: every device and every resource has one IPv4 and one IPv6 address inside the network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// The pair of addresses of one device or one resource inside the overlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OverlayAddr {
    /// In the network's CGNAT range.
    pub v4: Ipv4Addr,
    /// In the network's ULA /48.
    pub v6: Ipv6Addr,
}

impl OverlayAddr {
    /// Whether `addr` is one of the two.
    pub fn contains(&self, addr: IpAddr) -> bool {
        match addr {
            IpAddr::V4(v4) => v4 == self.v4,
            IpAddr::V6(v6) => v6 == self.v6,
        }
    }
}

/// Where a network's overlay addresses lie.
///
/// Devices have the lower half of 100.64.0.0/10 (RFC 6598) and `<ula>:1::/64`; resources the upper half and
/// `<ula>:2::/64`. The two never overlap, so one look at an address tells which it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRanges {
    /// The network's ULA /48 (RFC 4193), as its first address.
    pub ula: Ipv6Addr,
}

/// The first and last usable index in a range; the first 256 stay free for the network's own use.
pub const FIRST_INDEX: u32 = 256;
/// See [`FIRST_INDEX`].
pub const LAST_INDEX: u32 = (1 << 21) - 2;

const DEVICES_V4: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 0);
const RESOURCES_V4: Ipv4Addr = Ipv4Addr::new(100, 96, 0, 0);
/// Prefix length of the two IPv4 ranges.
pub const RANGE_V4_PREFIX: u8 = 11;
/// Prefix length of the two IPv6 ranges.
pub const RANGE_V6_PREFIX: u8 = 64;

impl NetworkRanges {
    /// A network whose /48 is made from 40 random bits, as RFC 4193 section 3.2 asks.
    pub fn from_random(bits: [u8; 5]) -> Self {
        let mut ula = [0; 16];
        ula[0] = 0xfd;
        ula[1..6].copy_from_slice(&bits);
        Self { ula: ula.into() }
    }

    fn v6(&self, subnet: u16, index: u32) -> Ipv6Addr {
        let [a, b, c, ..] = self.ula.segments();
        let [high, low] = [(index >> 16) as u16, (index & 0xffff) as u16];
        Ipv6Addr::new(a, b, c, subnet, 0, 0, high, low)
    }

    /// The addresses of the device with this index, or `None` when the range is used up.
    pub fn device(&self, index: u32) -> Option<OverlayAddr> {
        self.at(DEVICES_V4, 1, index)
    }

    /// The addresses of the resource with this index, or `None` when the range is used up.
    pub fn resource(&self, index: u32) -> Option<OverlayAddr> {
        self.at(RESOURCES_V4, 2, index)
    }

    fn at(&self, base: Ipv4Addr, subnet: u16, index: u32) -> Option<OverlayAddr> {
        (FIRST_INDEX..=LAST_INDEX)
            .contains(&index)
            .then(|| OverlayAddr { v4: (u32::from(base) + index).into(), v6: self.v6(subnet, index) })
    }

    /// The devices' ranges with their prefix lengths.
    pub fn device_ranges(&self) -> [(IpAddr, u8); 2] {
        [(DEVICES_V4.into(), RANGE_V4_PREFIX), (self.v6(1, 0).into(), RANGE_V6_PREFIX)]
    }

    /// The resources' ranges with their prefix lengths.
    pub fn resource_ranges(&self) -> [(IpAddr, u8); 2] {
        [(RESOURCES_V4.into(), RANGE_V4_PREFIX), (self.v6(2, 0).into(), RANGE_V6_PREFIX)]
    }

    /// Whether `addr` lies in a resource range.
    pub fn is_resource(&self, addr: IpAddr) -> bool {
        self.is_in(addr, RESOURCES_V4, 2)
    }

    /// Whether `addr` lies in a device range.
    pub fn is_device(&self, addr: IpAddr) -> bool {
        self.is_in(addr, DEVICES_V4, 1)
    }

    /// Whether `addr` lies in any of the overlay's ranges, in whatever form it is written.
    pub fn is_overlay(&self, addr: IpAddr) -> bool {
        let addr = addr.to_canonical();
        self.is_device(addr) || self.is_resource(addr)
    }

    fn is_in(&self, addr: IpAddr, base: Ipv4Addr, subnet: u16) -> bool {
        match addr {
            IpAddr::V4(v4) => u32::from(v4) >> (32 - RANGE_V4_PREFIX) == u32::from(base) >> (32 - RANGE_V4_PREFIX),
            IpAddr::V6(v6) => v6.segments()[..4] == self.v6(subnet, 0).segments()[..4],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_and_resources_never_share_an_address() {
        let ranges = NetworkRanges::from_random([1, 2, 3, 4, 5]);
        for index in [FIRST_INDEX, 70_000, LAST_INDEX] {
            let (device, resource) = (ranges.device(index).unwrap(), ranges.resource(index).unwrap());
            assert_ne!(device.v4, resource.v4);
            assert!(ranges.is_device(device.v4.into()) && ranges.is_device(device.v6.into()));
            assert!(ranges.is_resource(resource.v4.into()) && ranges.is_resource(resource.v6.into()));
            assert!(!ranges.is_resource(device.v4.into()) && !ranges.is_resource(device.v6.into()));
        }
        assert!(
            ranges.is_overlay("::ffff:100.64.0.1".parse().unwrap())
                && ranges.is_overlay("100.127.255.255".parse().unwrap())
        );
        assert!(!ranges.is_overlay("10.0.0.5".parse().unwrap()) && !ranges.is_overlay("2001:db8::5".parse().unwrap()));
        assert_eq!(ranges.device(LAST_INDEX + 1), None);
        assert_eq!(ranges.device(0), None);
    }
}
