//! The first instructions: from the 32-bit PVH entry to Rust at the kernel's own addresses.
//!
//! The loader enters with paging off, flat 32-bit segments and EBX = physical address of `hvm_start_info`
//! (`xen/arch-x86/hvm/start_info.h`). The image may lie at any 2 MiB-aligned offset from its linked physical
//! address, which the second note announces (`XEN_ELFNOTE_PHYS32_RELOC`, `xen/elfnote.h`); the first four bytes of
//! `hvm_start_info` (its magic) serve as the stack for the one `call` that finds the offset, and are put back.
//!
//! Invariant: everything here up to `boot_long` runs at its physical address and uses only the `*_off` symbols of
//! `kernel.ld`, added to the offset in EBP.

use core::arch::global_asm;

global_asm!(
    r#"
    .section .note.Xen, "a", @note
    .balign 4
    .long 4, 8, 18              // XEN_ELFNOTE_PHYS32_ENTRY; QEMU reads eight bytes of payload
    .asciz "Xen"
    .quad boot_start_off
    .long 4, 12, 19             // XEN_ELFNOTE_PHYS32_RELOC: alignment, lowest, highest address
    .asciz "Xen"
    .long 0x200000, 0x200000, 0xffffffff
    .long 4, 8, 6              // XEN_ELFNOTE_GUEST_OS
    .asciz "Xen"
    .ascii "xenolith"
    .balign 4
    .long 4, 8, 5               // XEN_ELFNOTE_XEN_VERSION
    .asciz "Xen"
    .asciz "xen-3.0"

    .section .boot.text, "ax"
    .code32
    .globl boot_start
boot_start:
    cli
    cld
    leal 4(%ebx), %esp
    call boot_here
    .globl boot_here
boot_here:
    popl %ebp
    subl $boot_here_off, %ebp
    movl $0x336ec578, (%ebx)    // XEN_HVM_START_MAGIC_VALUE
    leal boot_stack_top_off(%ebp), %esp

    // PML4: [0] and [256] the first 4 GiB one to one, [511] the image.
    leal boot_pml4_off(%ebp), %edi
    leal boot_pdpt_low_off+3(%ebp), %eax
    movl %eax, (%edi)
    movl %eax, 256*8(%edi)
    leal boot_pdpt_high_off+3(%ebp), %eax
    movl %eax, 511*8(%edi)
    leal boot_pdpt_low_off(%ebp), %edi
    leal boot_pd_low_off+3(%ebp), %eax
    movl $4, %ecx
1:  movl %eax, (%edi)
    addl $8, %edi
    addl $4096, %eax
    loop 1b
    leal boot_pdpt_high_off(%ebp), %edi
    leal boot_pd_high_off+3(%ebp), %eax
    movl %eax, 510*8(%edi)
    // 4 GiB in pages of 2 MiB.
    leal boot_pd_low_off(%ebp), %edi
    movl $0x83, %eax
    movl $2048, %ecx
2:  movl %eax, (%edi)
    addl $8, %edi
    addl $0x200000, %eax
    loop 2b
    // The image's gigabyte, from the offset on.
    leal boot_pd_high_off(%ebp), %edi
    leal 0x83(%ebp), %eax
    movl $512, %ecx
3:  movl %eax, (%edi)
    addl $8, %edi
    addl $0x200000, %eax
    loop 3b

    movl %cr4, %eax
    orl $0x20, %eax             // PAE
    movl %eax, %cr4
    leal boot_pml4_off(%ebp), %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx      // EFER: LME, NXE
    rdmsr
    orl $0x900, %eax
    wrmsr
    movl %cr0, %eax
    andl $0xfffffff3, %eax      // not EM, not TS
    orl $0x80010023, %eax       // PG, WP, NE, MP, PE
    movl %eax, %cr0

    leal boot_gdt_off(%ebp), %eax
    leal boot_gdtr_off(%ebp), %ecx
    movl %eax, 2(%ecx)
    lgdtl (%ecx)
    leal boot_long_off(%ebp), %eax
    pushl $8
    pushl %eax
    lretl

    .code64
    .globl boot_long
boot_long:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    movq $boot_stack_top, %rsp
    movl %ebx, %edi
    movl %ebp, %esi
    xorl %ebp, %ebp
    movabsq $boot_rust, %rax
    pushq $0                    // the end of every stack trace, and the alignment a call leaves
    jmpq *%rax

    // A secondary vCPU starts here in 64-bit mode (VCPUOP_initialise, VCPU_HVM_MODE_64B): RDI = its PerCpu.
    .globl ap_start
ap_start:
    xorl %ebp, %ebp
    pushq $0
    movabsq $ap_rust, %rax
    jmpq *%rax

    .section .data.boot, "aw"
    .balign 8
    .globl boot_gdt, boot_gdtr, boot_pdpt_low, boot_pdpt_high, boot_pd_low, boot_pd_high, boot_stack_top
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
boot_gdtr:
    .word 23
    .quad 0

    .section .bss.boot, "aw", @nobits
    .balign 4096
    .globl boot_pml4
boot_pml4:      .skip 4096
boot_pdpt_low:  .skip 4096
boot_pdpt_high: .skip 4096
boot_pd_low:    .skip 4*4096
boot_pd_high:   .skip 4096
boot_stack:     .skip 65536
boot_stack_top:
    "#,
    options(att_syntax)
);

unsafe extern "C" {
    /// Where secondary vCPUs start (RDI: their `PerCpu`).
    pub fn ap_start();
    /// The root page table.
    pub static boot_pml4: [u64; 512];
    /// First byte of the image, and of its parts (`kernel.ld`).
    pub static __image_start: u8;
    /// End of the image.
    pub static __image_end: u8;
    /// End of the code.
    pub static __text_end: u8;
    /// First byte of read-only data.
    pub static __rodata_start: u8;
    /// End of read-only data, first byte of writable data.
    pub static __rodata_end: u8;
}

/// The virtual address of physical address 0 of the image as linked (`KERNEL_BASE` in `kernel.ld`).
pub const KERNEL_BASE: u64 = 0xffff_ffff_8000_0000;
