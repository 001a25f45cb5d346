//! What the project wants to reach, and what was measured on Xen before.
//!
//! Xen's figures are of Debian's Xen 4.17 in QEMU 7.2 with the processor and the counting that `--icount` uses here, every
//! domain's instructions included. They are constants of this table: `--peer xen` measures them anew.

use super::figure::{Figure, Lane, OWN};
use super::peers::{OWN_VTX, XEN, XEN_LINUX, XEN_VTX};
use serde::{Deserialize, Serialize};

/// What is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Goal {
    /// No more than this.
    AtMost(u64),
    /// No less than this.
    AtLeast(u64),
}

impl Goal {
    /// Whether a figure reaches it.
    pub fn is_met(self, ours: u64) -> bool {
        match self {
            Goal::AtMost(most) => ours <= most,
            Goal::AtLeast(least) => ours >= least,
        }
    }

    /// How many times better one figure is than another.
    #[allow(clippy::cast_precision_loss)] // a figure for people
    fn times(self, ours: u64, other: u64) -> Option<f64> {
        match (self, ours as f64, other as f64) {
            _ if ours == 0 || other == 0 => None,
            (Goal::AtMost(_), ours, other) => Some(other / ours),
            (Goal::AtLeast(_), ours, other) => Some(ours / other),
        }
    }
}

impl std::fmt::Display for Goal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Goal::AtMost(most) => write!(f, "≤ {}", grouped(*most)),
            Goal::AtLeast(least) => write!(f, "≥ {}", grouped(*least)),
        }
    }
}

/// One row with its figure.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Standing {
    /// What it is about.
    pub what: String,
    /// Measured on Xen 4.17.
    pub xen: u64,
    /// What is wanted.
    pub goal: Goal,
    /// What this run measured, if it did.
    pub ours: Option<u64>,
    /// What this run measured on Xen, with our guest.
    pub peer: Option<u64>,
    /// What this run measured on VT-x: here, and on Xen.
    pub vtx: Option<[u64; 2]>,
}

impl Standing {
    /// Whether the goal is met, if it was measured.
    pub fn is_met(&self) -> Option<bool> {
        self.ours.map(|ours| self.goal.is_met(ours))
    }

    /// How many times better than Xen.
    pub fn ratio(&self) -> Option<f64> {
        self.goal.times(self.ours?, self.xen)
    }

    /// The same on VT-x.
    pub fn vtx_ratio(&self) -> Option<f64> {
        self.vtx.and_then(|[ours, xen]| self.goal.times(ours, xen))
    }
}

/// How the figure of a row is found.
enum Source {
    /// Ticks of a figure of `micro` with this batch.
    Micro(&'static str, u64),
    /// Ticks per request of the memory disk: load, size, depth.
    Requests(&'static str, u64, u64),
    /// Bytes per 1,000 ticks of the memory disk.
    Bytes(&'static str, u64, u64),
    /// Ticks per operation of a figure of `net`.
    Net(&'static str),
    /// Bytes per 1,000 ticks of a figure of `net`.
    NetBytes(&'static str),
}

/// The disk in the driver domain's memory of the benchmark's domain set.
pub const MEMORY_DISK: &str = "xvdb";

/// The driver domain's address in the network's domain set.
pub const DRIVER_DOMAIN: &str = "10.0.0.254";

struct Row(&'static str, u64, Goal, Source);

use Goal::{AtLeast, AtMost};
use Source::{Bytes, Micro, Net, NetBytes, Requests};

const ROWS: [Row; 17] = [
    Row("CPUID exit", 6_492, AtMost(200), Micro("cpuid", 1)),
    Row("null hypercall (`xen_version`)", 6_616, AtMost(150), Micro("null-hypercall", 1)),
    Row("64 null calls in one multicall", 665_954, AtMost(6_000), Micro("multicall", 64)),
    Row("event to self: send to handler", 11_988, AtMost(700), Micro("event-to-handler", 1)),
    Row("event ping-pong between two guests on one CPU", 66_676, AtMost(6_000), Micro("event-ping-pong", 1)),
    Row("`SCHEDOP_yield`, nobody else to run", 8_939, AtMost(600), Micro("yield", 1)),
    Row(
        "grant copy 4 KiB, 1 in a call (the copy itself: 512)",
        19_486,
        AtMost(1_800),
        Micro("grant-copy-4096", 1),
    ),
    Row(
        "grant copy 4 KiB, 16 in a call (the copies: 8,192)",
        193_231,
        AtMost(14_000),
        Micro("grant-copy-4096", 16),
    ),
    Row(
        "grant map and unmap across domains, 1 in a call",
        40_209,
        AtMost(3_500),
        Micro("grant-map-unmap", 1),
    ),
    Row(
        "grant map and unmap across domains, 32 in a call",
        868_684,
        AtMost(48_000),
        Micro("grant-map-unmap", 32),
    ),
    Row("give back and take one 4 KiB page", 40_891, AtMost(4_000), Micro("page-give-and-take", 1)),
    Row("local APIC register read by MMIO", 15_804, AtMost(2_000), Micro("apic-register-read", 1)),
    Row(
        "block, 4 KiB random read, depth 1, per request",
        93_700,
        AtMost(20_000),
        Requests("read-rand", 4096, 1),
    ),
    Row(
        "block, 4 KiB random read, depth 32, per request",
        14_800,
        AtMost(4_000),
        Requests("read-rand", 4096, 32),
    ),
    Row(
        "block, 128 KiB read, depth 8, bytes per 1,000 instructions",
        1_292,
        AtLeast(4_000),
        Bytes("read-seq", 131_072, 8),
    ),
    Row("ping between guest and driver domain, round trip", 117_000, AtMost(25_000), Net("ping")),
    Row(
        "TCP stream guest to driver domain, bytes per 1,000 instructions",
        408,
        AtLeast(1_000),
        NetBytes("tcp-stream"),
    ),
];

impl Source {
    /// Its value on a system.
    fn find(&self, figures: &[Figure], system: &str) -> Option<u64> {
        let find = |area: &str, name: &str, suits: &dyn Fn(&Figure) -> bool| {
            figures.iter().find(|figure| {
                figure.lane == Lane::Counted
                    && figure.system == system
                    && figure.area == area
                    && figure.name == name
                    && suits(figure)
            })
        };
        let disk = |load: &str, size: u64, depth: u64| {
            find("blk", load, &|figure| {
                figure.is("disk", MEMORY_DISK)
                    && !figure.words.contains_key("queues")
                    && figure.word("size") == Some(size)
                    && figure.word("depth") == Some(depth)
            })
        };
        let to_driver = |figure: &Figure| {
            figure.is("to", DRIVER_DOMAIN)
                && ["queues", "guest"].iter().all(|word| !figure.words.contains_key(*word))
        };
        match self {
            Micro(name, batch) => {
                find("micro", name, &|figure| figure.word("batch").unwrap_or(1) == *batch).map(Figure::ticks)
            }
            Requests(load, size, depth) => disk(load, *size, *depth).map(Figure::ticks),
            Bytes(load, size, depth) => disk(load, *size, *depth).map(Figure::bytes_per_thousand),
            Net(name) => find("net", name, &to_driver).map(Figure::ticks),
            NetBytes(name) => find("net", name, &to_driver).map(Figure::bytes_per_thousand),
        }
    }
}

/// All rows, with what these figures say of them.
pub fn standings(figures: &[Figure]) -> Vec<Standing> {
    let standing = |Row(what, xen, goal, source): &Row| Standing {
        what: (*what).to_owned(),
        xen: *xen,
        goal: *goal,
        ours: source.find(figures, OWN),
        peer: [XEN, XEN_LINUX].iter().find_map(|system| source.find(figures, system)),
        vtx: source.find(figures, OWN_VTX).zip(source.find(figures, XEN_VTX)).map(Into::into),
    };
    ROWS.iter().map(standing).collect()
}

/// A number with commas.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_find_their_figures() {
        let console = "figure micro multicall batch=64 : n=1 ticks=9 : median=5990\n\
            figure micro grant-map-unmap : n=1 ticks=9 : median=4000\n\
            figure micro grant-map-unmap batch=32 : n=1 ticks=9 : median=40000\n\
            figure blk read-rand disk=xvda size=4096 depth=1 : n=2 ticks=99 :\n\
            figure blk read-rand disk=xvdb size=4096 depth=1 : n=2 ticks=50000 :\n\
            figure blk read-seq disk=xvdb size=131072 depth=8 : n=2 ticks=50000 bytes=262144 :\n\
            figure net ping to=10.0.2.2 : n=2 ticks=2 :\n\
            figure net ping to=10.0.0.254 queues=2 : n=2 ticks=4 :\n\
            figure net ping to=10.0.0.254 guest=linux : n=2 ticks=4 :\n\
            figure net ping to=10.0.0.254 : n=2 ticks=80000 :\n";
        let figures = Figure::all(console, Lane::Counted, OWN).unwrap();
        let of = |what: &str| standings(&figures).into_iter().find(|row| row.what.contains(what)).unwrap();
        assert_eq!((of("multicall").ours, of("multicall").is_met()), (Some(5990), Some(true)));
        assert_eq!(
            (of("unmap across domains, 1 ").ours, of("domains, 1 ").is_met()),
            (Some(4000), Some(false))
        );
        assert_eq!(of("domains, 32").ours, Some(40_000));
        assert_eq!(of("depth 1,").ours, Some(25_000));
        assert_eq!((of("128 KiB").ours, of("128 KiB").is_met()), (Some(5242), Some(true)));
        assert_eq!(of("ping between guest and").ours, Some(40_000));
        assert_eq!((of("CPUID").ours, of("CPUID").is_met(), of("CPUID").ratio()), (None, None, None));
        assert!((of("depth 1,").ratio().unwrap() - 3.748).abs() < 1e-3);
    }

    #[test]
    fn other_systems_stand_beside() {
        let of = |ticks: u64, system: &str| {
            let line = format!("figure micro cpuid : n=1 : median={ticks}");
            Figure::all(&line, Lane::Counted, system).unwrap()
        };
        let all = [of(200, OWN), of(6000, XEN), of(250, OWN_VTX), of(1500, XEN_VTX)].concat();
        let row = standings(&all).into_iter().find(|row| row.what.contains("CPUID")).unwrap();
        assert_eq!((row.ours, row.peer, row.vtx), (Some(200), Some(6000), Some([250, 1500])));
        assert!((row.vtx_ratio().unwrap() - 6.0).abs() < 1e-9);
    }

    #[test]
    fn figures_by_the_clock_are_no_standing() {
        let figures = Figure::all("figure micro cpuid : n=1 : median=1", Lane::Wall, OWN).unwrap();
        assert!(standings(&figures).iter().all(|row| row.ours.is_none()));
    }

    #[test]
    fn numbers_have_commas() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
