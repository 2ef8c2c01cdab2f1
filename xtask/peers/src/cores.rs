//! Which core a thread runs on. Left alone, Linux may wake two threads that slept while Python ran on the same core, and leave them
//! there for longer than a sample takes.

#[cfg(target_os = "linux")]
mod linux {
    use std::{mem::zeroed, sync::OnceLock};

    use libc::{CPU_ISSET, CPU_SET, CPU_SETSIZE, cpu_set_t, sched_getaffinity, sched_setaffinity};

    /// Cores that this program may run on: asked for before a thread is pinned.
    static ALLOWED: OnceLock<cpu_set_t> = OnceLock::new();

    fn current() -> cpu_set_t {
        // SAFETY: a set of bits, which the call fills.
        unsafe {
            let mut cores = zeroed();
            sched_getaffinity(0, size_of::<cpu_set_t>(), &mut cores);
            cores
        }
    }

    /// Where it is refused, the thread stays as free as it was.
    fn set(cores: &cpu_set_t) {
        // SAFETY: reads the set.
        unsafe { sched_setaffinity(0, size_of::<cpu_set_t>(), cores) };
    }

    pub fn pin(thread: usize) {
        let allowed = ALLOWED.get_or_init(current);
        // SAFETY: the index lies inside the set.
        let core = (0..CPU_SETSIZE as usize).filter(|&core| unsafe { CPU_ISSET(core, allowed) }).nth(thread);
        if let Some(core) = core {
            // SAFETY: as above.
            let only = unsafe {
                let mut only = zeroed();
                CPU_SET(core, &mut only);
                only
            };
            set(&only);
        }
    }

    pub fn unpinned<R>(f: impl FnOnce() -> R) -> R {
        let own = current();
        if let Some(allowed) = ALLOWED.get() {
            set(allowed);
        }
        let result = f();
        set(&own);
        result
    }
}

/// Keeps this thread, the `thread`th of its pool, on a core of its own.
pub fn pin(thread: usize) {
    #[cfg(target_os = "linux")]
    linux::pin(thread);
    #[cfg(not(target_os = "linux"))]
    let _ = thread;
}

/// Calls `f` on this thread as it was before it was pinned.
pub fn unpinned<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(target_os = "linux")]
    return linux::unpinned(f);
    #[cfg(not(target_os = "linux"))]
    f()
}
