//! The table of hypercalls.
//!
//! A row reads: documentation; variant of [`Call`](super::Call); name of the stub and of the handler; number (RAX);
//! sub-operation (RDI), or `ANY` when the call has none and RDI is its first argument; privilege; arguments from the
//! next register on; errors besides `ENOSYS` (no such call), `EPERM` (privilege) and `EFAULT` (a pointer).

/// Hands all rows to a macro.
///
/// The callback is invoked once, as `callback! { row; row; … }`; see the pattern in `pv-abi/src/call/mod.rs`.
#[macro_export]
macro_rules! for_each_hypercall {
    ($callback:ident) => {
        $callback! {
            // ---- event_channel_op ----
            /// Notifies the far end of a channel.
            EvtchnSend, evtchn_send, $crate::call::number::EVENT_CHANNEL_OP, $crate::event::op::SEND, Guest,
            (send: In<$crate::event::Send>), [EINVAL];
            /// Clears the mask of a port and delivers the event if one is pending.
            EvtchnUnmask, evtchn_unmask, $crate::call::number::EVENT_CHANNEL_OP, $crate::event::op::UNMASK, Guest,
            (unmask: In<$crate::event::Unmask>), [EINVAL];
            /// Allocates a port to which `remote_dom` may bind.
            EvtchnAllocUnbound, evtchn_alloc_unbound, $crate::call::number::EVENT_CHANNEL_OP,
            $crate::event::op::ALLOC_UNBOUND, Guest,
            (alloc: InOut<$crate::event::AllocUnbound>), [EINVAL, ESRCH, ENOSPC];
            /// Binds a new port to another domain's unbound port.
            EvtchnBindInterdomain, evtchn_bind_interdomain, $crate::call::number::EVENT_CHANNEL_OP,
            $crate::event::op::BIND_INTERDOMAIN, Guest,
            (bind: InOut<$crate::event::BindInterdomain>), [EINVAL, ESRCH, ENOSPC];
            /// Binds a new port to a virtual interrupt line.
            EvtchnBindVirq, evtchn_bind_virq, $crate::call::number::EVENT_CHANNEL_OP,
            $crate::event::op::BIND_VIRQ, Guest,
            (bind: InOut<$crate::event::BindVirq>), [EINVAL, ENOENT, EEXIST, ENOSPC];
            /// Binds a new port to a physical interrupt.
            EvtchnBindPirq, evtchn_bind_pirq, $crate::call::number::EVENT_CHANNEL_OP,
            $crate::event::op::BIND_PIRQ, Driver,
            (bind: InOut<$crate::event::BindPirq>), [EINVAL, EEXIST, ENOSPC];
            /// Binds a new port through which the domain's vCPUs notify each other.
            EvtchnBindIpi, evtchn_bind_ipi, $crate::call::number::EVENT_CHANNEL_OP,
            $crate::event::op::BIND_IPI, Guest,
            (bind: InOut<$crate::event::BindIpi>), [ENOENT, ENOSPC];
            /// Moves a port's notifications to a vCPU.
            EvtchnBindVcpu, evtchn_bind_vcpu, $crate::call::number::EVENT_CHANNEL_OP,
            $crate::event::op::BIND_VCPU, Guest,
            (bind: In<$crate::event::BindVcpu>), [EINVAL, ENOENT];
            /// Closes a port; the far end becomes unbound.
            EvtchnClose, evtchn_close, $crate::call::number::EVENT_CHANNEL_OP, $crate::event::op::CLOSE, Guest,
            (close: In<$crate::event::Close>), [EINVAL];
            /// Tells the state of a port.
            EvtchnStatus, evtchn_status, $crate::call::number::EVENT_CHANNEL_OP, $crate::event::op::STATUS, Guest,
            (status: InOut<$crate::event::Status>), [EINVAL, ESRCH];
            /// Closes all ports and returns to the 2-level ABI.
            EvtchnReset, evtchn_reset, $crate::call::number::EVENT_CHANNEL_OP, $crate::event::op::RESET, Guest,
            (reset: In<$crate::event::Reset>), [EINVAL, ESRCH];
            /// Gives a vCPU its FIFO control block and switches the domain to the FIFO ABI.
            EvtchnInitControl, evtchn_init_control, $crate::call::number::EVENT_CHANNEL_OP,
            $crate::event::op::INIT_CONTROL, Guest,
            (init: InOut<$crate::event::InitControl>), [EINVAL, ENOENT, ENOMEM];
            /// Adds a page to the FIFO event array.
            EvtchnExpandArray, evtchn_expand_array, $crate::call::number::EVENT_CHANNEL_OP,
            $crate::event::op::EXPAND_ARRAY, Guest,
            (expand: In<$crate::event::ExpandArray>), [EINVAL, ENOSPC, ENOMEM];
            /// Chooses the FIFO queue of a port.
            EvtchnSetPriority, evtchn_set_priority, $crate::call::number::EVENT_CHANNEL_OP,
            $crate::event::op::SET_PRIORITY, Guest,
            (set: In<$crate::event::SetPriority>), [EINVAL];

            // ---- sched_op ----
            /// Lets other vCPUs run.
            SchedYield, sched_yield, $crate::call::number::SCHED_OP, $crate::sched::op::YIELD, Guest, (), [];
            /// Enables events and waits for one.
            SchedBlock, sched_block, $crate::call::number::SCHED_OP, $crate::sched::op::BLOCK, Guest, (), [];
            /// Ends the domain.
            SchedShutdown, sched_shutdown, $crate::call::number::SCHED_OP, $crate::sched::op::SHUTDOWN, Guest,
            (shutdown: In<$crate::sched::Shutdown>), [EINVAL];
            /// Waits until one of some ports is pending, or a time.
            SchedPoll, sched_poll, $crate::call::number::SCHED_OP, $crate::sched::op::POLL, Guest,
            (poll: In<$crate::sched::Poll>), [EINVAL];
            /// Ends another domain, as if it had asked.
            SchedRemoteShutdown, sched_remote_shutdown, $crate::call::number::SCHED_OP,
            $crate::sched::op::REMOTE_SHUTDOWN, Control,
            (shutdown: In<$crate::sched::RemoteShutdown>), [EINVAL, ESRCH];
            /// Gives the reason of the coming shutdown ahead of it.
            SchedShutdownCode, sched_shutdown_code, $crate::call::number::SCHED_OP,
            $crate::sched::op::SHUTDOWN_CODE, Guest,
            (shutdown: In<$crate::sched::Shutdown>), [EINVAL];

            // ---- set_timer_op ----
            /// Sets the vCPU's single-shot timer to a system time; 0 stops it.
            SetTimer, set_timer, $crate::call::number::SET_TIMER_OP, ANY, Guest, (timeout: Word<u64>), [];

            // ---- grant_table_op ----
            /// Maps pages that other domains grant.
            GrantMap, grant_map, $crate::call::number::GRANT_TABLE_OP, $crate::grant::op::MAP_GRANT_REF, Guest,
            (maps: Array<$crate::grant::MapGrantRef>), [];
            /// Ends mappings of granted pages.
            GrantUnmap, grant_unmap, $crate::call::number::GRANT_TABLE_OP, $crate::grant::op::UNMAP_GRANT_REF, Guest,
            (unmaps: Array<$crate::grant::UnmapGrantRef>), [];
            /// Copies bytes between granted and own pages.
            GrantCopy, grant_copy, $crate::call::number::GRANT_TABLE_OP, $crate::grant::op::COPY, Guest,
            (copies: Array<$crate::grant::Copy>), [];
            /// Grows the grant table and tells its frames.
            GrantSetupTable, grant_setup_table, $crate::call::number::GRANT_TABLE_OP,
            $crate::grant::op::SETUP_TABLE, Guest,
            (setup: Array<$crate::grant::SetupTable>), [EINVAL];
            /// Tells how large the grant table is and may become.
            GrantQuerySize, grant_query_size, $crate::call::number::GRANT_TABLE_OP,
            $crate::grant::op::QUERY_SIZE, Guest,
            (query: Array<$crate::grant::QuerySize>), [EINVAL];
            /// Chooses the version of the grant table; only 1 is there.
            GrantSetVersion, grant_set_version, $crate::call::number::GRANT_TABLE_OP,
            $crate::grant::op::SET_VERSION, Guest,
            (version: Array<$crate::grant::SetVersion>), [EINVAL];
            /// Tells the version of a grant table.
            GrantGetVersion, grant_get_version, $crate::call::number::GRANT_TABLE_OP,
            $crate::grant::op::GET_VERSION, Guest,
            (version: Array<$crate::grant::GetVersion>), [EINVAL, ESRCH];

            // ---- memory_op ----
            /// Adds fresh frames to the domain, at frame numbers that the hypervisor chooses: not for translated guests.
            MemoryIncrease, memory_increase, $crate::call::number::MEMORY_OP,
            $crate::memory::op::INCREASE_RESERVATION, Guest,
            (reservation: In<$crate::memory::Reservation>), [EINVAL, ESRCH];
            /// Gives frames back; returns the number of extents done.
            MemoryDecrease, memory_decrease, $crate::call::number::MEMORY_OP,
            $crate::memory::op::DECREASE_RESERVATION, Guest,
            (reservation: In<$crate::memory::Reservation>), [EINVAL, ESRCH];
            /// Puts fresh, zeroed frames at the given frame numbers; returns the number of extents done.
            MemoryPopulate, memory_populate, $crate::call::number::MEMORY_OP,
            $crate::memory::op::POPULATE_PHYSMAP, Guest,
            (reservation: In<$crate::memory::Reservation>), [EINVAL, ESRCH];
            /// Tells the highest machine frame number of RAM.
            MemoryMaximumRamPage, memory_maximum_ram_page, $crate::call::number::MEMORY_OP,
            $crate::memory::op::MAXIMUM_RAM_PAGE, Guest, (), [];
            /// Tells how many pages a domain has.
            MemoryCurrentReservation, memory_current_reservation, $crate::call::number::MEMORY_OP,
            $crate::memory::op::CURRENT_RESERVATION, Guest,
            (domain: In<$crate::memory::DomainArg>), [ESRCH];
            /// Tells how many pages a domain may have.
            MemoryMaximumReservation, memory_maximum_reservation, $crate::call::number::MEMORY_OP,
            $crate::memory::op::MAXIMUM_RESERVATION, Guest,
            (domain: In<$crate::memory::DomainArg>), [ESRCH];
            /// Tells the highest frame number at which a domain has memory.
            MemoryMaximumGpfn, memory_maximum_gpfn, $crate::call::number::MEMORY_OP,
            $crate::memory::op::MAXIMUM_GPFN, Guest,
            (domain: In<$crate::memory::DomainArg>), [ESRCH];
            /// Puts the shared page, a grant table frame or another of the caller's frames at a frame number.
            MemoryAddToPhysmap, memory_add_to_physmap, $crate::call::number::MEMORY_OP,
            $crate::memory::op::ADD_TO_PHYSMAP, Guest,
            (add: In<$crate::memory::AddToPhysmap>), [EINVAL, ESRCH, ENOMEM, EBUSY];
            /// As `memory_add_to_physmap`, for a list with a result each.
            MemoryAddToPhysmapBatch, memory_add_to_physmap_batch, $crate::call::number::MEMORY_OP,
            $crate::memory::op::ADD_TO_PHYSMAP_BATCH, Guest,
            (add: In<$crate::memory::AddToPhysmapBatch>), [EINVAL, ESRCH];
            /// Empties a frame number.
            MemoryRemoveFromPhysmap, memory_remove_from_physmap, $crate::call::number::MEMORY_OP,
            $crate::memory::op::REMOVE_FROM_PHYSMAP, Guest,
            (remove: In<$crate::memory::RemoveFromPhysmap>), [EINVAL, ESRCH, ENOENT, EBUSY];
            /// Copies the memory map that the domain was started with.
            MemoryMap, memory_map, $crate::call::number::MEMORY_OP, $crate::memory::op::MEMORY_MAP, Guest,
            (map: InOut<$crate::memory::MemoryMap>), [EINVAL];

            // ---- xen_version ----
            /// Tells the interface version: major number in the upper half, minor in the lower.
            VersionNumber, version_number, $crate::call::number::XEN_VERSION, $crate::version::op::VERSION, Guest,
            (), [];
            /// Tells the rest of the version, a text.
            VersionExtra, version_extra, $crate::call::number::XEN_VERSION, $crate::version::op::EXTRAVERSION, Guest,
            (text: Out<$crate::version::ExtraVersion>), [];
            /// Tells by whom and how the hypervisor was built.
            VersionCompileInfo, version_compile_info, $crate::call::number::XEN_VERSION,
            $crate::version::op::COMPILE_INFO, Guest,
            (info: Out<$crate::version::CompileInfo>), [];
            /// Tells the kinds of guest, a text.
            VersionCapabilities, version_capabilities, $crate::call::number::XEN_VERSION,
            $crate::version::op::CAPABILITIES, Guest,
            (text: Out<$crate::version::Capabilities>), [];
            /// Tells the source's revision, a text.
            VersionChangeset, version_changeset, $crate::call::number::XEN_VERSION,
            $crate::version::op::CHANGESET, Guest,
            (text: Out<$crate::version::Changeset>), [];
            /// Tells where the hypervisor is in the address space.
            VersionPlatformParameters, version_platform_parameters, $crate::call::number::XEN_VERSION,
            $crate::version::op::PLATFORM_PARAMETERS, Guest,
            (parameters: Out<$crate::version::PlatformParameters>), [];
            /// Tells 32 feature bits.
            VersionFeatures, version_features, $crate::call::number::XEN_VERSION,
            $crate::version::op::GET_FEATURES, Guest,
            (info: InOut<$crate::version::FeatureInfo>), [EINVAL];
            /// Tells the number of bytes in a page.
            VersionPagesize, version_pagesize, $crate::call::number::XEN_VERSION, $crate::version::op::PAGESIZE, Guest,
            (), [];
            /// Tells the domain's handle.
            VersionGuestHandle, version_guest_handle, $crate::call::number::XEN_VERSION,
            $crate::version::op::GUEST_HANDLE, Guest,
            (handle: Out<$crate::version::DomainHandle>), [];
            /// Tells the hypervisor's command line, a text.
            VersionCommandline, version_commandline, $crate::call::number::XEN_VERSION,
            $crate::version::op::COMMANDLINE, Control,
            (text: Out<$crate::version::CommandLine>), [];
            /// Would tell the image's build id; there is none.
            VersionBuildId, version_build_id, $crate::call::number::XEN_VERSION, $crate::version::op::BUILD_ID, Guest,
            (id: Ptr), [ENODATA];

            // ---- vcpu_op ----
            /// Gives a vCPU its first registers.
            VcpuInitialise, vcpu_initialise, $crate::call::number::VCPU_OP, $crate::vcpu::op::INITIALISE, Guest,
            (vcpu: Word<$crate::VcpuId>, context: In<$crate::vcpu::HvmContext>), [EINVAL, ENOENT, EEXIST];
            /// Starts a vCPU.
            VcpuUp, vcpu_up, $crate::call::number::VCPU_OP, $crate::vcpu::op::UP, Guest,
            (vcpu: Word<$crate::VcpuId>), [EINVAL, ENOENT];
            /// Stops a vCPU.
            VcpuDown, vcpu_down, $crate::call::number::VCPU_OP, $crate::vcpu::op::DOWN, Guest,
            (vcpu: Word<$crate::VcpuId>), [ENOENT];
            /// Tells whether a vCPU is up: 1 or 0.
            VcpuIsUp, vcpu_is_up, $crate::call::number::VCPU_OP, $crate::vcpu::op::IS_UP, Guest,
            (vcpu: Word<$crate::VcpuId>), [ENOENT];
            /// Copies the times that a vCPU spent in each state.
            VcpuRunstateInfo, vcpu_runstate_info, $crate::call::number::VCPU_OP,
            $crate::vcpu::op::GET_RUNSTATE_INFO, Guest,
            (vcpu: Word<$crate::VcpuId>, info: Out<$crate::vcpu::RunstateInfo>), [ENOENT];
            /// Names the memory in which those times are kept up to date.
            VcpuRegisterRunstate, vcpu_register_runstate, $crate::call::number::VCPU_OP,
            $crate::vcpu::op::REGISTER_RUNSTATE_MEMORY_AREA, Guest,
            (vcpu: Word<$crate::VcpuId>, area: In<$crate::vcpu::RegisterArea>), [ENOENT];
            /// Stops the periodic timer, of which there is none: succeeds.
            VcpuStopPeriodicTimer, vcpu_stop_periodic_timer, $crate::call::number::VCPU_OP,
            $crate::vcpu::op::STOP_PERIODIC_TIMER, Guest,
            (vcpu: Word<$crate::VcpuId>), [ENOENT];
            /// Sets the caller's single-shot timer.
            VcpuSetSingleshotTimer, vcpu_set_singleshot_timer, $crate::call::number::VCPU_OP,
            $crate::vcpu::op::SET_SINGLESHOT_TIMER, Guest,
            (vcpu: Word<$crate::VcpuId>, timer: In<$crate::vcpu::SetSingleshotTimer>), [EINVAL, ENOENT, ETIME];
            /// Stops the caller's single-shot timer.
            VcpuStopSingleshotTimer, vcpu_stop_singleshot_timer, $crate::call::number::VCPU_OP,
            $crate::vcpu::op::STOP_SINGLESHOT_TIMER, Guest,
            (vcpu: Word<$crate::VcpuId>), [EINVAL, ENOENT];
            /// Moves a vCPU's information structure to a place of the guest's choice.
            VcpuRegisterInfo, vcpu_register_info, $crate::call::number::VCPU_OP,
            $crate::vcpu::op::REGISTER_VCPU_INFO, Guest,
            (vcpu: Word<$crate::VcpuId>, info: In<$crate::vcpu::RegisterVcpuInfo>), [EINVAL, ENOENT];
            /// Sends a vCPU a non-maskable interrupt.
            VcpuSendNmi, vcpu_send_nmi, $crate::call::number::VCPU_OP, $crate::vcpu::op::SEND_NMI, Guest,
            (vcpu: Word<$crate::VcpuId>), [ENOENT];
            /// Names the memory in which a vCPU's clock is kept up to date besides its information structure.
            VcpuRegisterTime, vcpu_register_time, $crate::call::number::VCPU_OP,
            $crate::vcpu::op::REGISTER_VCPU_TIME_MEMORY_AREA, Guest,
            (vcpu: Word<$crate::VcpuId>, area: In<$crate::vcpu::RegisterArea>), [ENOENT];

            // ---- hvm_op ----
            /// Sets a parameter of the domain.
            HvmSetParam, hvm_set_param, $crate::call::number::HVM_OP, $crate::hvm::op::SET_PARAM, Guest,
            (param: In<$crate::hvm::Param>), [EINVAL, ESRCH];
            /// Reads a parameter of the domain.
            HvmGetParam, hvm_get_param, $crate::call::number::HVM_OP, $crate::hvm::op::GET_PARAM, Guest,
            (param: InOut<$crate::hvm::Param>), [EINVAL, ESRCH];
            /// Reads the system time in nanoseconds.
            HvmGetTime, hvm_get_time, $crate::call::number::HVM_OP, $crate::hvm::op::GET_TIME, Guest,
            (time: Out<$crate::hvm::GetTime>), [];
            /// Sets the interrupt vector by which a vCPU is told of events.
            HvmSetUpcallVector, hvm_set_upcall_vector, $crate::call::number::HVM_OP,
            $crate::hvm::op::SET_EVTCHN_UPCALL_VECTOR, Guest,
            (set: In<$crate::hvm::EvtchnUpcallVector>), [EINVAL, ENOENT];

            // ---- physdev_op ----
            /// Acknowledges a physical interrupt, so that it can come again.
            PhysdevEoi, physdev_eoi, $crate::call::number::PHYSDEV_OP, $crate::physdev::op::EOI, Driver,
            (eoi: In<$crate::physdev::Eoi>), [EINVAL];
            /// Tells whether an interrupt must be acknowledged.
            PhysdevIrqStatus, physdev_irq_status, $crate::call::number::PHYSDEV_OP,
            $crate::physdev::op::IRQ_STATUS_QUERY, Driver,
            (query: InOut<$crate::physdev::IrqStatusQuery>), [EINVAL];
            /// Binds an interrupt line or message of the caller's device to a pirq number.
            PhysdevMapPirq, physdev_map_pirq, $crate::call::number::PHYSDEV_OP, $crate::physdev::op::MAP_PIRQ, Driver,
            (map: InOut<$crate::physdev::MapPirq>), [EINVAL, ENODEV, EEXIST, ENOSPC];
            /// Ends such a binding.
            PhysdevUnmapPirq, physdev_unmap_pirq, $crate::call::number::PHYSDEV_OP,
            $crate::physdev::op::UNMAP_PIRQ, Driver,
            (unmap: In<$crate::physdev::UnmapPirq>), [EINVAL];
            /// Finds an unused pirq number.
            PhysdevGetFreePirq, physdev_get_free_pirq, $crate::call::number::PHYSDEV_OP,
            $crate::physdev::op::GET_FREE_PIRQ, Driver,
            (get: InOut<$crate::physdev::GetFreePirq>), [ENOSPC];
            /// Sets trigger and polarity of a line.
            PhysdevSetupGsi, physdev_setup_gsi, $crate::call::number::PHYSDEV_OP,
            $crate::physdev::op::SETUP_GSI, Driver,
            (setup: In<$crate::physdev::SetupGsi>), [EINVAL];
            /// Announces a device; the hypervisor knows it already.
            PhysdevPciDeviceAdd, physdev_pci_device_add, $crate::call::number::PHYSDEV_OP,
            $crate::physdev::op::PCI_DEVICE_ADD, Driver,
            (add: In<$crate::physdev::PciDeviceAdd>), [ENODEV];
            /// Announces the use of a device's MSI-X table.
            PhysdevPrepareMsix, physdev_prepare_msix, $crate::call::number::PHYSDEV_OP,
            $crate::physdev::op::PREPARE_MSIX, Driver,
            (device: In<$crate::physdev::PciDevice>), [ENODEV];
            /// Ends the use of a device's MSI-X table.
            PhysdevReleaseMsix, physdev_release_msix, $crate::call::number::PHYSDEV_OP,
            $crate::physdev::op::RELEASE_MSIX, Driver,
            (device: In<$crate::physdev::PciDevice>), [ENODEV];

            // ---- console_io ----
            /// Writes text to the emergency console; returns 0 when all of it was taken.
            ConsoleWrite, console_write, $crate::call::number::CONSOLE_IO, $crate::call::number::CONSOLE_WRITE, Guest,
            (text: Text), [];
            /// Reads input of the emergency console; returns the number of bytes.
            ConsoleRead, console_read, $crate::call::number::CONSOLE_IO, $crate::call::number::CONSOLE_READ, Control,
            (buffer: Buffer), [];

            // ---- multicall ----
            /// Makes several calls, each with a result of its own.
            Multicall, multicall, $crate::call::number::MULTICALL, ANY, Guest,
            (calls: Array<$crate::call::MulticallEntry>), [EINVAL];

            // ---- control ----
            /// Tells the version of the control interface.
            ControlVersion, control_version, $crate::call::number::CONTROL, $crate::control::op::VERSION, Control,
            (), [];
            /// Creates the domain that a section of the boot bundle describes, paused, with its kernel loaded.
            ControlCreate, control_create, $crate::call::number::CONTROL, $crate::control::op::CREATE, Control,
            (section: Text, created: Out<$crate::control::Created>),
            [EINVAL, ENOENT, EEXIST, ENOMEM, ENOEXEC, ENOSPC];
            /// Loads a section's kernel again into a domain that has never run.
            ControlBuild, control_build, $crate::call::number::CONTROL, $crate::control::op::BUILD, Control,
            (domain: Word<$crate::DomainId>, section: Text), [EINVAL, ENOENT, ESRCH, EBUSY, ENOEXEC, ENOMEM];
            /// Stops a domain's vCPUs until `control_unpause`; pauses are counted.
            ControlPause, control_pause, $crate::call::number::CONTROL, $crate::control::op::PAUSE, Control,
            (domain: Word<$crate::DomainId>), [EINVAL, ESRCH];
            /// Takes one pause back.
            ControlUnpause, control_unpause, $crate::call::number::CONTROL, $crate::control::op::UNPAUSE, Control,
            (domain: Word<$crate::DomainId>), [EINVAL, ESRCH];
            /// Ends a domain and takes its memory back as soon as nobody maps it.
            ControlDestroy, control_destroy, $crate::call::number::CONTROL, $crate::control::op::DESTROY, Control,
            (domain: Word<$crate::DomainId>), [EINVAL, ESRCH];
            /// Describes the domain with the lowest number that is not below `first`.
            ControlInfo, control_info, $crate::call::number::CONTROL, $crate::control::op::INFO, Control,
            (first: Word<$crate::DomainId>, info: Out<$crate::control::DomainInfo>), [ESRCH];
            /// Describes a vCPU.
            ControlVcpuInfo, control_vcpu_info, $crate::call::number::CONTROL, $crate::control::op::VCPU_INFO, Control,
            (domain: Word<$crate::DomainId>, vcpu: Word<$crate::VcpuId>, info: Out<$crate::control::VcpuState>),
            [ESRCH, ENOENT];
            /// Copies a domain's counters.
            ControlStatistics, control_statistics, $crate::call::number::CONTROL,
            $crate::control::op::STATISTICS, Control,
            (domain: Word<$crate::DomainId>, statistics: Out<$crate::control::Statistics>), [ESRCH];
            /// Turns the machine off or restarts it, with a status for whoever started it.
            ControlPower, control_power, $crate::call::number::CONTROL, $crate::control::op::POWER, Control,
            (action: Word<u32>, status: Word<u32>), [EINVAL];
            /// Sets how a domain shares the CPUs.
            ControlSchedule, control_schedule, $crate::call::number::CONTROL, $crate::control::op::SCHEDULE, Control,
            (schedule: In<$crate::control::Schedule>), [EINVAL, ESRCH];
            /// Takes records out of a CPU's trace; returns their number.
            ControlTrace, control_trace, $crate::call::number::CONTROL, $crate::control::op::TRACE, Control,
            (cpu: Word<u32>, records: Array<$crate::control::TraceRecord>), [ENOENT];
            /// Maps the page of counters with this number into the caller's memory, read-only; see `pv_abi::counters`.
            ControlCounters, control_counters, $crate::call::number::CONTROL, $crate::control::op::COUNTERS, Control,
            (number: Word<u32>, place: Word<$crate::Gfn>), [ENOENT, EINVAL, EBUSY, ENOMEM];
            /// Emulates I/O ports of another domain, or ends that.
            ControlEmulate, control_emulate, $crate::call::number::CONTROL, $crate::control::op::EMULATE, Control,
            (emulate: In<$crate::control::Emulate>), [EINVAL, ESRCH, EBUSY];
            /// Lets a vCPU look at the answer to its access.
            ControlEmulated, control_emulated, $crate::call::number::CONTROL, $crate::control::op::EMULATED, Control,
            (domain: Word<$crate::DomainId>, vcpu: Word<$crate::VcpuId>), [ESRCH, ENOENT];
        }
    };
}
