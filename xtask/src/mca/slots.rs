//! Issue slots of the in-order cores Cortex-A53 and A55, of which llvm-mca's models rank schedules wrongly.
//!
//! Both cores issue up to two adjacent instructions a cycle, in program order. The rules, as ARM published
//! them:
//!
//! - Loads move 64 bits a cycle: a 128-bit load takes the slots of two cycles and pairs with nothing.
//! - Of vector arithmetic, 128 bits are issued a cycle: a multiply does not pair with another, nor with an
//!   addition.
//! - A55: `ldr d`, `ldr x` and `ins` each pair with a 128-bit multiply.
//! - A53: a vector load does not pair with a 128-bit multiply, nor does `ins`. `ldr d` pairs with `ins`, and
//!   `ldr x` with a multiply.
//! - Two loads do not pair. Scalar arithmetic pairs with anything that takes one cycle; a taken branch ends
//!   its cycle.
//! - The second of a pair does not use what the first one writes.
//!
//! Latency is left out: these are the cycles of a schedule that hides it, which is what schedules are
//! compared by.

use crate::loops::{name, operands};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Core {
    A53,
    A55,
}

/// What an instruction takes of a cycle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    /// Vector arithmetic.
    Vector,
    /// At most 64 bits to a vector register.
    VectorLoad,
    /// At most 64 bits to a general register; prefetches.
    Load,
    /// A general register to a lane of a vector.
    Insert,
    Scalar,
    Branch,
    /// Whole cycles, shared with nothing.
    Alone(u32),
}

/// Cycles of one turn of a loop.
pub fn cycles<'a>(core: Core, body: impl Iterator<Item = &'a str>) -> u32 {
    let mut cycles = 0;
    let mut body = body.peekable();
    while let Some(first) = body.next() {
        let class = class(first);
        cycles += if let Class::Alone(cycles) = class { cycles } else { 1 };
        body.next_if(|second| pairs(core, class, self::class(second)) && !depends(first, second));
    }
    cycles
}

fn pairs(core: Core, first: Class, second: Class) -> bool {
    use Class::*;
    match (first, second) {
        (Alone(_), _) | (_, Alone(_)) | (Branch, _) => false,
        (Scalar, _) | (_, Scalar | Branch) => true,
        (Vector, Load) | (Load, Vector) => true,
        (Vector, VectorLoad | Insert) | (VectorLoad | Insert, Vector) => core == Core::A55,
        (Insert, Load | VectorLoad) | (Load | VectorLoad, Insert) => true,
        (Vector, Vector) | (Insert, Insert) | (Load | VectorLoad, Load | VectorLoad) => false,
    }
}

fn class(text: &str) -> Class {
    let name = name(text);
    let is_memory = name.starts_with("ld") || name.starts_with("st");
    let values: Vec<&str> = values(text).collect();
    let is_vector = |register: &str| !register.starts_with(['x', 'w']);
    let loads_vector = values.first().copied().is_some_and(is_vector);
    let bits: u32 = values.iter().copied().map(bits).sum();
    match name {
        _ if name.starts_with("ldr") && bits <= 64 && loads_vector => Class::VectorLoad,
        _ if name.starts_with("ld") && bits <= 64 && !loads_vector => Class::Load,
        _ if is_memory => Class::Alone(bits.div_ceil(64)),
        "prfm" => Class::Load,
        "b" | "cbz" | "cbnz" | "tbz" | "tbnz" => Class::Branch,
        _ if name.starts_with("b.") => Class::Branch,
        _ => {
            let mut registers = registers(operands(text));
            let to_vector = registers.next().is_some_and(is_vector);
            match name {
                "mov" | "fmov" | "ins" if to_vector && registers.next().is_some_and(|r| !is_vector(r)) => {
                    Class::Insert
                }
                _ if to_vector => Class::Vector,
                _ => Class::Scalar,
            }
        }
    }
}

/// The second instruction uses or writes what the first one writes.
fn depends(first: &str, second: &str) -> bool {
    let mut results: Vec<&str> = match name(first) {
        name if name.starts_with("ld") => values(first).collect(),
        name if name.starts_with("st") || ["prfm", "cmp", "cmn", "tst"].contains(&name) => Vec::new(),
        _ => registers(operands(first)).take(1).collect(),
    };
    // An address that is moved on.
    if first.contains("],") || first.ends_with('!') {
        results.extend(first.split('[').nth(1).and_then(|address| registers(address).next()));
    }
    registers(operands(second)).any(|register| results.iter().any(|result| same(result, register)))
}

/// Registers that a load writes or a store reads: those before the address.
fn values(text: &str) -> impl Iterator<Item = &str> {
    registers(operands(text).split('[').next().unwrap_or_default())
}

/// Bits that an instruction loads.
pub fn loaded_bits(text: &str) -> u32 {
    if name(text).starts_with("ld") { values(text).map(bits).sum() } else { 0 }
}

/// The registers among the operands, with their arrangements.
fn registers(operands: &str) -> impl Iterator<Item = &str> {
    let words = operands.split([' ', ',', '{', '}', '[', ']', '!']);
    words.filter(|word| {
        let number = word.split('.').next().unwrap_or_default();
        word.starts_with(['v', 'q', 'd', 's', 'h', 'b', 'x', 'w'])
            && number.len() > 1
            && number[1..].bytes().all(|b| b.is_ascii_digit())
    })
}

/// One register under two names: `v3.16b` and `d3`, `x3` and `w3`.
fn same(a: &str, b: &str) -> bool {
    let general = |register: &str| register.starts_with(['x', 'w']);
    let number = |register: &str| register[1..].split('.').next().map(str::to_owned);
    general(a) == general(b) && number(a) == number(b)
}

/// Bits of a register that a load fills.
fn bits(register: &str) -> u32 {
    match register.as_bytes()[0] {
        b'q' => 128,
        b'v' if register.ends_with("8b") || register.ends_with("4h") || register.ends_with("2s") => 64,
        b'v' => 128,
        b's' | b'w' => 32,
        b'h' => 16,
        b'b' => 8,
        _ => 64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(body: &[&str]) -> [u32; 2] {
        [Core::A53, Core::A55].map(|core| cycles(core, body.iter().copied()))
    }

    #[test]
    fn pairs_follow_the_published_rules() {
        let sdot = "sdot\tv1.4s, v2.16b, v3.4b[0]";
        assert_eq!(both(&[sdot, "ldr\tq4, [x1, #16]", sdot]), [4, 4]);
        assert_eq!(both(&[sdot, "ldp\tq4, q5, [x1]"]), [5, 5]);
        assert_eq!(both(&[sdot, "ldr\td4, [x1]", sdot, "ldr\tx5, [x1, #8]"]), [3, 2]);
        assert_eq!(both(&[sdot, "mov\tv6.d[1], x7", sdot]), [3, 2]);
        assert_eq!(both(&["ldr\td4, [x1]", "mov\tv6.d[1], x7"]), [1, 1]);
        assert_eq!(both(&[sdot, sdot, "ldr\td4, [x1]", "ldr\tx5, [x1]"]), [4, 3]);
        assert_eq!(both(&[sdot, "add\tx1, x1, #0x10", sdot, "b.ne\t40 <tile+0x40>"]), [2, 2]);
    }

    #[test]
    fn the_second_of_a_pair_needs_nothing_of_the_first() {
        assert_eq!(both(&["ldr\td4, [x1]", "mov\tv4.d[1], x7"]), [2, 2]);
        assert_eq!(both(&["add\tx1, x1, #0x10", "ldr\tx5, [x1]"]), [2, 2]);
        assert_eq!(both(&["ldr\tx5, [x1], #8", "add\tx2, x1, x3"]), [2, 2]);
        assert_eq!(both(&["ldr\tx5, [x1, #8]", "add\tx2, x1, x3"]), [1, 1]);
    }

    /// What is known of a peer's loop: ruy's 8x8 has 10.7 MAC/cycle on A55.
    #[test]
    fn a_known_loop_takes_its_known_cycles() {
        let mut body = vec!["ldr\tq0, [x1]"; 4];
        body.extend(["sdot\tv1.4s, v2.16b, v3.4b[0]"; 16]);
        assert_eq!(256.0 / f64::from(cycles(Core::A55, body.into_iter())), 32.0 / 3.0);
    }

    /// Every 128 bits as `ldr d`, `ldr x` and `ins`: the best that an in-order schedule can reach.
    #[test]
    fn loads_hide_behind_multiplies() {
        let sdot = "sdot\tv1.4s, v2.16b, v3.4b[0]";
        let loads = ["ldr\td4, [x1]", "ldr\tx5, [x1, #8]", "mov\tv6.d[1], x7"].repeat(5);
        let counting = ["add\tx8, x8, #0x50", "add\tx9, x9, #0x60", "subs\tx10, x10, #0x1", "b.ne\t.Lloop"];
        let mut dotprod = vec![sdot; 5];
        dotprod.extend(loads.into_iter().chain(counting).flat_map(|other| [sdot, other]));
        assert_eq!(cycles(Core::A55, dotprod.into_iter()), 24);

        let mut neon = vec!["smull\tv1.8h, v2.8b, v3.8b"; 40];
        neon.extend(["smlsl2\tv1.8h, v2.16b, v3.16b", "ldr\tx5, [x1, #8]"].repeat(8));
        neon.extend(["ldr\td4, [x1]", "mov\tv6.d[1], x7"].repeat(8));
        assert_eq!(cycles(Core::A53, neon.into_iter()), 48 + 8);
    }
}
