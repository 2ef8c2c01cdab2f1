//! Executes `vpdpbusd` in its VEX form in software, for tests of the `avx_vnni` kernel on CPUs that have AVX2 only; and
//! `vpdpwssd`, which the compiler makes of a multiply-add of i16 and an addition where it may.
//!
//! Preloaded (`LD_PRELOAD`) into a test binary that was built with `-C target-feature=+avxvnni`, so that detection says yes,
//! it catches the CPU's "illegal instruction", computes the instruction's definition on the saved registers, and goes on
//! behind it. What is tested is everything but the CPU: the kernel's code, its operand order, its layout, its bounds (a
//! memory operand is read at its real address). Any other illegal instruction ends the program as ever.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use libc::{c_int, c_void, siginfo_t, ucontext_t};

/// The definition: four products of u8 and i8 added to each i32, modulo 2^32.
fn dot(sum: i32, a: [u8; 4], b: [u8; 4]) -> i32 {
    a.into_iter().zip(b).fold(sum, |sum, (a, b)| sum.wrapping_add(i32::from(a) * i32::from(b as i8)))
}

/// The definition of `vpdpwssd`: two products of i16 added to each i32, modulo 2^32.
fn dot_words(sum: i32, a: [u8; 4], b: [u8; 4]) -> i32 {
    let words = |v: [u8; 4]| [i16::from_le_bytes([v[0], v[1]]), i16::from_le_bytes([v[2], v[3]])];
    let products = words(a).into_iter().zip(words(b)).map(|(a, b)| i32::from(a) * i32::from(b));
    products.fold(sum, i32::wrapping_add)
}

/// A decoded `vpdpbusd` or `vpdpwssd`: vector registers by number, the last operand a register or an address.
#[derive(Debug, PartialEq, Clone, Copy)]
struct Instruction {
    length: u64,
    /// It is `vpdpwssd`.
    words: bool,
    /// 16 or 32.
    bytes: usize,
    sum: usize,
    unsigned: usize,
    signed: Operand,
}

#[derive(Debug, PartialEq, Clone, Copy)]
enum Operand {
    Register(usize),
    Address(u64),
}

/// Decodes `VEX.{128,256}.66.0F38.W0 50 /r` and `52 /r`; `general` gives a general register by its number, `rip` is the address of the code.
fn decode(code: &[u8; 16], rip: u64, general: impl Fn(u8) -> u64) -> Option<Instruction> {
    let &[0xC4, p1, p2, opcode @ (0x50 | 0x52), modrm, ..] = code else { return None };
    // The prefix stores R, X, B and vvvv inverted. Map 0F38, W0, prefix 66.
    if p1 & 0x1F != 2 || p2 & 0x83 != 1 {
        return None;
    }
    let extend = |bit: u8| if p1 & bit == 0 { 8 } else { 0 };
    let (mode, reg, rm) = (modrm >> 6, modrm >> 3 & 7, modrm & 7);
    let mut length = 5;
    let disp8 = |at: usize| code[at] as i8 as i64;
    let disp32 =
        |at: usize| i64::from(i32::from_le_bytes([code[at], code[at + 1], code[at + 2], code[at + 3]]));
    let signed = if mode == 3 {
        Operand::Register(usize::from(rm + extend(0x20)))
    } else {
        let mut relative = false;
        let mut no_base = false;
        let mut address = if rm == 4 {
            let sib = code[length];
            length += 1;
            let (scale, index, base) = (sib >> 6, (sib >> 3 & 7) + extend(0x40), sib & 7);
            no_base = base == 5 && mode == 0;
            let base = if no_base { 0 } else { general(base + extend(0x20)) };
            // Index 4 means none.
            base.wrapping_add(if index == 4 { 0 } else { general(index) << scale })
        } else if rm == 5 && mode == 0 {
            relative = true;
            0
        } else {
            general(rm + extend(0x20))
        };
        let displacement = match mode {
            1 => (disp8(length), 1),
            2 => (disp32(length), 4),
            _ if relative || no_base => (disp32(length), 4),
            _ => (0, 0),
        };
        length += displacement.1;
        address = address.wrapping_add_signed(displacement.0);
        if relative {
            address = address.wrapping_add(rip + length as u64);
        }
        Operand::Address(address)
    };
    Some(Instruction {
        length: length as u64,
        words: opcode == 0x52,
        bytes: if p2 & 4 == 0 { 16 } else { 32 },
        sum: usize::from(reg + extend(0x80)),
        unsigned: usize::from(!p2 >> 3 & 15),
        signed,
    })
}

/// The ucontext's general registers in the order of their numbers in instructions.
const GENERAL: [c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// Where XSAVE's standard format keeps things, in bytes.
const XMM: usize = 160;
const STATE_BITS: usize = 512;
const YMM_HIGH: usize = 576;
const AVX_BIT: u64 = 1 << 2;

/// The saved vector registers of the interrupted code.
struct Vectors(*mut u8);

impl Vectors {
    fn state_bits(&self) -> *mut u64 {
        self.0.wrapping_add(STATE_BITS).cast()
    }

    fn read(&self, register: usize) -> [u8; 32] {
        let mut value = [0; 32];
        // SAFETY: the kernel saved an XSAVE area with AVX state, which every CPU that runs AVX2 code has.
        unsafe {
            value.as_mut_ptr().copy_from_nonoverlapping(self.0.add(XMM + 16 * register), 16);
            // A clear bit says that all upper halves are zero and were not written.
            if *self.state_bits() & AVX_BIT != 0 {
                value.as_mut_ptr().add(16).copy_from_nonoverlapping(self.0.add(YMM_HIGH + 16 * register), 16);
            }
        }
        value
    }

    fn write(&self, register: usize, value: [u8; 32]) {
        // SAFETY: as in `read`; what becomes valid by setting the bit is written first.
        unsafe {
            if *self.state_bits() & AVX_BIT == 0 {
                self.0.add(YMM_HIGH).write_bytes(0, 256);
            }
            *self.state_bits() |= AVX_BIT | 3;
            value.as_ptr().copy_to_nonoverlapping(self.0.add(XMM + 16 * register), 16);
            value.as_ptr().add(16).copy_to_nonoverlapping(self.0.add(YMM_HIGH + 16 * register), 16);
        }
    }
}

fn execute(instruction: &Instruction, vectors: &Vectors) {
    let Instruction { words, bytes, sum, unsigned, signed, .. } = *instruction;
    let dot = if words { dot_words } else { dot };
    let a = vectors.read(unsigned);
    let b = match signed {
        Operand::Register(register) => vectors.read(register),
        Operand::Address(address) => {
            let mut value = [0; 32];
            // SAFETY: the instruction would read these bytes; if they may not be read, the program ends here as it would there.
            unsafe { value.as_mut_ptr().copy_from_nonoverlapping(address as *const u8, bytes) };
            value
        }
    };
    let mut result = vectors.read(sum);
    let word = |v: &[u8; 32], i: usize| [v[i], v[i + 1], v[i + 2], v[i + 3]];
    for i in (0..bytes).step_by(4) {
        let value = dot(i32::from_le_bytes(word(&result, i)), word(&a, i), word(&b, i));
        result[i..i + 4].copy_from_slice(&value.to_le_bytes());
    }
    result[bytes..].fill(0);
    vectors.write(sum, result);
}

extern "C" fn on_illegal_instruction(signal: c_int, _: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes the interrupted context. Code can be read to the end of its page; an instruction of ours has at
    // most 10 bytes, so only one that goes on in the next page makes us read there.
    unsafe {
        let machine = &mut (*context.cast::<ucontext_t>()).uc_mcontext;
        let rip = machine.gregs[libc::REG_RIP as usize] as u64;
        let mut code = [0; 16];
        let to_page_end = 4096 - (rip as usize & 4095);
        let readable = if to_page_end >= 10 { to_page_end.min(16) } else { 16 };
        code.as_mut_ptr().copy_from_nonoverlapping(rip as *const u8, readable);
        let gregs = machine.gregs;
        let general = |number: u8| gregs[GENERAL[usize::from(number)] as usize] as u64;
        match decode(&code, rip, general) {
            Some(instruction) => {
                execute(&instruction, &Vectors(machine.fpregs.cast()));
                machine.gregs[libc::REG_RIP as usize] = (rip + instruction.length) as i64;
            }
            // Not ours: the default action when the instruction is tried again.
            None => {
                libc::signal(signal, libc::SIG_DFL);
            }
        }
    }
}

extern "C" fn install() {
    // SAFETY: a handler with the three arguments that SA_SIGINFO promises; the rest of the structure is zero.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_illegal_instruction as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGILL, &action, std::ptr::null_mut());
    }
}

/// Run by the loader before `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static INSTALL: extern "C" fn() = install;

#[cfg(test)]
mod tests {
    use super::*;
    use std::arch::x86_64::*;

    #[test]
    fn decodes_registers_and_addresses() {
        let general = |number: u8| 0x1000 * u64::from(number);
        let decoded = |bytes: &[u8]| {
            let mut code = [0; 16];
            code[..bytes.len()].copy_from_slice(bytes);
            decode(&code, 0x40_0000, general)
        };
        // vpdpbusd ymm11, ymm14, ymm3
        let expected = Instruction {
            length: 5,
            words: false,
            bytes: 32,
            sum: 11,
            unsigned: 14,
            signed: Operand::Register(3),
        };
        assert_eq!(decoded(&[0xC4, 0x62, 0x0D, 0x50, 0xDB]), Some(expected));
        // vpdpwssd ymm11, ymm14, ymm3
        let expected = Instruction { words: true, ..expected };
        assert_eq!(decoded(&[0xC4, 0x62, 0x0D, 0x52, 0xDB]), Some(expected));
        // vpdpbusd xmm0, xmm1, [r9 + 4*rcx + 0x20]
        let address = Operand::Address(0x9000 + 4 * 0x1000 + 0x20);
        let expected =
            Instruction { length: 7, words: false, bytes: 16, sum: 0, unsigned: 1, signed: address };
        assert_eq!(decoded(&[0xC4, 0xC2, 0x71, 0x50, 0x44, 0x89, 0x20]), Some(expected));
        // vpdpbusds, the saturating form, is another instruction.
        assert_eq!(decoded(&[0xC4, 0x62, 0x0D, 0x51, 0xDB]), None);
    }

    #[target_feature(enable = "avx2,avxvnni")]
    fn trap(sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
        _mm256_dpbusd_avx_epi32(sum, a, b)
    }

    #[target_feature(enable = "avx2,avxvnni")]
    fn trap_words(sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
        _mm256_dpwssd_avx_epi32(sum, a, b)
    }

    #[test]
    fn a_trapped_instruction_has_its_result() {
        if !std::is_x86_feature_detected!("avx2") {
            return;
        }
        install();
        // SAFETY: AVX2 is there, and what is not traps into the handler.
        let sums: [i32; 8] = unsafe {
            std::mem::transmute(trap(_mm256_set1_epi32(7), _mm256_set1_epi8(-1), _mm256_set1_epi8(-128)))
        };
        assert_eq!(sums, [7 + 4 * 255 * -128; 8]);
        // SAFETY: as above.
        let sums: [i32; 8] = unsafe {
            let [a, b] = [_mm256_set1_epi16(-300), _mm256_set1_epi16(200)];
            std::mem::transmute(trap_words(_mm256_set1_epi32(7), a, b))
        };
        assert_eq!(sums, [7 - 2 * 300 * 200; 8]);
    }
}
