//! When a virtual CPU on AMD-V can take interrupts: injection, and the exits that tell of the moment.
//!
//! Interrupts are injected as virtual interrupts (section 15.21.4), which the guest takes before its next instruction, for it
//! can take one whenever policy injects one. An exit may come before that: the interrupt then waits in the VMCB.
//! EVENTINJ would do as well, and does where a window is wanted at the same time, but QEMU (seen in 7.2, `helper_vmrun`)
//! keeps the vector that it injected so, and delivers it once more if its own loop is interrupted before the next exit.
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

/// The intercept of writes of CR8.
const CR8_WRITE: u16 = 1 << 8;

impl SvmVcpu {
    /// Has the next entry deliver an event.
    #[inline(always)]
    pub(super) fn inject_event(&mut self, event: Event) -> Result<(), Busy> {
        if event::is_valid(self.vmcb.control.event) {
            return Err(Busy);
        }
        match event.kind {
            EventKind::Interrupt if self.given.is_some() => return Err(Busy),
            EventKind::Interrupt => {
                self.given = Some(event.vector);
                if self.window || self.held || self.nmi != Nmi::Open {
                    self.set_windows();
                } else {
                    // No intercept was for anything of this, and none will be.
                    self.give(event.vector);
                }
            }
            EventKind::Exception => self.put_event(event),
            EventKind::Nmi => {
                self.put_event(event);
                // Until the guest's IRET no other NMI may come.
                self.vmcb.control.intercepts1 |= intercept1::IRET;
                self.nmi = Nmi::Handler;
                self.set_windows();
            }
        }
        Ok(())
    }

    /// The guest takes this interrupt before its next instruction.
    #[inline]
    fn give(&mut self, vector: u8) {
        let vintr = &mut self.vmcb.control.vintr;
        *vintr = *vintr & !vintr::VECTOR | vintr::HIGHEST | u64::from(vector) << vintr::VECTOR_SHIFT;
        self.touch(clean::VINTR);
    }

    fn put_event(&mut self, event: Event) {
        self.vmcb.control.event = event::encode(event);
        self.touched = true;
    }

    /// After the exit that followed an entry with a virtual interrupt: it was taken, or still waits.
    pub(super) fn look_at_given(&mut self) {
        let waits = self.vmcb.control.vintr & vintr::IRQ != 0;
        if !waits {
            self.given = None;
        }
        if waits || self.vmcb.control.cr_writes & CR8_WRITE != 0 {
            self.watch_cr8(waits);
            self.touched = true;
        }
    }

    /// Writes of CR8 exit while a virtual interrupt waits for more than the next instruction: QEMU ends with an assertion
    /// when such a write makes one deliverable. They also tell of a lower task priority.
    fn watch_cr8(&mut self, waits: bool) {
        if waits || self.held {
            self.vmcb.control.cr_writes |= CR8_WRITE;
        } else {
            self.vmcb.control.cr_writes &= !CR8_WRITE;
        }
        self.touch(clean::INTERCEPTS);
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
        if window && let Some(vector) = self.given.take() {
            self.put_event(Event::interrupt(vector));
        }
        let control = &mut self.vmcb.control;
        control.vintr &= !(vintr::HIGHEST | vintr::VECTOR);
        control.intercepts1 &= !intercept1::VINTR;
        if window {
            // A virtual interrupt of the highest priority is never delivered: its intercept exits just before.
            control.vintr |= vintr::HIGHEST;
            control.intercepts1 |= intercept1::VINTR;
        } else if let Some(vector) = self.given {
            self.give(vector);
        }
        self.watch_cr8(window);
        self.touch(clean::VINTR);
    }
}
