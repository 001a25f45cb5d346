//! The first instructions: from the boot protocols' 32-bit entries to Rust code in 64-bit mode.
//!
//! Two ways in, both in protected mode with paging off and flat segments:
//!
//! * PVH (`xen/arch-x86/hvm/start_info.h`; QEMU's `-kernel` finds it by the ELF note
//!   `XEN_ELFNOTE_PHYS32_ENTRY`): EBX points to `hvm_start_info`;
//! * multiboot2 (specification 2.0, section 3.3; GRUB): EAX is its magic number and EBX points to the boot
//!   information.
//!
//! The boot page tables map the first 4 GiB three times with 2 MiB pages: where they are (this code), at
//! [`DIRECT_MAP`](crate::paging::DIRECT_MAP), and the first GiB of it at
//! [`IMAGE_BASE`](crate::paging::IMAGE_BASE). `paging` replaces them soon; processors that start later pass
//! through them too.

use core::arch::global_asm;

/// What `eax` holds after a multiboot2 boot loader (specification 2.0, section 3.3).
pub const MULTIBOOT2_MAGIC: u32 = 0x36d7_6289;

/// What this file's PVH entry passes as the protocol's magic number: that of `hvm_start_info`
/// (`XEN_HVM_START_MAGIC_VALUE`).
pub const PVH_MAGIC: u32 = 0x336e_c578;

/// Bytes of the stack on which the boot processor starts; it is left for its own one before the first guest
/// runs.
const BOOT_STACK: usize = 64 * 1024;

global_asm!(
    // The multiboot2 header: magic, architecture (i386), length, checksum; then the tags.
    r#"
    .section .boot.header, "a"
    .balign 8
multiboot2_header:
    .long 0xe85250d6
    .long 0
    .long multiboot2_header_end - multiboot2_header
    .long 0x100000000 - (0xe85250d6 + 0 + (multiboot2_header_end - multiboot2_header))
    // Modules begin on page boundaries (tag 6).
    .balign 8
    .short 6, 0
    .long 8
    // The console can be text; no graphics mode is wanted (tag 4: EGA text supported).
    .balign 8
    .short 4, 0
    .long 12
    .long 2
    .balign 8
    .short 0, 0
    .long 8
multiboot2_header_end:

    // XEN_ELFNOTE_PHYS32_ENTRY (xen/elfnote.h) is 18. QEMU reads eight bytes of its payload.
    .section .note.pvh, "a", @note
    .balign 4
    .long 4
    .long 8
    .long 18
    .asciz "Xen"
    .quad entry_pvh
"#,
    r#"
    .section .boot.text, "ax"
    .code32
    .global entry_pvh
entry_pvh:
    mov eax, {pvh_magic}
    .global entry_multiboot2
entry_multiboot2:
    cli
    cld
    mov esi, eax
    mov esp, offset boot_gdt_end        // no stack is used before 64-bit mode

    // Page directories: 2048 pages of 2 MiB, present | writable | large.
    mov edi, offset boot_pd
    mov eax, 0x83
    mov ecx, 2048
2:  mov [edi], eax
    mov dword ptr [edi + 4], 0
    add eax, 0x200000
    add edi, 8
    dec ecx
    jnz 2b

    // The four directories under one table of pointers; the first of them also under the one for the image.
    mov eax, offset boot_pd
    or eax, 3
    mov [boot_pdpt_low], eax
    mov [boot_pdpt_high + 510 * 8], eax
    add eax, 0x1000
    mov [boot_pdpt_low + 8], eax
    add eax, 0x1000
    mov [boot_pdpt_low + 16], eax
    add eax, 0x1000
    mov [boot_pdpt_low + 24], eax
    mov eax, offset boot_pdpt_low
    or eax, 3
    mov [boot_pml4], eax
    mov [boot_pml4 + 256 * 8], eax
    mov eax, offset boot_pdpt_high
    or eax, 3
    mov [boot_pml4 + 511 * 8], eax

    jmp long_mode

    // Another processor, from its 16-bit trampoline: there is no protocol for it.
ap_protected:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor esi, esi

long_mode:
    mov eax, offset boot_pml4
    mov cr3, eax
    // CR4.PAE; then EFER.LME and EFER.NXE; then CR0.PG and CR0.WP: AMD64 manual volume 2, section 14.6.1.
    mov eax, cr4
    or eax, 0x20
    mov cr4, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x900
    wrmsr
    mov eax, cr0
    and eax, 0x9fffffff                 // caches on: INIT turns them off
    or eax, 0x80010001
    mov cr0, eax
    lgdt [boot_gdt_pointer]
    .byte 0xea                          // ljmp 0x08:entry64
    .long entry64
    .short 0x08

    .code64
entry64:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    // The boot processor keeps the protocol's magic number in ESI; the others come with zero.
    test esi, esi
    jz 3f
    mov edi, esi
    mov esi, ebx
    movabs rsp, offset boot_stack_top
    movabs rax, offset {start}
    xor ebp, ebp
    call rax
    ud2
3:  movabs rax, offset ap_high
    jmp rax

    .section .boot.data, "aw"
    .balign 4096
    .global boot_pml4
boot_pml4: .fill 4096, 1, 0
boot_pdpt_low: .fill 4096, 1, 0
boot_pdpt_high: .fill 4096, 1, 0
boot_pd: .fill 16384, 1, 0
    .balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00cf9b000000ffff
boot_gdt_end:
    .global boot_gdt_pointer
boot_gdt_pointer:
    .short boot_gdt_end - boot_gdt - 1
    .long boot_gdt
    .text
"#,
    r#"
    .section .bss.boot_stack, "aw", @nobits
    .balign 4096
    .skip {stack}
boot_stack_top:
    // At the image's address: the real page tables map the stack, but not the code above.
    .text
ap_high:
    mov rax, [rip + ap_root]
    mov cr3, rax
    mov rcx, cr4
    or rcx, 0x80                        // CR4.PGE
    mov cr4, rcx
    mov rsp, [rip + ap_stack]
    xor ebp, ebp
    call {ap_start}
    ud2

    // Where the next processor to start finds its page tables and its stack.
    .section .data.ap_stack, "aw"
    .balign 8
    .global ap_stack
ap_stack: .quad 0
    .global ap_root
ap_root: .quad 0

    // Copied to a page below 1 MiB, where a start-up IPI sends a processor in real mode with CS = page / 16.
    .section .rodata.ap_trampoline, "a"
    .code16
    .global ap_trampoline
ap_trampoline:
    cli
    cld
    mov ax, cs
    mov ds, ax
    .byte 0x66, 0x0f, 0x01, 0x16        // lgdt with a 32-bit base, from DS:offset
    .short ap_trampoline_gdt - ap_trampoline
    mov eax, cr0
    or al, 1
    mov cr0, eax
    .byte 0x66, 0xea                    // ljmp 0x18:ap_protected
    .long ap_protected
    .short 0x18
    .balign 4
ap_trampoline_gdt:
    .short boot_gdt_end - boot_gdt - 1
    .long boot_gdt
    .global ap_trampoline_end
ap_trampoline_end:
    .code64
    .text
"#,
    pvh_magic = const PVH_MAGIC,
    start = sym crate::boot::start,
    ap_start = sym crate::cpu::smp::ap_start,
    stack = const BOOT_STACK,
);
