/*
 * A guest in C, written against Xen's own public headers and nothing of ours: it says hello on its paravirtual console and
 * ends. `cargo xtask test` boots it by `cargo xtask run --kernel`.
 */
/* Without it the headers name the calls of a version long gone (xen-compat.h). */
#define __XEN_INTERFACE_VERSION__ __XEN_LATEST_INTERFACE_VERSION__
#include <stdint.h>
#include <xen/xen.h>
#include <xen/version.h>
#include <xen/sched.h>
#include <xen/event_channel.h>
#include <xen/memory.h>
#include <xen/hvm/hvm_op.h>
#include <xen/hvm/params.h>
#include <xen/io/console.h>
#include <xen/arch-x86/cpuid.h>
#include <xen/arch-x86/hvm/start_info.h>

static uint8_t hypercall_page[4096] __attribute__((aligned(4096)));

static long hypercall(unsigned number, unsigned long one, unsigned long two)
{
    long result;
    __asm__ volatile("call *%[entry]"
                     : "=a"(result), "+D"(one), "+S"(two)
                     : [entry] "r"(hypercall_page + number * 32)
                     : "memory", "cc", "rcx", "rdx", "r8", "r9", "r10", "r11");
    return result;
}

static void cpuid(uint32_t leaf, uint32_t *a, uint32_t *b, uint32_t *c, uint32_t *d)
{
    __asm__ volatile("cpuid" : "=a"(*a), "=b"(*b), "=c"(*c), "=d"(*d) : "a"(leaf), "c"(0));
}

static _Noreturn void end(unsigned reason)
{
    struct sched_shutdown shutdown = { .reason = reason };
    for (;;)
        hypercall(__HYPERVISOR_sched_op, SCHEDOP_shutdown, (unsigned long)&shutdown);
}

static uint64_t param(uint32_t index)
{
    struct xen_hvm_param param = { .domid = DOMID_SELF, .index = index };
    if (hypercall(__HYPERVISOR_hvm_op, HVMOP_get_param, (unsigned long)&param) != 0)
        end(SHUTDOWN_crash);
    return param.value;
}

static volatile struct xencons_interface *ring;
static evtchn_port_t port;

static void say(const char *text)
{
    for (; *text; text++) {
        while (ring->out_prod - ring->out_cons == sizeof(ring->out))
            hypercall(__HYPERVISOR_sched_op, SCHEDOP_yield, 0);
        ring->out[MASK_XENCONS_IDX(ring->out_prod, ring->out)] = *text;
        __asm__ volatile("" ::: "memory");
        ring->out_prod++;
    }
    struct evtchn_send send = { .port = port };
    hypercall(__HYPERVISOR_event_channel_op, EVTCHNOP_send, (unsigned long)&send);
}

static void say_number(unsigned long number)
{
    char digits[21], *at = digits + 20;
    *at = 0;
    do {
        *--at = '0' + number % 10;
    } while (number /= 10);
    say(at);
}

void guest(const struct hvm_start_info *start)
{
    uint32_t base, a, b, c, d, leaves;
    for (base = XEN_CPUID_FIRST_LEAF; base < XEN_CPUID_FIRST_LEAF + 0x10000; base += 0x100) {
        cpuid(base, &leaves, &b, &c, &d);
        if (b == XEN_CPUID_SIGNATURE_EBX && c == XEN_CPUID_SIGNATURE_ECX && d == XEN_CPUID_SIGNATURE_EDX)
            break;
    }
    cpuid(base + 2, &a, &b, &c, &d);
    uint64_t page = (uint64_t)hypercall_page;
    __asm__ volatile("wrmsr" : : "c"(b), "a"((uint32_t)page), "d"((uint32_t)(page >> 32)) : "memory");

    ring = (void *)(param(HVM_PARAM_CONSOLE_PFN) << 12);
    port = param(HVM_PARAM_CONSOLE_EVTCHN);
    long version = hypercall(__HYPERVISOR_xen_version, XENVER_version, 0);
    say("hello from a kernel of one's own: interface ");
    say_number(version >> 16);
    say(".");
    say_number(version & 0xffff);
    say(start->magic == XEN_HVM_START_MAGIC_VALUE ? ", started as PVH" : ", NOT started as PVH");
    if (start->cmdline_paddr) {
        say(", command line: ");
        say((const char *)start->cmdline_paddr);
    }
    say("\n");
    while (ring->out_cons != ring->out_prod)
        hypercall(__HYPERVISOR_sched_op, SCHEDOP_yield, 0);
    end(SHUTDOWN_poweroff);
}
