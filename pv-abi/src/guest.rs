//! The least that a guest needs before it can do something: an entry, a stack, a console, an end.
//!
//! [`pvh_entry!`](crate::pvh_entry) makes a program a PVH kernel: one vCPU in 64-bit mode with interrupts off, the lowest
//! 4 GiB mapped one to one and writable. No event ever interrupts such a guest; it waits by `sched_poll` or
//! `sched_yield`. A kernel that wants more brings its own entry and uses the rest of this crate.
//!
//! UNSAFETY: the pages that the hypervisor shares with the guest (start of day, console ring) are reached by their
//! guest-physical addresses. [`Guest::new`] is unsafe for that reason: its caller promises the mapping that the entry makes.

use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::event::Send;
use crate::hvm::{Param, param};
use crate::io::console;
use crate::sched::{Shutdown, reason};
use crate::start_info::HvmStartInfo;
use crate::transport::Native;
use crate::{DomainId, PAGE_SHIFT, Port, stub};

/// A guest that has just started, and what it finds.
#[derive(Debug)]
pub struct Guest {
    hv: Native,
    start: &'static HvmStartInfo,
    ring: Option<(u64, Port)>,
}

impl Guest {
    /// Finds the console. [`pvh_entry!`](crate::pvh_entry) calls this.
    ///
    /// # Safety
    /// Only once, on a hypervisor with this ABI, with the address that the PVH entry passes in EBX, and with the lowest
    /// 4 GiB mapped one to one.
    #[must_use]
    pub unsafe fn new(start_info: u32) -> Self {
        // SAFETY: the caller promises the hypervisor; the calls below name only this guest's own things.
        let hv = unsafe { Native::detect() };
        // SAFETY: the loader put the structure there, below 4 GiB, and nobody changes it.
        let start = unsafe { &*core::ptr::with_exposed_provenance::<HvmStartInfo>(start_info as usize) };
        let param = |index| {
            let mut param = Param { domid: DomainId::SELF, index, ..Param::default() };
            stub::hvm_get_param(&hv, &mut param).map_or(0, |_| param.value)
        };
        // The first domain has no ring: 0.
        let port = u32::try_from(param(param::CONSOLE_EVTCHN)).unwrap_or(0);
        let ring = match param(param::CONSOLE_PFN) {
            0 => None,
            frame => Some((frame << PAGE_SHIFT, Port::new(port))),
        };
        Self { hv, start, ring }
    }

    /// The way to make hypercalls, for [`stub`]'s functions.
    #[must_use]
    pub fn hv(&self) -> Native {
        self.hv
    }

    /// What the loader said.
    #[must_use]
    pub fn start_info(&self) -> &'static HvmStartInfo {
        self.start
    }

    /// The command line; empty if there is none or if it is no text.
    #[must_use]
    pub fn command_line(&self) -> &'static str {
        if self.start.cmdline_paddr == 0 {
            return "";
        }
        // The crate is for 64-bit processors.
        #[allow(clippy::cast_possible_truncation)]
        let address = self.start.cmdline_paddr as usize;
        // SAFETY: the loader promises a text ended by a zero byte, below 4 GiB; nobody changes it.
        let text = unsafe { core::ffi::CStr::from_ptr(core::ptr::with_exposed_provenance(address)) };
        text.to_str().unwrap_or_default()
    }

    /// Ends the guest, once the console's back end has taken everything.
    pub fn power_off(&self) -> ! {
        self.drain();
        self.end(reason::POWEROFF)
    }

    /// Ends the guest and says that it crashed.
    pub fn crash(&self) -> ! {
        self.drain();
        self.end(reason::CRASH)
    }

    fn end(&self, reason: u32) -> ! {
        loop {
            // It does not return.
            let _ = stub::sched_shutdown(&self.hv, &Shutdown { reason });
        }
    }

    /// An index of the console ring.
    fn index(ring: u64, offset: usize) -> &'static AtomicU32 {
        // The crate is for 64-bit processors.
        #[allow(clippy::cast_possible_truncation)]
        let address = ring as usize + offset;
        // SAFETY: the ring's page is this guest's, mapped one to one as `new`'s caller promises, and aligned.
        unsafe { &*core::ptr::with_exposed_provenance::<AtomicU32>(address) }
    }

    /// Waits for the back end, but not for ever: it may be gone.
    fn drain(&self) {
        let Some((ring, _)) = self.ring else { return };
        let [taken, put] = [console::OUT_CONS, console::OUT_PROD].map(|offset| Self::index(ring, offset));
        for _ in 0..1_000_000 {
            if taken.load(Ordering::Acquire) == put.load(Ordering::Relaxed) {
                return;
            }
            let _ = stub::sched_yield(&self.hv);
        }
    }

    fn write(&self, ring: u64, port: Port, text: &[u8]) {
        let [taken, put] = [console::OUT_CONS, console::OUT_PROD].map(|offset| Self::index(ring, offset));
        for &byte in text {
            let at = put.load(Ordering::Relaxed);
            if at.wrapping_sub(taken.load(Ordering::Acquire)) >= console::OUT_SIZE {
                let _ = stub::evtchn_send(&self.hv, &Send { port });
                self.drain();
            }
            // The crate is for 64-bit processors.
            #[allow(clippy::cast_possible_truncation)]
            let address = ring as usize + console::OUT + (at % console::OUT_SIZE) as usize;
            // SAFETY: inside the ring's page, which is mapped one to one as `new`'s caller promises; only the back end
            // reads it.
            unsafe { core::ptr::with_exposed_provenance_mut::<u8>(address).write_volatile(byte) };
            put.store(at.wrapping_add(1), Ordering::Release);
        }
        let _ = stub::evtchn_send(&self.hv, &Send { port });
    }
}

/// Writes to the console ring, or where there is none (the first domain) to the hypervisor's own console.
impl fmt::Write for Guest {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        match self.ring {
            Some((ring, port)) => self.write(ring, port, text.as_bytes()),
            None => {
                let _ = stub::console_write(&self.hv, text.as_bytes());
            }
        }
        Ok(())
    }
}

/// Makes a program a PVH kernel that starts with `fn(Guest) -> !`.
///
/// It emits the ELF note, the 32-bit entry `_start`, page tables and a stack of 64 KiB, and the panic handler, which
/// crashes the guest with a message. The program must be linked at its physical address, below 2 GiB, without relocations:
/// `-C relocation-model=static` and the linker's own layout are enough.
///
/// The loader enters in 32-bit protected mode without paging, with the address of
/// [`HvmStartInfo`](crate::start_info::HvmStartInfo) in EBX.
#[macro_export]
macro_rules! pvh_entry {
    ($main:path) => {
        ::core::arch::global_asm!(
            r#"
            .pushsection .note.Xen, "a", @note
            .balign 4
            .long 4, 8, 18              // XEN_ELFNOTE_PHYS32_ENTRY; some loaders read eight bytes
            .asciz "Xen"
            .quad _start
            .popsection

            .pushsection .text._start, "ax"
            .code32
            .globl _start
        _start:
            cld
            movl $pvh_stack_top, %esp
            movl %ebx, %ebp
            // One table of four entries, each of which maps a gigabyte in pages of 2 MiB.
            movl $pvh_gigabytes + 3, pvh_root
            movl $pvh_pages + 3, %eax
            xorl %ecx, %ecx
        1:  movl %eax, pvh_gigabytes(, %ecx, 8)
            addl $4096, %eax
            incl %ecx
            cmpl $4, %ecx
            jne 1b
            movl $0x83, %eax            // present, writable, 2 MiB
            xorl %ecx, %ecx
        2:  movl %eax, pvh_pages(, %ecx, 8)
            addl $0x200000, %eax
            incl %ecx
            cmpl $2048, %ecx
            jne 2b
            movl %cr4, %eax
            orl $0x20, %eax             // PAE
            movl %eax, %cr4
            movl $pvh_root, %eax
            movl %eax, %cr3
            movl $0xc0000080, %ecx      // EFER
            rdmsr
            orl $0x100, %eax            // long mode
            wrmsr
            movl %cr0, %eax
            orl $0x80000000, %eax       // paging
            movl %eax, %cr0
            lgdtl pvh_gdt_pointer
            ljmpl $8, $pvh_long
            .code64
        pvh_long:
            movl $16, %eax
            movl %eax, %ds
            movl %eax, %es
            movl %eax, %ss
            movl %ebp, %edi
            xorl %ebp, %ebp
            callq pvh_main
            ud2
            .popsection

            .pushsection .rodata.pvh, "a"
            .balign 8
        pvh_gdt:
            .quad 0, 0x00209b0000000000, 0x00cf93000000ffff // 64-bit code, data
        pvh_gdt_pointer:
            .word 23
            .long pvh_gdt
            .popsection

            .pushsection .bss.pvh, "aw", @nobits
            .balign 4096
        pvh_root:      .skip 4096
        pvh_gigabytes: .skip 4096
        pvh_pages:     .skip 4 * 4096
        pvh_stack:     .skip 65536
        pvh_stack_top:
            .popsection
            "#,
            options(att_syntax)
        );

        static PVH_START_INFO: ::core::sync::atomic::AtomicU32 = ::core::sync::atomic::AtomicU32::new(0);

        #[unsafe(no_mangle)]
        extern "C" fn pvh_main(start_info: u32) -> ! {
            let main: fn($crate::guest::Guest) -> ! = $main;
            PVH_START_INFO.store(start_info, ::core::sync::atomic::Ordering::Relaxed);
            // SAFETY: the entry above passes EBX and has mapped the lowest 4 GiB.
            main(unsafe { $crate::guest::Guest::new(start_info) })
        }

        #[panic_handler]
        fn pvh_panic(info: &::core::panic::PanicInfo<'_>) -> ! {
            let start_info = PVH_START_INFO.load(::core::sync::atomic::Ordering::Relaxed);
            // SAFETY: as in `pvh_main`; what panicked does not run on.
            let mut guest = unsafe { $crate::guest::Guest::new(start_info) };
            let _ = ::core::fmt::Write::write_fmt(&mut guest, ::core::format_args!("\nPANIC {info}\n"));
            guest.crash()
        }
    };
}
