//! When a virtual CPU on AMD-V can take interrupts: injection, and the exits that tell of the moment.
//!
//! The CPU has no window for NMIs: IRET exits instead, and after it a window for interrupts is opened (AMD64 manual volume 2,
//! section 15.9, INTERCEPT_IRET; section 15.21.4 for virtual interrupts).

use hv_core::hw::{Busy, Event, EventKind, Window};

use super::event;
use super::vcpu::SvmVcpu;
use super::vmcb::{clean, intercept1, vintr};

/// How far the guest is with a non-maskable interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Nmi {
    /// It has none.
    #[default]
    Open,
    /// It is in the handler: IRET exits.
    Handler,
    /// It is about to execute the handler's IRET, at this address: until that is done the next one would nest. A window
    /// for interrupts is open, which most often comes right after it.
    Returning(u64),
}

impl SvmVcpu {
    /// Has the next entry deliver an event.
    pub(super) fn inject_event(&mut self, event: Event) -> Result<(), Busy> {
        if event::is_valid(self.vmcb.control.event) {
            return Err(Busy);
        }
        self.vmcb.control.event = event::encode(event);
        self.touched = true;
        if event.kind == EventKind::Nmi {
            // Until the guest's IRET no other NMI may come.
            self.vmcb.control.intercepts1 |= intercept1::IRET;
            self.nmi = Nmi::Handler;
            self.set_windows();
        }
        Ok(())
    }

    /// Exits as soon as the guest takes interrupts, or no more.
    pub(super) fn request_window_of(&mut self, window: Option<Window>) {
        match window {
            Some(Window::Interrupt) => self.window = true,
            // The window after IRET, whose exit `inject` asked for, is that for NMIs too.
            Some(Window::Nmi) => return,
            None => self.window = false,
        }
        self.set_windows();
    }

    /// Whether another NMI would nest.
    pub(super) fn is_in_nmi(&self) -> bool {
        match self.nmi {
            Nmi::Open => false,
            Nmi::Handler => true,
            Nmi::Returning(iret) => self.vmcb.save.rip == iret,
        }
    }

    /// Exits when the guest lowers its task priority, or no more.
    pub(super) fn hold(&mut self, held: bool) {
        if self.held != held {
            self.held = held;
            self.set_windows();
        }
    }

    /// Makes the hardware exit for what is waited for.
    pub(super) fn set_windows(&mut self) {
        let window = self.window || matches!(self.nmi, Nmi::Returning(_));
        let control = &mut self.vmcb.control;
        if window {
            // A virtual interrupt of the highest priority is never delivered: its intercept exits just before.
            control.vintr |= vintr::IRQ | vintr::PRIORITY | vintr::IGNORE_TPR;
            control.intercepts1 |= intercept1::VINTR;
        } else {
            control.vintr &= !(vintr::IRQ | vintr::PRIORITY | vintr::IGNORE_TPR);
            control.intercepts1 &= !intercept1::VINTR;
        }
        // While such an interrupt waits, writes of CR8 exit too: QEMU ends with an assertion when such a write makes a
        // virtual interrupt deliverable.
        if window || self.held {
            control.cr_writes |= 1 << 8;
        } else {
            control.cr_writes &= !(1 << 8);
        }
        self.touch(clean::INTERCEPTS | clean::VINTR);
    }
}
