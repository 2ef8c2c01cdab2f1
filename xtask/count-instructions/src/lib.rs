//! A plugin of QEMU's user mode that counts how often each block of a program is executed:
//!
//! ```text
//! qemu-aarch64 -plugin libcount_instructions.so,out=FILE PROGRAM
//! ```
//!
//! FILE then has the address that the program's entry point was loaded at and, a line each, the blocks:
//! address, number of instructions, times executed. Numbers are decimal. A block that was translated more
//! than once has one line.
//!
//! The interface is that of QEMU 6 to 8 (`qemu-plugin.h`, version 1). Emulators that are linked statically
//! have none.

#![cfg(target_os = "linux")]

use std::{
    collections::BTreeMap,
    ffi::{CStr, c_char, c_int, c_void},
    fmt::Write,
    fs,
    sync::{Mutex, OnceLock},
};

/// The version of the interface.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, reason = "QEMU looks for this name")]
pub static qemu_plugin_version: c_int = 1;

/// `QEMU_PLUGIN_INLINE_ADD_U64`.
const ADD_U64: c_int = 0;

/// A block being translated: QEMU's, never looked into.
#[repr(C)]
struct Block {
    _private: [u8; 0],
}

unsafe extern "C" {
    fn qemu_plugin_register_vcpu_tb_trans_cb(id: u64, callback: extern "C" fn(u64, *mut Block));
    fn qemu_plugin_register_vcpu_tb_exec_inline(block: *mut Block, op: c_int, to: *mut c_void, value: u64);
    fn qemu_plugin_register_atexit_cb(id: u64, callback: extern "C" fn(u64, *mut c_void), data: *mut c_void);
    fn qemu_plugin_tb_n_insns(block: *const Block) -> usize;
    fn qemu_plugin_tb_vaddr(block: *const Block) -> u64;
    fn qemu_plugin_entry_code() -> u64;
}

/// By address and number of instructions, the address of a counter that lives as long as the process.
static COUNTERS: Mutex<BTreeMap<(u64, usize), usize>> = Mutex::new(BTreeMap::new());

/// The file that the counts go to.
static OUT: OnceLock<String> = OnceLock::new();

/// Called by QEMU when it loads the plugin.
///
/// # Safety
/// `argv` has `argc` strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: u64,
    _info: *const c_void,
    argc: c_int,
    argv: *const *const c_char,
) -> c_int {
    // SAFETY: the caller's.
    let arguments = (0..argc as usize).map(|i| unsafe { CStr::from_ptr(*argv.add(i)) }.to_string_lossy());
    let Some(file) = arguments.filter_map(|a| a.strip_prefix("out=").map(str::to_owned)).next_back() else {
        eprintln!("count-instructions: say where the counts go: out=FILE");
        return 1;
    };
    if OUT.set(file).is_err() {
        eprintln!("count-instructions: loaded twice");
        return 1;
    }
    // SAFETY: both callbacks have the types that QEMU calls them by, and stay loaded.
    unsafe {
        qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
        qemu_plugin_register_atexit_cb(id, finished, std::ptr::null_mut());
    }
    0
}

/// A block was translated: from now on, each of its executions adds 1 to its counter.
extern "C" fn translated(_id: u64, block: *mut Block) {
    // SAFETY: QEMU's block is valid during this call.
    let key = unsafe { (qemu_plugin_tb_vaddr(block), qemu_plugin_tb_n_insns(block)) };
    let mut counters = COUNTERS.lock().expect("no holder of the lock panics");
    let counter = *counters.entry(key).or_insert_with(|| Box::into_raw(Box::new(0u64)) as usize);
    // SAFETY: the counter is a u64 that is never freed.
    unsafe { qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, counter as *mut c_void, 1) };
}

/// The program has ended.
extern "C" fn finished(_id: u64, _data: *mut c_void) {
    let counters = COUNTERS.lock().expect("no holder of the lock panics");
    // SAFETY: takes nothing.
    let mut text = format!("{}\n", unsafe { qemu_plugin_entry_code() });
    for ((address, instructions), counter) in counters.iter() {
        // SAFETY: made above, and no block is executed any more.
        let count = unsafe { *(*counter as *const u64) };
        let _ = writeln!(text, "{address} {instructions} {count}");
    }
    if let Some(Err(error)) = OUT.get().map(|file| fs::write(file, text).map_err(|error| (file, error))) {
        eprintln!("count-instructions: cannot write {}: {}", error.0, error.1);
    }
}
