//! How much stack a call takes.

use core::arch::asm;

/// Bytes below the stack pointer that are painted: what takes more is reported as this much.
const PAINTED: usize = 16 * 1024;
const PAINT: u32 = 0xa5c3_96e1;

/// Calls a function, and looks how far below the frame of this one it wrote.
#[inline(never)]
pub fn measure<T>(call: impl FnOnce() -> T) -> (usize, T) {
    let top: usize;
    // SAFETY: what lies below the stack pointer belongs to nobody: no interrupt is enabled, and the block calls nothing. The stack
    // has all of this board's RAM but a few KiB.
    unsafe {
        asm!(
            "mov {top}, sp",
            "sub {at}, {top}, {below}",
            "2:",
            "str {paint}, [{at}], #4",
            "cmp {at}, {top}",
            "blo 2b",
            top = out(reg) top,
            at = out(reg) _,
            below = in(reg) PAINTED,
            paint = in(reg) PAINT,
        );
    }
    let result = apart(call);
    let mut untouched = 0;
    // SAFETY: inside the painted memory, of which what lies deepest is read first.
    while untouched < PAINTED && unsafe { read(top - PAINTED + untouched) } == PAINT {
        untouched += size_of::<u32>();
    }
    (PAINTED - untouched, result)
}

/// Not inlined: what the call takes shall not be part of the frame above.
#[inline(never)]
fn apart<T>(call: impl FnOnce() -> T) -> T {
    call()
}

/// # Safety
/// A word of RAM lies at the address.
unsafe fn read(address: usize) -> u32 {
    // SAFETY: the caller's.
    unsafe { core::ptr::with_exposed_provenance::<u32>(address).read_volatile() }
}
