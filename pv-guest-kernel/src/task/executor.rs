//! The executor: one queue of ready tasks, taken from by every vCPU.
//!
//! A vCPU that finds nothing ready halts until an event comes (HLT with upcalls let in: unlike SCHEDOP_block with them
//! masked, it cannot lose an event that came just before, on any hypervisor). Waking is allowed from
//! upcalls. A waker sends an IPI event only if there is more ready work than its own vCPU takes next, and another vCPU
//! is idle.
//!
//! Invariants: a task is in the queue at most once, and polled by one vCPU at a time: see [`State`].

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::task::Wake;
use core::cell::UnsafeCell;
use core::future::Future;
use core::mem::ManuallyDrop;
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::task::{Context, Poll, Waker};

use futures_util::task::AtomicWaker;

use super::state::State;
use crate::arch::cpu::{self, PerCpu};
use crate::arch::{instr, trap};
use crate::sync::IrqMutex;

type Body = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Task {
    state: State,
    /// Touched by the vCPU that polls the task.
    future: UnsafeCell<Option<Body>>,
}

// SAFETY: one vCPU at a time polls the task; the future is `Send`.
unsafe impl Sync for Task {}

static READY: IrqMutex<VecDeque<Arc<Task>>> = IrqMutex::new(VecDeque::new());
/// Bit n: vCPU n is idle.
static IDLE_CPUS: AtomicU64 = AtomicU64::new(0);
static TASKS: AtomicU64 = AtomicU64::new(0);

fn push(task: Arc<Task>) {
    let length = {
        let mut ready = READY.lock();
        ready.push_back(task);
        ready.len()
    };
    let me = cpu::this();
    let others = IDLE_CPUS.load(Ordering::SeqCst) & !(1 << me.id);
    if others == 0 {
        return;
    }
    let mine = usize::from(me.idle.load(Ordering::Relaxed));
    if length > mine {
        let target = others.trailing_zeros();
        // Whoever clears the bit sends the event; a second waker picks another vCPU.
        if IDLE_CPUS.fetch_and(!(1 << target), Ordering::SeqCst) >> target & 1 == 1
            && let Some(target) = cpu::get(target)
        {
            crate::xen::events::kick(target);
        }
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        if self.state.wake() {
            push(self);
        }
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.wake() {
            push(self.clone());
        }
    }
}

fn run(task: Arc<Task>) {
    cpu::this().polls.fetch_add(1, Ordering::Relaxed);
    task.state.begin();
    // SAFETY: a second handle, which is not counted and not dropped: `task` outlives it.
    let waker = ManuallyDrop::new(Waker::from(unsafe { core::ptr::read(&task) }));
    // SAFETY: between `begin` and `end` nobody else reaches it.
    let slot = unsafe { &mut *task.future.get() };
    let Some(future) = slot.as_mut() else { return };
    if future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
        *slot = None;
        TASKS.fetch_sub(1, Ordering::Relaxed);
        return;
    }
    if task.state.end() {
        push(task);
    }
}

/// Runs what is ready on this vCPU, or else waits for an event.
#[inline]
fn step(me: &PerCpu) {
    let next = READY.lock().pop_front();
    if let Some(task) = next {
        return run(task);
    }
    // Say "idle" first, look again with upcalls masked, and only then halt.
    instr::cli();
    me.idle.store(true, Ordering::Relaxed);
    IDLE_CPUS.fetch_or(1 << me.id, Ordering::SeqCst);
    if READY.lock().is_empty() {
        me.blocks.fetch_add(1, Ordering::Relaxed);
        trap::idle_wait();
    } else {
        instr::sti();
    }
    IDLE_CPUS.fetch_and(!(1 << me.id), Ordering::SeqCst);
    me.idle.store(false, Ordering::Relaxed);
}

/// Runs tasks on this vCPU for ever.
pub fn run_forever() -> ! {
    let me = cpu::this();
    loop {
        step(me);
    }
}

struct Shared<T> {
    done: AtomicBool,
    value: IrqMutex<Option<T>>,
    waker: AtomicWaker,
}

/// Waits for a task's result. Dropping it lets the task run on alone.
pub struct JoinHandle<T>(Arc<Shared<T>>);

impl<T> JoinHandle<T> {
    /// Has the task ended?
    pub fn is_done(&self) -> bool {
        self.0.done.load(Ordering::Acquire)
    }

    fn take(&self) -> Option<T> {
        if self.is_done() { self.0.value.lock().take() } else { None }
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = T;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        self.0.waker.register(cx.waker());
        match self.take() {
            Some(value) => Poll::Ready(value),
            None => Poll::Pending,
        }
    }
}

/// Starts a task.
pub fn spawn<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    let shared = Arc::new(Shared {
        done: AtomicBool::new(false),
        value: IrqMutex::new(None),
        waker: AtomicWaker::new(),
    });
    let out = shared.clone();
    let body: Body = Box::pin(async move {
        let value = future.await;
        *out.value.lock() = Some(value);
        out.done.store(true, Ordering::Release);
        out.waker.wake();
    });
    TASKS.fetch_add(1, Ordering::Relaxed);
    push(Arc::new(Task { state: State::new(), future: UnsafeCell::new(Some(body)) }));
    JoinHandle(shared)
}

/// Lets other tasks run once.
pub async fn yield_now() {
    let mut yielded = false;
    core::future::poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Tasks that have not ended.
pub fn tasks() -> u64 {
    TASKS.load(Ordering::Relaxed)
}
