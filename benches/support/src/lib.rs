//! What the paired measurements share: a clock and the median, and what they measure against.

pub mod instruction;
pub mod layers;
pub mod measurement;

use std::time::Duration;

/// Time that this thread has run: being put aside for another program does not count.
#[cfg(unix)]
pub fn now() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills the structure it is given.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Time since the first call.
#[cfg(not(unix))]
pub fn now() -> Duration {
    static START: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
    START.elapsed()
}

/// The middle one; sorts the values.
pub fn median(values: &mut [f64]) -> f64 {
    quartiles(values)[1]
}

/// The lower quartile, the median and the upper quartile; sorts the values.
pub fn quartiles(values: &mut [f64]) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|i| values[i * values.len() / 4])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_are_values() {
        assert_eq!(quartiles(&mut [3.0]), [3.0; 3]);
        assert_eq!(quartiles(&mut [4.0, 1.0, 3.0, 5.0, 2.0]), [2.0, 3.0, 4.0]);
        assert_eq!(median(&mut [9.0, 1.0, 5.0]), 5.0);
        assert_eq!(measurement::spread(2.0, [1.9, 2.2]), (2.2 - 1.9) / 2.0);
    }
}
