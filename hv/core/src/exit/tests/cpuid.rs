use super::*;

fn ask(bench: &Bench, leaf: u32, sub: u32) -> [u32; 4] {
    bench.with(|context, bench| {
        context.hw.gprs_mut().rax = 0xdead_0000_0000 | u64::from(leaf);
        context.hw.gprs_mut().rcx = u64::from(sub);
        assert_eq!(handle(Exit::Cpuid, context, bench), Resume::Continue);
        let r = context.hw.gprs();
        [r.rax, r.rbx, r.rcx, r.rdx].map(|value| u32::try_from(value).unwrap())
    })
}

#[test]
fn the_leaves_of_the_abi() {
    let bench = Bench::new();
    let [max, b, c, d] = ask(&bench, 0x4000_0000, 0);
    let signature: Vec<_> = [b, c, d].into_iter().flat_map(u32::to_le_bytes).collect();
    assert_eq!((max, signature.as_slice()), (0x4000_0005, b"XenVMMXenVMM".as_slice()));
    assert_eq!(ask(&bench, 0x4000_0001, 0), [0x0004_0011, 0, 0, 0]);
    assert_eq!(ask(&bench, 0x4000_0002, 0), [1, 0x4000_0000, 0, 0]);
    assert_eq!(ask(&bench, 0x4000_0003, 0), [0b110, 0, 1_000_000, 0]);
    assert_eq!(ask(&bench, 0x4000_0003, 1), [0, 0, 0x8000_0000, 1]);
    let [features, vcpu, domain, _] = ask(&bench, 0x4000_0004, 0);
    assert_eq!((features, vcpu, domain), (0b101_1010, 0, 1));
    assert_eq!(ask(&bench, 0x4000_0006, 0), [0; 4]);
    assert_eq!(ask(&bench, 0x4000_0100, 0), [0; 4]);
    assert_eq!(bench.rip(), 3 * 8, "each was skipped");
}

#[test]
fn features_of_the_host_pass_through_the_mask() {
    let bench = Bench::new();
    let [_, ebx, ecx, edx] = ask(&bench, 1, 0);
    for (bit, there) in
        [(31, true), (21, true), (24, true), (26, true), (28, true), (3, false), (5, false), (27, false)]
    {
        assert_eq!(ecx >> bit & 1 == 1, there, "ECX bit {bit}");
    }
    assert!(edx & 1 << 9 != 0 && edx & 1 << 12 != 0, "APIC and MTRR are always there");
    assert_eq!(ebx >> 24, 0);
    bench.with(|context, _| context.hw.set(Reg::Cr4, 1 << 18));
    assert_ne!(ask(&bench, 1, 0)[2] & 1 << 27, 0, "OSXSAVE follows CR4");
    let [_, ebx, ecx, _] = ask(&bench, 7, 0);
    assert_eq!((ebx, ecx & !0xc), (0x129, 0));
    let [_, _, ecx, edx] = ask(&bench, 0x8000_0001, 0);
    assert_eq!(ecx & 1 << 2, 0, "no SVM for guests");
    assert_ne!(edx & 1 << 29, 0);
    assert_eq!(ask(&bench, 0x8000_0009, 0), [0; 4]);
    assert_eq!(ask(&bench, 0x8000_0008, 0)[0], 0x3028);
}

#[test]
fn the_size_of_the_save_area_follows_the_components() {
    let bench = Bench::new();
    assert_eq!(bench.policy.xcr0(), 7);
    bench.with(|context, _| context.hw.set(Reg::Xcr0, 3));
    assert_eq!(ask(&bench, 0xd, 0), [7, 576, 832, 0]);
    bench.with(|context, _| context.hw.set(Reg::Xcr0, 7));
    assert_eq!(ask(&bench, 0xd, 0), [7, 832, 832, 0]);
    assert_eq!(ask(&bench, 0xd, 2), [256, 576, 0, 0]);
    assert_eq!(ask(&bench, 0xd, 9), [0; 4]);
}

#[test]
fn vcpus_are_cores_of_one_package() {
    let bench = Bench::new();
    let policy = &bench.policy;
    let at = |vcpu, leaf, sub| policy.leaf(VcpuId::new(vcpu), leaf, sub, || 0, || 1);
    assert_eq!(at(1, 0xb, 0), [0, 1, 0x100, 1]);
    assert_eq!(at(1, 0xb, 1), [1, 2, 0x201, 1]);
    assert_eq!(at(1, 0xb, 2), [0, 0, 2, 1]);
    assert_eq!(at(1, 0xb, 7), [0, 0, 7, 1]);
    assert_eq!(at(1, 1, 0)[1] >> 24, 1);
    assert_eq!(at(1, 1, 0)[1] >> 16 & 0xff, 2);
    assert_eq!(at(1, 0x4000_0004, 0)[1], 1);
}

#[test]
fn a_host_without_xsave_has_guests_without_avx() {
    let host = |leaf, _| match leaf {
        0 => [1, 0x756e_6547, 0x6c65_746e, 0x4965_6e69],
        1 => [0x6f0, 0, u32::MAX, u32::MAX],
        0x8000_0000 => [0x8000_0004, 0, 0, 0],
        _ => [0; 4],
    };
    let clock = Clock::new(1_000_000_000);
    let policy = CpuidPolicy::new(host, Topology { domain: DomainId::new(1), vcpus: 1 }, &clock);
    let leaf = |leaf| policy.leaf(VcpuId::new(0), leaf, 0, || u64::MAX, || u64::MAX);
    assert_eq!(leaf(0)[0], 0xb);
    assert_eq!(leaf(1)[2] & (1 << 26 | 1 << 27 | 1 << 28), 0);
    assert_eq!((leaf(0xd), policy.xcr0()), ([0; 4], 0));
    assert_eq!(leaf(0x8000_0000)[0], 0x8000_0004);
    assert!(!policy.is_amd());
}

#[test]
fn no_leaf_is_missing_from_the_table() {
    let bench = Bench::new();
    for base in [0u32, 0x4000_0000, 0x8000_0000, 0xc000_0000, 0xffff_fff0] {
        for leaf in 0..16 {
            for sub in [0, 1, 2, 3, 62, 63, 64, u32::MAX] {
                ask(&bench, base + leaf, sub);
            }
        }
    }
}
