# The PVH entry: 32-bit protected mode without paging, hvm_start_info in EBX (xen/arch-x86/hvm/start_info.h). It goes to
# long mode with the lowest 4 GiB mapped one to one and calls `guest`.

    .section .note.Xen, "a", @note
    .balign 4
    .long 4, 4, 18              # lengths of name and value, XEN_ELFNOTE_PHYS32_ENTRY (xen/elfnote.h)
    .asciz "Xen"
    .long entry

    .section .text.entry, "ax"
    .code32
    .globl entry
entry:
    cld
    movl $stack_top, %esp
    movl %ebx, %ebp
    movl $pdpt + 3, pml4
    xorl %ecx, %ecx
1:  leal pd + 3(, %ecx), %eax   # four tables, each 4 KiB behind the one before
    movl %ecx, %edx
    shrl $9, %edx
    movl %eax, pdpt(%edx)
    addl $4096, %ecx
    cmpl $4 * 4096, %ecx
    jne 1b
    xorl %ecx, %ecx
2:  movl %ecx, %eax
    shll $21, %eax
    orl $0x83, %eax             # present, writable, 2 MiB
    movl %eax, pd(, %ecx, 8)
    incl %ecx
    cmpl $2048, %ecx
    jne 2b
    movl %cr4, %eax
    orl $0x20, %eax             # PAE
    movl %eax, %cr4
    movl $pml4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx      # EFER
    rdmsr
    orl $0x100, %eax            # LME
    wrmsr
    movl %cr0, %eax
    orl $0x80000000, %eax       # PG
    movl %eax, %cr0
    lgdt gdt_pointer
    ljmp $8, $3f

    .code64
3:  movw $16, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl %ebp, %edi
    call guest
4:  hlt
    jmp 4b

    .section .rodata
    .balign 8
gdt:
    .quad 0
    .quad 0x00209b0000000000    # 64-bit code
    .quad 0x00cf93000000ffff    # data
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .long gdt

    .section .bss
    .balign 4096
pml4:
    .skip 4096
pdpt:
    .skip 4096
pd:
    .skip 4 * 4096
    .skip 16384
stack_top:

    .section .note.GNU-stack, "", @progbits
