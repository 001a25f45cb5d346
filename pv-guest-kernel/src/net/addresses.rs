//! The addresses of this machine: `ip=` on the command line, else DHCP; and the IPv6 address of the link.

use core::str::FromStr;

use smoltcp::iface::{Interface, SocketHandle, SocketSet};
use smoltcp::socket::dhcpv4;
use smoltcp::wire::{IpAddress, IpCidr, Ipv4Address, Ipv4Cidr, Ipv6Address};

use crate::cmdline;

/// Where IPv4 addresses come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A server on the network.
    Dhcp,
    /// `ip=ADDRESS/BITS[,GATEWAY]`, or the command `ip`.
    Fixed,
    /// Nobody: `ip=none`.
    None,
}

/// A fixed address and, if there is one, a gateway: `10.0.0.1/24` or `10.0.0.2/24,10.0.0.1`.
pub fn parse_fixed(text: &str) -> Option<(IpCidr, Option<Ipv4Address>)> {
    let (address, gateway) = match text.split_once(',') {
        Some((address, gateway)) => (address, Some(Ipv4Address::from_str(gateway).ok()?)),
        None => (text, None),
    };
    Some((IpCidr::from_str(address).ok()?, gateway))
}

/// The IPv6 address that a hardware address makes on its own link (RFC 4291, appendix A).
pub fn link_local(mac: [u8; 6]) -> Ipv6Address {
    let [a, b, c, d, e, f] = mac.map(u16::from);
    Ipv6Address::new(0xfe80, 0, 0, 0, (a ^ 2) << 8 | b, c << 8 | 0xff, 0xfe00 | d, e << 8 | f)
}

/// Adds an address; the oldest one of its kind but the link's own makes room if need be.
pub fn add(interface: &mut Interface, address: IpCidr) {
    interface.update_ip_addrs(|all| {
        all.retain(|other| other.address() != address.address());
        if all.is_full() {
            all.pop();
        }
        let _ = all.push(address);
    });
}

/// Sets the IPv4 gateway.
pub fn set_gateway(interface: &mut Interface, gateway: Option<Ipv4Address>) {
    match gateway {
        Some(gateway) => {
            let _ = interface.routes_mut().add_default_ipv4_route(gateway);
        }
        None => {
            interface.routes_mut().remove_default_ipv4_route();
        }
    }
}

/// Gives the interface its first addresses.
pub fn begin(
    interface: &mut Interface,
    sockets: &mut SocketSet<'static>,
    mac: [u8; 6],
) -> (Source, Option<SocketHandle>) {
    add(interface, IpCidr::new(IpAddress::Ipv6(link_local(mac)), 64));
    match cmdline::value("ip") {
        None | Some("dhcp") => {
            let handle = sockets.add(dhcpv4::Socket::new());
            (Source::Dhcp, Some(handle))
        }
        Some("none") => (Source::None, None),
        Some(text) => match parse_fixed(text) {
            Some((address, gateway)) => {
                add(interface, address);
                set_gateway(interface, gateway);
                (Source::Fixed, None)
            }
            None => {
                log::error!("ip={text}: neither dhcp, none, nor an address such as 10.0.0.2/24,10.0.0.1");
                (Source::None, None)
            }
        },
    }
}

/// Does what the DHCP server said; true if addresses changed.
pub fn follow(interface: &mut Interface, socket: &mut dhcpv4::Socket<'_>) -> bool {
    let drop_ipv4 = |interface: &mut Interface| {
        interface.update_ip_addrs(|all| all.retain(|cidr| matches!(cidr, IpCidr::Ipv6(_))));
    };
    match socket.poll() {
        None => false,
        Some(dhcpv4::Event::Configured(config)) => {
            let address: Ipv4Cidr = config.address;
            log::info!("eth0: {address} from a DHCP server");
            drop_ipv4(interface);
            add(interface, IpCidr::Ipv4(address));
            set_gateway(interface, config.router);
            true
        }
        Some(dhcpv4::Event::Deconfigured) => {
            drop_ipv4(interface);
            set_gateway(interface, None);
            true
        }
    }
}
