//! What is compared within one run: requests of a guest with the driver domain's own use of the device, and they and
//! streams with a plain copy of the same bytes, and figures with those of another system.

use super::figure::{Figure, Lane, OWN};
use super::peers::{counterpart, is_peer};
use super::targets::MEMORY_DISK;
use serde::{Deserialize, Serialize};

/// A number that stands for many operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Measure {
    /// What all took, divided by their number: the throughput.
    Mean,
    /// What half of them did not exceed, each with its waiting.
    P50,
    /// What 99 of 100 did not exceed.
    P99,
    /// What 999 of 1,000 did not exceed.
    P999,
}

impl Measure {
    /// Those of latency.
    const LATENCY: [Measure; 3] = [Measure::P50, Measure::P99, Measure::P999];

    /// Its value of a figure, in ticks.
    fn of(self, figure: &Figure) -> Option<u64> {
        let key = match self {
            Measure::Mean if figure.lane == Lane::Wall => return Some(figure.total("ticks") / figure.n),
            Measure::Mean => return Some(figure.ticks()),
            Measure::P50 => "median",
            Measure::P99 => "p99",
            Measure::P999 => "p999",
        };
        figure.each.get(key).copied()
    }
}

impl std::fmt::Display for Measure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Measure::Mean => "mean",
            Measure::P50 => "p50",
            Measure::P99 => "p99",
            Measure::P999 => "p99.9",
        })
    }
}

/// What of a figure is compared in a lane: how long an operation takes by the clock is not the same each time.
fn measures(lane: Lane) -> impl Iterator<Item = Measure> {
    let more: &[Measure] = if lane == Lane::Wall { &Measure::LATENCY } else { &[] };
    std::iter::once(Measure::Mean).chain(more.iter().copied())
}

/// One comparison.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Ratio {
    /// What is compared with what.
    pub what: String,
    /// By what: instructions, or the clock.
    pub lane: Lane,
    /// What of all the operations is compared.
    pub of: Measure,
    /// Ticks of one operation of ours.
    pub ours: u64,
    /// Ticks of one operation of what it is compared with.
    pub base: u64,
}

impl Ratio {
    /// How many times more ours takes.
    #[allow(clippy::cast_precision_loss)] // a figure for people
    pub fn times(&self) -> f64 {
        self.ours as f64 / self.base.max(1) as f64
    }
}

/// The driver domain's name of the machine's disk, and the guest's.
const DISKS: [&str; 2] = ["disk0", "xvda"];

/// The disk whose registers the driver domain emulates, as the guest names it.
const EMULATED_DISK: &str = "hda";

/// The other guest of the network's figures.
pub const PEER: &str = "10.0.0.1";

/// Compares a figure with the same one of another system. Who is busy is not known there: what is by that here is compared
/// by all ticks too, with the waiting.
fn with_peer(own: &Figure, peer: &Figure) -> Vec<Ratio> {
    let busy = own.totals.contains_key("busy") && !peer.totals.contains_key("busy");
    let what = format!("{}: here to {}", peer.what(), peer.system);
    let ratio = |of: Measure| {
        let ours = if busy && of == Measure::Mean { own.total("ticks") / own.n } else { of.of(own)? };
        Some(Ratio { what: what.clone(), lane: peer.lane, of, ours, base: of.of(peer)? })
    };
    measures(peer.lane).filter_map(ratio).collect()
}

/// All comparisons that these figures allow.
pub fn ratios(figures: &[Figure]) -> Vec<Ratio> {
    let mut all = Vec::new();
    let read = |lane: Lane, disk: &str, depth: u64| {
        figures.iter().find(|figure| {
            figure.lane == lane
                && figure.system == OWN
                && figure.name == "read-seq"
                && figure.is("disk", disk)
                && figure.word("size") == Some(4096)
                && figure.word("depth") == Some(depth)
                && is_plain(figure)
        })
    };
    let copy = |lane: Lane| {
        figures
            .iter()
            .find(|figure| figure.lane == lane && figure.system == OWN && figure.name == "memory-copy-4096")
    };
    let mut compare = |what: String, lane: Lane, ours: Option<&Figure>, base: Option<&Figure>| {
        let (Some(own), Some(other)) = (ours, base) else { return };
        for of in measures(lane) {
            if let (Some(ours), Some(base)) = (of.of(own), of.of(other)) {
                all.push(Ratio { what: what.clone(), lane, of, ours, base });
            }
        }
    };
    for lane in [Lane::Device, Lane::Wall] {
        for depth in [1, 32] {
            let what = format!("4 KiB read of a device, depth {depth}: guest to driver domain alone");
            compare(what, lane, read(lane, DISKS[1], depth), read(lane, DISKS[0], depth));
        }
    }
    for lane in [Lane::Counted, Lane::Wall] {
        for depth in [1, 32] {
            let what = format!("4 KiB read of the memory disk, depth {depth}: to a plain copy of 4 KiB");
            compare(what, lane, read(lane, MEMORY_DISK, depth), copy(lane));
        }
    }
    for lane in [Lane::Counted, Lane::Wall] {
        let what = "4 KiB read of a memory disk, depth 1: trapped, emulated ATA to paravirtual";
        compare(what.into(), lane, read(lane, EMULATED_DISK, 1), read(lane, MEMORY_DISK, 1));
    }
    let of_net = |lane: Lane, name: &str, direction: Option<&str>| {
        figures.iter().find(|figure| {
            figure.lane == lane
                && figure.system == OWN
                && (figure.area.as_str(), figure.name.as_str()) == ("net", name)
                && figure.is("to", PEER)
                && is_plain(figure)
                && direction.is_none_or(|way| figure.is("direction", way))
        })
    };
    for lane in [Lane::Counted, Lane::Wall] {
        for way in ["send", "receive"] {
            let what = format!("a MiB by TCP, guest to guest, {way}: to a plain copy of a MiB");
            compare(what, lane, of_net(lane, "tcp-stream", Some(way)), of_net(lane, "copy", None));
        }
    }
    for (own, peer) in beside(figures) {
        all.extend(with_peer(own, peer));
    }
    all
}

/// Whether a figure is of one queue, and of the machine that stands for its lane.
fn is_plain(figure: &Figure) -> bool {
    ["queues", "processors"].iter().all(|word| !figure.words.contains_key(*word))
}

/// Figures of ours, each with the same one of another system.
pub fn beside(figures: &[Figure]) -> Vec<(&Figure, &Figure)> {
    let pair = |peer| {
        let own = figures.iter().find(|own| is_same(own, peer))?;
        Some((own, peer))
    };
    figures.iter().filter(|figure| is_peer(&figure.system)).filter_map(pair).collect()
}

/// Whether a figure of ours is the same as one of a peer's.
fn is_same(own: &Figure, peer: &Figure) -> bool {
    own.system == counterpart(&peer.system)
        && own.lane == peer.lane
        && own.area == peer.area
        && own.what() == peer.what()
}

/// Ticks of one operation of ours and of a peer's, by all ticks if by those who were busy is not known of both.
pub fn both(own: &Figure, peer: &Figure) -> Option<[u64; 2]> {
    with_peer(own, peer).first().map(|ratio| [ratio.ours, ratio.base])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_compared_service_by_service() {
        let own = Figure::all("figure micro cpuid : n=1 : median=200", Lane::Counted, OWN).unwrap();
        let line = "figure micro cpuid : n=1 : median=6000\nfigure micro yield : n=1 : median=9000";
        let peer = Figure::all(line, Lane::Counted, "xen").unwrap();
        let found = ratios(&[own, peer].concat());
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].what.as_str(), found[0].ours, found[0].base), ("cpuid: here to xen", 200, 6000));
    }

    #[test]
    fn a_peers_waiting_is_compared_with_waiting() {
        let line = "figure net ping to=10.0.0.254 : n=2 ticks=80";
        let own = Figure::all(&format!("{line} busy=60 :"), Lane::Counted, OWN).unwrap();
        let peer = Figure::all(&format!("{line}0 :"), Lane::Counted, "xen and linux").unwrap();
        let found = ratios(&[own.clone(), peer].concat());
        assert_eq!((own[0].ticks(), found[0].ours, found[0].base), (30, 40, 400));
    }

    #[test]
    fn the_emulated_disk_is_compared_with_the_paravirtual_one() {
        let read = |disk: &str, ticks: u32| {
            format!("figure blk read-seq disk={disk} size=4096 depth=1 : n=2 ticks={ticks} :\n")
        };
        let console = read("hda", 20_000_000) + &read("xvdb", 40_000);
        let found = ratios(&Figure::all(&console, Lane::Counted, OWN).unwrap());
        let [one] = &found[..] else { panic!("{found:?}") };
        assert_eq!((one.ours, one.base), (10_000_000, 20_000));
    }

    #[test]
    fn a_stream_is_compared_with_the_copy_of_the_same_lane() {
        let line = |name: &str, to: &str, ticks: u32| {
            format!("figure net {name} to={to} size=65536 direction=send : n=8 ticks={ticks} :\n")
        };
        let console =
            line("copy", "10.0.0.254", 8) + &line("copy", PEER, 80) + &line("tcp-stream", PEER, 960);
        let found = ratios(&Figure::all(&console, Lane::Wall, OWN).unwrap());
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].ours, found[0].base, found[0].lane), (120, 10, Lane::Wall));
        let counted = Figure::all(&line("copy", PEER, 80), Lane::Counted, OWN).unwrap();
        let wall = Figure::all(&line("tcp-stream", PEER, 960), Lane::Wall, OWN).unwrap();
        assert!(ratios(&[counted, wall].concat()).is_empty());
    }

    #[test]
    fn like_is_compared_with_like() {
        let read = |disk: &str, depth: u32, busy: u32| {
            format!(
                "figure blk read-seq disk={disk} size=4096 depth={depth} : n=2 ticks=999999 busy={busy} :\n"
            )
        };
        let console = read("disk0", 1, 20_000) + &read("xvda", 1, 60_000) + &read("xvda", 32, 5);
        let device = Figure::all(&console, Lane::Device, OWN).unwrap();
        let found = ratios(&device);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].ours, found[0].base, found[0].lane), (30_000, 10_000, Lane::Device));
        assert!((found[0].times() - 3.0).abs() < 1e-9);
        let wall = Figure::all(&console, Lane::Wall, OWN).unwrap();
        assert!((ratios(&wall)[0].times() - 1.0).abs() < 1e-9);
    }
}
