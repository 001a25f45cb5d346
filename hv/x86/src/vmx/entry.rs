//! The switch into the guest and back.
//!
//! The guest's general registers live in [`Gprs`]; the control structure holds the rest. VM entry and exit switch RSP,
//! RIP, RFLAGS, CR3 and the segments. After an exit the hypervisor's registers but the callee-saved ones are dead.

use core::arch::naked_asm;

use hv_core::hw::Gprs;

use super::field;

/// Enters the guest; returns 0 after an exit, or 1 if the entry failed before any guest state was loaded.
///
/// `launched` chooses VMRESUME. `host_rsp` holds what the field HOST_RSP of the control structure was last set to.
///
/// # Safety
/// The control structure of the virtual CPU that `gprs` belong to must be current, and whole.
#[unsafe(naked)]
pub unsafe extern "sysv64" fn enter(gprs: *mut Gprs, launched: u64, host_rsp: *mut u64) -> u64 {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        // An exit finds the registers' address on top of the stack.
        "push rdi",
        "cmp rsp, [rdx]",
        "je 2f",
        "mov eax, {host_rsp}",
        "vmwrite rax, rsp",
        "mov [rdx], rsp",
        "mov eax, {host_rip}",
        "lea rcx, [rip + 3f]",
        "vmwrite rax, rcx",
        "2:",
        // The flags of this comparison stay until the jump: moves do not touch them.
        "test rsi, rsi",
        "mov rax, [rdi]",
        "mov rcx, [rdi + 8]",
        "mov rdx, [rdi + 16]",
        "mov rbx, [rdi + 24]",
        "mov rbp, [rdi + 40]",
        "mov rsi, [rdi + 48]",
        "mov r8, [rdi + 64]",
        "mov r9, [rdi + 72]",
        "mov r10, [rdi + 80]",
        "mov r11, [rdi + 88]",
        "mov r12, [rdi + 96]",
        "mov r13, [rdi + 104]",
        "mov r14, [rdi + 112]",
        "mov r15, [rdi + 120]",
        "mov rdi, [rdi + 56]",
        "jz 4f",
        "vmresume",
        "jmp 5f",
        "4:",
        "vmlaunch",
        // The entry failed: nothing of the guest was loaded but its general registers.
        "5:",
        "mov eax, 1",
        "add rsp, 8",
        "jmp 6f",
        // An exit: RSP is as it was at the comparison above.
        "3:",
        "push rdi",
        "mov rdi, [rsp + 8]",
        "mov [rdi], rax",
        "mov [rdi + 8], rcx",
        "mov [rdi + 16], rdx",
        "mov [rdi + 24], rbx",
        "mov [rdi + 40], rbp",
        "mov [rdi + 48], rsi",
        "pop qword ptr [rdi + 56]",
        "mov [rdi + 64], r8",
        "mov [rdi + 72], r9",
        "mov [rdi + 80], r10",
        "mov [rdi + 88], r11",
        "mov [rdi + 96], r12",
        "mov [rdi + 104], r13",
        "mov [rdi + 112], r14",
        "mov [rdi + 120], r15",
        "add rsp, 8",
        "xor eax, eax",
        "6:",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        host_rsp = const field::HOST_RSP.encoding(),
        host_rip = const field::HOST_RIP.encoding(),
    )
}
