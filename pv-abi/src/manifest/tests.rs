use super::*;
use std::string::ToString;
use std::vec::Vec;

const WHOLE: &str = "\
# two domains
xenolith 1

[hv]
cmdline = loglevel=info trace
[domain dom0]
kernel = pv-guest-kernel        # name of a file in the archive
cmdline = role=dom0 exec=a#b
memory = 64M
roles = control driver store
pci = all
start = boot
[domain guest-1]
kernel = pv-guest-kernel
initrd = root.img
memory = 32768K
vcpus = 2
pci = 00:03.0 0001:1f:1F.7
start = manual
weight = 512
cap = 50
cpus = 0,2-3
grant-frames = 128
disk = machine
disk = machine1:1M+64M,ro
disk = memory:16M
disk = memory:1M,emulated
vif = bridge,mac=02:00:00:00:00:01,rate=10M,mtu=9000,ip=10.0.0.2,antispoof,ip=fd00::2
vif = bridge
";

#[test]
fn a_whole_manifest_is_read() {
    let manifest = Manifest::parse(WHOLE).unwrap();
    assert_eq!(manifest.cmdline(), "loglevel=info trace");
    assert_eq!(manifest.domains().map(|domain| domain.name).collect::<Vec<_>>(), ["dom0", "guest-1"]);

    let dom0 = manifest.domain("dom0").unwrap();
    assert_eq!((dom0.kernel, dom0.initrd, dom0.cmdline), ("pv-guest-kernel", None, "role=dom0 exec=a#b"));
    assert_eq!((dom0.memory, dom0.vcpus, dom0.roles), (64 << 20, 1, Roles::all()));
    assert!(dom0.pci.is_all());
    assert_eq!((dom0.start, dom0.weight, dom0.cap, dom0.cpus), (Start::Boot, 256, 0, CpuSet::ALL));
    assert_eq!((dom0.disks().count(), dom0.vifs().count()), (0, 0));

    let guest = manifest.domain("guest-1").unwrap();
    assert_eq!((guest.initrd, guest.memory, guest.vcpus), (Some("root.img"), 32 << 20, 2));
    assert_eq!((guest.start, guest.weight, guest.cap, guest.cpus.bits()), (Start::Manual, 512, 50, 0b1101));
    assert_eq!((dom0.grant_frames, guest.grant_frames), (GRANT_FRAMES, 128));
    let pci: Vec<_> = guest.pci.iter().map(|address| address.to_string()).collect();
    assert_eq!(pci, ["0000:00:03.0", "0001:1f:1f.7"]);
    assert_eq!(guest.pci.iter().last().unwrap().devfn(), 0xff);
    let disks: Vec<_> = guest.disks().collect();
    assert_eq!(
        disks,
        [
            Disk { source: DiskSource::Machine, range: None, read_only: false, emulated: false },
            Disk {
                source: DiskSource::MachineDisk(1),
                range: Some((1 << 20, 64 << 20)),
                read_only: true,
                emulated: false
            },
            Disk { source: DiskSource::Memory(16 << 20), range: None, read_only: false, emulated: false },
            Disk { source: DiskSource::Memory(1 << 20), range: None, read_only: false, emulated: true },
        ]
    );
    let vifs: Vec<_> = guest.vifs().collect();
    let words = |vif: &Vif| (vif.mac, vif.rate, vif.mtu, vif.antispoof);
    assert_eq!(words(&vifs[0]), (Some([2, 0, 0, 0, 0, 1]), Some(10 << 20), Some(9000), true));
    let addresses: Vec<_> = vifs[0].addresses().map(|address| address.to_string()).collect();
    assert_eq!(addresses, ["10.0.0.2", "fd00::2"]);
    assert_eq!(words(&vifs[1]), (None, None, None, false));
    assert_eq!(vifs[1].addresses().count(), 0);
    assert!(manifest.domain("guest-2").is_none());
}

#[test]
fn every_mistake_is_named_with_its_line() {
    let cases = [
        ("", 1, ErrorKind::Version),
        ("# nothing\n", 1, ErrorKind::Version),
        ("xenolith 2\n", 1, ErrorKind::Version),
        ("\n[hv]\n", 2, ErrorKind::Version),
        ("xenolith 1\nmemory = 3\n", 2, ErrorKind::NoSection("memory")),
        ("xenolith 1\nmemory\n", 2, ErrorKind::Syntax),
        ("xenolith 1\n[host]\n", 2, ErrorKind::UnknownSection("host")),
        ("xenolith 1\n[domains]\n", 2, ErrorKind::UnknownSection("domains")),
        ("xenolith 1\n[domain]\n", 2, ErrorKind::BadName("")),
        ("xenolith 1\n[domain A]\n", 2, ErrorKind::BadName("A")),
        ("xenolith 1\n[hv]\n[hv]\n", 3, ErrorKind::Again("hv")),
        ("xenolith 1\n[hv]\ncolour = red\n", 3, ErrorKind::UnknownKey("colour")),
        ("xenolith 1\n[hv]\ncmdline = a\ncmdline = b\n", 4, ErrorKind::KeyAgain("cmdline")),
        ("xenolith 1\n[domain a]\nmemory = 1M\n", 2, ErrorKind::Missing("kernel")),
        ("xenolith 1\n[domain a]\nkernel = k\n", 2, ErrorKind::Missing("memory")),
        (
            "xenolith 1\n[domain a]\nkernel = k\nmemory = 1M\n\n[domain a]\nkernel = k\nmemory = 1M",
            6,
            ErrorKind::Again("a"),
        ),
        ("xenolith 1\n[domain a]\nkernel = k\nkernel = k\n", 4, ErrorKind::KeyAgain("kernel")),
        ("xenolith 1\n[domain a]\nkernel =\n", 3, ErrorKind::BadValue("kernel", "")),
        ("xenolith 1\n[domain a]\nkernel = k\nkern = k\n", 4, ErrorKind::UnknownKey("kern")),
        ("xenolith 1\n[domain a]\nkernel k\n", 3, ErrorKind::Syntax),
    ];
    for (text, line, kind) in cases {
        assert_eq!(Manifest::parse(text).unwrap_err(), Error { line, kind }, "{text:?}");
    }
    let error = Manifest::parse("xenolith 1\n[hv]\ncolour = red\n").unwrap_err();
    assert_eq!(error.to_string(), "manifest, line 3: unknown key `colour`");
}

#[test]
fn wrong_values_are_refused() {
    let cases = [
        ("memory", "0"),
        ("memory", "1000"),
        ("memory", "4X"),
        ("memory", "+4M"),
        ("memory", "99999999999G"),
        ("vcpus", "0"),
        ("vcpus", "65"),
        ("roles", "king"),
        ("pci", "0:0"),
        ("pci", "00:20.0"),
        ("pci", "00:03.8"),
        ("pci", "00:+3.0"),
        ("start", "now"),
        ("weight", "0"),
        ("cap", "-1"),
        ("cpus", ""),
        ("cpus", "3-1"),
        ("cpus", "64"),
        ("grant-frames", "0"),
        ("grant-frames", "257"),
        ("disk", "floppy"),
        ("disk", "machine0:1M"),
        ("disk", "machine0:1+512"),
        ("disk", "machine0:0+0"),
        ("disk", "machine,rw"),
        ("disk", "memory"),
        ("disk", "memory:100"),
        ("vif", "nat"),
        ("vif", "bridge,mac=02:00:00:00:00"),
        ("vif", "bridge,mac=03:00:00:00:00:01"),
        ("vif", "bridge,rate=0"),
        ("vif", "bridge,mtu=67"),
        ("vif", "bridge,mtu=65522"),
        ("vif", "bridge,mtu=1500,mtu=1500"),
        ("vif", "bridge,ip=10.0.0.2"),
        ("vif", "bridge,antispoof,ip=10.0.0"),
        ("vif", "bridge,antispoof,ip=1.1.1.1,ip=1.1.1.2,ip=1.1.1.3,ip=1.1.1.4,ip=1.1.1.5"),
    ];
    for (key, value) in cases {
        let text = std::format!("xenolith 1\n[domain a]\n{key} = {value}\n");
        let error = Manifest::parse(&text).unwrap_err();
        assert_eq!(error, Error { line: 3, kind: ErrorKind::BadValue(key, value) });
    }
}

#[test]
fn any_cut_and_any_damage_gives_an_answer() {
    for end in 0..WHOLE.len() {
        let _ = Manifest::parse(&WHOLE[..end]);
        let damaged = std::format!("{}={}", &WHOLE[..end], &WHOLE[end + 1..]);
        if let Ok(manifest) = Manifest::parse(&damaged) {
            for domain in manifest.domains() {
                let _ = (domain.disks().count(), domain.vifs().count(), domain.pci.iter().count());
            }
        }
    }
}
