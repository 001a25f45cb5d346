//! Segments and the task state of a CPU, which only say where the stacks of the worst exceptions are.

use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::instructions::tables::load_tss;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector};
use x86_64::structures::tss::TaskStateSegment;

/// The selector of the hypervisor's code segment, first in the table.
pub const CODE: u16 = 0x08;

/// The global descriptor table and task state of one CPU.
pub struct Descriptors {
    gdt: GlobalDescriptorTable,
    tss: TaskStateSegment,
    data: SegmentSelector,
    task: SegmentSelector,
}

impl Descriptors {
    /// Makes the task state, with these ends of stacks in the interrupt stack table.
    pub fn new(stacks: [u64; 3]) -> Self {
        let mut tss = TaskStateSegment::new();
        for (index, end) in stacks.into_iter().enumerate() {
            tss.interrupt_stack_table[index] = VirtAddr::new(end);
        }
        Self {
            gdt: GlobalDescriptorTable::new(),
            tss,
            data: SegmentSelector::NULL,
            task: SegmentSelector::NULL,
        }
    }

    /// Fills the table, once this value is where it stays.
    pub fn seal(&mut self) {
        self.gdt.append(Descriptor::kernel_code_segment());
        self.data = self.gdt.append(Descriptor::kernel_data_segment());
        // SAFETY: the caller leaks this value and does not move it: the descriptor's address of the task
        // state stays good.
        self.task = self.gdt.append(unsafe { Descriptor::tss_segment_unchecked(&raw const self.tss) });
    }

    /// Where the task state is.
    pub fn task_state_address(&self) -> u64 {
        &raw const self.tss as u64
    }

    /// Loads the table and all segments on this CPU, whose own it must be.
    pub fn load(&'static self) {
        self.gdt.load();
        // SAFETY: the selectors are those of this table's flat code and data segments and of its task state,
        // which no other CPU uses.
        unsafe {
            CS::set_reg(SegmentSelector(CODE));
            SS::set_reg(self.data);
            DS::set_reg(self.data);
            ES::set_reg(self.data);
            load_tss(self.task);
        }
    }
}
