use super::*;
use crate::boot::KernelError;
use crate::domain::{Progress, destroy};
use crate::hw::{Reg, VcpuHw};
use crate::mem::Physical;
use crate::sched::Scheduled;
use crate::testing::{TestMachine, section, system, system_with};
use pv_abi::start_info::{HvmModlistEntry, HvmStartInfo};
use std::string::ToString;

const FRAMES: u64 = 64 << 8; // 64 MiB

fn with(manifest: &str) -> System<TestMachine> {
    system(TestMachine::new(FRAMES), manifest)
}

fn end<P: Platform>(system: &System<P>, domain: Arc<Domain<P>>) {
    while destroy(system, &domain).unwrap() == Progress::Again {}
    drop(domain);
    system.reap();
}

#[test]
fn an_ordinary_domain_is_built_and_destroyed_without_a_trace() {
    let system = with(&section("guest", "16M", "cmdline = hello\nvcpus = 2"));
    let before = system.frames.free_pages();
    let domain = create(&system, "guest", Some(DomainId::new(7))).unwrap();
    assert_eq!(domain.vcpus.len(), 2);
    assert_eq!(domain.memory.read().account().total().raw(), 4096 + 2);
    let context = domain.vcpus[0].context.lock();
    let info_at = GuestPhys::new(context.hw.gprs().rbx);
    assert_eq!(context.hw.get(Reg::Rip), 0x40, "moved down from 16 MiB");
    drop(context);
    {
        let memory = domain.memory.read();
        let mut guest = Physical::new(&memory, system.memory());
        let info: HvmStartInfo = guest.read_value(info_at).unwrap();
        assert_eq!((info.magic, info.flags, info.nr_modules), (0x336e_c578, 0, 0));
        let mut text = [0; 6];
        guest.read(GuestPhys::new(info.cmdline_paddr), &mut text).unwrap();
        assert_eq!(&text, b"hello\0");
        let mut code = [0; 2];
        guest.read(GuestPhys::new(4999), &mut code).unwrap();
        assert_eq!(code, [0x90, 0]);
    }
    assert!(domain.vcpus[0].entity().is_up() && !domain.vcpus[1].entity().is_up());
    end(&system, domain);
    assert_eq!(system.frames.free_pages(), before);
    assert!(system.domains.all().is_empty());
}

#[test]
fn rings_are_shared_with_the_parent() {
    let system = with(&section("guest", "16M", ""));
    let domain = create(&system, "guest", Some(DomainId::new(7))).unwrap();
    let told = created(&domain);
    assert_eq!(told.domid, domain.id);
    for (port, index) in [(told.console_port, 17), (told.store_port, 1)] {
        let status = domain.events.status(port).unwrap();
        assert_eq!(status.state, crate::event::ChannelState::Unbound { remote: DomainId::new(7) });
        let gfn = Gfn::new(domain.params.get(index).unwrap());
        assert!(domain.memory.read().translate(system.memory(), gfn).is_some());
    }
    end(&system, domain);
    let domain = create(&system, "guest", None).unwrap();
    assert_eq!(created(&domain).console_port.raw(), 0);
    assert_eq!(domain.params.get(param::STORE_PFN), Ok(0));
    end(&system, domain);
}

#[test]
fn a_driver_domain_has_its_memory_where_the_machine_has_it() {
    let system = with(&section("dom0", "16M", "roles = control driver"));
    let before = system.frames.free_pages();
    let domain = create(&system, "dom0", None).unwrap();
    let range = domain.layout.get().unwrap().ranges()[0];
    {
        let memory = domain.memory.read();
        for gfn in [range.first(), Gfn::new(range.past().raw() - 1)] {
            let mapping = memory.translate(system.memory(), gfn).unwrap();
            assert_eq!(mapping.mfn.raw(), gfn.raw());
        }
        assert_eq!(memory.map().first().map(|entry| entry.addr), Some(range.start));
        // A control domain finds the manifest as its first module.
        let info_at = GuestPhys::new(domain.vcpus[0].context.lock().hw.gprs().rbx);
        let mut guest = Physical::new(&memory, system.memory());
        let info: HvmStartInfo = guest.read_value(info_at).unwrap();
        let module: HvmModlistEntry = guest.read_value(GuestPhys::new(info.modlist_paddr)).unwrap();
        let mut text = std::vec![0; usize::try_from(module.size).unwrap()];
        guest.read(GuestPhys::new(module.paddr), &mut text).unwrap();
        assert_eq!(text, system.bundle.manifest().as_bytes());
    }
    end(&system, domain);
    assert_eq!(system.frames.free_pages(), before);
}

#[test]
fn what_cannot_be_built_is_told_and_leaves_nothing() {
    let manifest = [
        section("large", "200M", ""),
        section("large-driver", "200M", "roles = driver"),
        section("small", "4K", ""),
        section("huge", "2048G", ""),
        "[domain no-kernel]\nkernel = missing\nmemory = 16M\n".to_string(),
        "[domain no-initrd]\nkernel = kernel\ninitrd = missing\nmemory = 16M\n".to_string(),
        "[domain bad-kernel]\nkernel = text\nmemory = 16M\n".to_string(),
        "[domain fixed]\nkernel = fixed\nmemory = 8M\n".to_string(),
        section("no-function", "16M", "roles = driver\npci = 00:05.0"),
        section("good", "16M", ""),
    ]
    .concat();
    let kernel = crate::testing::small_kernel(true);
    let fixed = crate::testing::small_kernel(false);
    let files: [(&str, &[u8]); 3] = [("kernel", &kernel), ("fixed", &fixed), ("text", b"#!/bin/sh")];
    let system = system_with(TestMachine::new(FRAMES), &manifest, &files);
    let before = system.frames.free_pages();
    let check = |name: &str, errno: Errno, sentence: &str| {
        let error = create(&system, name, Some(DomainId::new(0))).map(|domain| domain.id).unwrap_err();
        assert_eq!(error.errno(), errno, "{error}");
        assert!(error.to_string().contains(sentence), "{error}");
        assert!(error.to_string().contains(&std::format!("`{name}`")), "{error}");
        assert_eq!(system.frames.free_pages(), before, "{error}");
        assert!(system.domains.all().is_empty(), "{error}");
    };
    check("nobody", Errno::ENOENT, "the manifest has no domain");
    check("large", Errno::ENOMEM, "it wants 200 MiB, 62 MiB are free");
    check("large-driver", Errno::ENOMEM, "in one piece below 4 GiB");
    check("small", Errno::ENOMEM, "too little memory");
    check("huge", Errno::E2BIG, "more memory than a domain can have");
    check("no-kernel", Errno::ENOENT, "wants the file `missing`");
    check("no-initrd", Errno::ENOENT, "wants the file `missing`");
    check("bad-kernel", Errno::ENOEXEC, "is not an ELF file");
    check("fixed", Errno::ENOMEM, "its kernel goes to 0x1000000");
    check("no-function", Errno::ENODEV, "0000:00:05.0, which this machine has not");
    let good = create(&system, "good", None).unwrap();
    let again = create(&system, "good", None).map(|domain| domain.id).unwrap_err();
    assert_eq!(again.errno(), Errno::EEXIST);
    end(&system, good);
    assert!(matches!(
        create(&system, "bad-kernel", None).map(|domain| domain.id).unwrap_err().cause(),
        Cause::Kernel(_, KernelError::NotElf)
    ));
}

#[test]
fn a_kernel_is_loaded_again_only_before_it_ran() {
    let manifest = section("guest", "32M", "") + "[domain other]\nkernel = fixed\nmemory = 1M\n";
    let system = with(&manifest);
    let domain = create(&system, "guest", None).unwrap();
    {
        let memory = domain.memory.read();
        Physical::new(&memory, system.memory()).write(GuestPhys::new(0x100_2000), &[1; 16]).unwrap();
    }
    reload(&system, &domain, "other").unwrap();
    let mut bytes = [9; 16];
    let memory = domain.memory.read();
    Physical::new(&memory, system.memory()).read(GuestPhys::new(0x100_2000), &mut bytes).unwrap();
    assert_eq!(bytes, [0; 16], "what is not in the file is zero again");
    drop(memory);
    assert_eq!(domain.vcpus[0].context.lock().hw.get(Reg::Rip), 0x100_0040);
    let change = domain.life.unpause().unwrap();
    system.follow(&domain, change);
    assert_eq!(reload(&system, &domain, "guest").unwrap_err().errno(), Errno::EBUSY);
    end(&system, domain);
}
