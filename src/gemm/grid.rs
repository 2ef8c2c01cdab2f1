//! How a product is cut into parts for threads.
//!
//! Cores differ (a phone has large and small ones), and none is ever alone: so there are several parts for each thread, and whoever is
//! done takes from those who are not (see [`crate::parallel`]). Parts are numbered along a strip of rows before the next strip begins,
//! and a thread takes neighbours, several at a time: it prepares rows of `lhs` once, or seldom.

use core::ops::Range;

use crate::{
    kernels::Kernel,
    parallel::{Team, cut, most_parts},
};

/// Parts for each worker, at least, before a group of panels is cut: tiles of fewer panels load more for each multiply-add.
const ENOUGH: usize = 4;

/// M, K, N.
pub(super) type Shape = (usize, usize, usize);

/// Strips of rows by strips of columns, whose crossings are the parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grid {
    /// Strips of rows.
    rows: usize,
    /// Strips of columns.
    cols: usize,
    m: usize,
    n: usize,
    /// Rows that a strip of them is a multiple of.
    mr: usize,
    /// Columns that a strip of them is a multiple of.
    nr: usize,
    workers: usize,
}

impl Grid {
    pub fn new(kernel: &Kernel, shape @ (m, _, n): Shape, team: Team) -> Self {
        let whole = Self { rows: 1, cols: 1, m, n, mr: kernel.mr, nr: kernel.nr, workers: 1 };
        if team.threads <= 1 {
            return whole;
        }
        let cycles = cycles(kernel, shape);
        let workers = team.worthwhile(cycles);
        if workers <= 1 {
            return whole;
        }
        let (most, units, panels) =
            (most_parts(cycles, workers), m.div_ceil(kernel.mr), n.div_ceil(kernel.nr));
        let most_rows = equal(units, most_rows(kernel, m));
        let enough = most.min(workers.saturating_mul(ENOUGH));
        let mut width = kernel.group_cols / kernel.nr;
        while width > 1 && most_rows * panels.div_ceil(width) < enough {
            width /= 2;
        }
        let wide = panels.div_ceil(width).min(most);
        // Rows that are in no strip of their own are prepared by every thread, which is little beside many columns; weights that are in
        // none are read by every thread.
        let rows = if n > 2 * m && wide >= 2 * enough { 1 } else { most.div_ceil(wide).clamp(1, most_rows) };
        let (rows, cols) = (equal(units, rows), equal(panels, wide));
        let grid = Self { rows, cols, workers, ..whole };
        Self { workers: workers.min(grid.parts()), ..grid }
    }

    /// No grid of at most as many rows and threads has more workers.
    pub fn most_workers(kernel: &Kernel, shape @ (m, _, n): Shape, team: Team) -> usize {
        team.worthwhile(cycles(kernel, shape)).min(Self::most_crossings(kernel, m, n))
    }

    /// Parts that so many rows and columns can be cut in.
    pub fn most_crossings(kernel: &Kernel, m: usize, n: usize) -> usize {
        most_rows(kernel, m).saturating_mul(n.div_ceil(kernel.nr).max(1))
    }

    /// Threads that there is work for.
    pub fn workers(&self) -> usize {
        self.workers
    }

    pub fn parts(&self) -> usize {
        self.rows * self.cols
    }

    /// Calls `each` with the rows and columns of a run of parts, in as few pieces as can be; columns start at a panel.
    #[inline(always)]
    pub fn pieces(&self, run: Range<usize>, mut each: impl FnMut(Range<usize>, Range<usize>)) {
        // Calls of a single thread have no time for divisions.
        if run.len() == self.parts() {
            return each(0..self.m, 0..self.n);
        }
        let mut first = run.start;
        while first < run.end {
            let (row, col) = (first / self.cols, first % self.cols);
            let left = run.end - first;
            // What is left of a strip of rows, or several whole ones.
            let (rows, cols) = match col {
                0 if left >= self.cols => (left / self.cols, self.cols),
                _ => (1, left.min(self.cols - col)),
            };
            each(
                strips(self.m, self.mr, self.rows, row..row + rows),
                strips(self.n, self.nr, self.cols, col..col + cols),
            );
            first += rows * cols;
        }
    }
}

/// Some of so many strips of `0..len`, of whole units.
fn strips(len: usize, unit: usize, count: usize, strips: Range<usize>) -> Range<usize> {
    let at = |strip| cut(len.div_ceil(unit), count, strip).start * unit;
    at(strips.start)..at(strips.end).min(len)
}

/// At most so many strips of whole units, of which none is much smaller than the others.
fn equal(units: usize, strips: usize) -> usize {
    units.div_ceil(units.div_ceil(strips))
}

/// Strips of rows, at most: tiles of fewer rows than there could be cost more than they bring.
fn most_rows(kernel: &Kernel, m: usize) -> usize {
    (m / (2 * kernel.mr)).max(1)
}

/// Bytes of weights that a core reads in a cycle, about, from where they are when a product is run again.
const WEIGHTS_PER_CYCLE: usize = 32;

/// Cycles of one core, about: as long as it multiplies, or reads the weights if there are few rows.
pub(super) fn cycles(kernel: &Kernel, (m, k, n): Shape) -> usize {
    let weights = k.saturating_mul(n);
    // Without rows there is nothing to do.
    if m == 0 {
        0
    } else {
        (m.saturating_mul(weights) / kernel.macs_per_cycle).max(weights / WEIGHTS_PER_CYCLE)
    }
}

#[cfg(test)]
mod tests {
    use super::{Grid, Shape, cycles, equal, most_parts, most_rows};
    use crate::{
        Kernel, Sequential,
        parallel::{Shares, Team},
    };
    use quickcheck::quickcheck;

    /// Shapes of the benchmarks that are worth more than a thread.
    const SHAPES: [Shape; 22] = [
        (1, 768, 768),
        (1, 1024, 1024),
        (1, 4096, 4096),
        (1, 4096, 11008),
        (2, 1024, 1024),
        (6, 1024, 1024),
        (8, 1024, 1024),
        (12, 1024, 1024),
        (32, 1024, 1024),
        (49, 960, 160),
        (196, 512, 512),
        (128, 768, 768),
        (128, 768, 3072),
        (512, 512, 512),
        (512, 512, 16),
        (1024, 1024, 1024),
        (3136, 64, 64),
        (3136, 64, 256),
        (784, 1152, 128),
        (12544, 27, 32),
        (37, 213, 1001),
        (511, 509, 503),
    ];

    /// Threads that are woken for little: the more are.
    fn team(threads: usize) -> Team {
        Team { threads, min_cycles: 1 << 11 }
    }

    /// Those, and threads that are woken for as much as executors have it that say nothing.
    fn teams(threads: usize) -> [Team; 2] {
        [team(threads), Team { threads, ..Team::of(&Sequential) }]
    }

    /// Hands out the parts of a grid to cores of those speeds, by a clock for each: whoever is free first takes the next. The time of
    /// the last, and the most multiply-adds (for each row of K) of one.
    fn simulate(grid: &Grid, speeds: &[f64]) -> (f64, usize) {
        let shares = Shares::new(grid.workers(), grid.parts());
        let (mut clocks, mut work) = (vec![0.0; grid.workers()], vec![0; grid.workers()]);
        let mut given = 0;
        loop {
            let first = (0..clocks.len()).min_by(|&a, &b| f64::total_cmp(&clocks[a], &clocks[b])).unwrap();
            let Some(run) = shares.take(shares.home(first)) else { break };
            given += run.len();
            let mut macs = 0;
            grid.pieces(run, |rows, cols| macs += rows.len() * cols.len());
            work[first] += macs;
            clocks[first] += macs as f64 / speeds[first % speeds.len()];
        }
        assert_eq!(given, grid.parts());
        (clocks.into_iter().fold(0.0, f64::max), work.into_iter().max().unwrap())
    }

    /// Grids of every kernel, shape and number of threads, of more than one worker, and whether there are groups of panels enough for each.
    fn grids(
        threads: impl Iterator<Item = usize> + Clone,
    ) -> impl Iterator<Item = (String, Grid, usize, bool)> {
        Kernel::all().flat_map(move |kernel| {
            let threads = threads.clone();
            SHAPES.into_iter().flat_map(move |shape @ (m, _, n)| {
                threads.clone().flat_map(teams).filter_map(move |team| {
                    let name = format!("{}: {shape:?} on {team:?}", kernel.name());
                    let wanted = team.worthwhile(cycles(kernel.0, shape));
                    let strips = equal(m.div_ceil(kernel.0.mr), most_rows(kernel.0, m));
                    let groups = strips * n.div_ceil(kernel.0.group_cols);
                    let enough = groups.min(most_parts(cycles(kernel.0, shape), wanted)) >= 8 * wanted;
                    (wanted > 1).then(|| (name, Grid::new(kernel.0, shape, team), wanted, enough))
                })
            })
        })
    }

    #[test]
    fn equal_cores_get_equal_shares() {
        let (mut all, mut enough_of_all) = (0, 0);
        for (name, grid, wanted, enough) in grids(2..=64) {
            let (_, most) = simulate(&grid, &[1.0]);
            let ratio = (most * wanted) as f64 / (grid.m * grid.n) as f64;
            assert!(!enough || ratio <= 1.15, "{name}: {grid:?}: {ratio:.2} of an equal share");
            (all, enough_of_all) = (all + 1, enough_of_all + usize::from(enough));
        }
        assert!(4 * enough_of_all > all, "{enough_of_all} of {all}");
    }

    /// Every second core has a quarter of the speed: if all had the same share, they would take 2.5 times as long as they could.
    #[test]
    fn slow_cores_are_helped() {
        for (name, grid, wanted, enough) in grids([2, 4, 8, 16, 64].into_iter()) {
            let speeds = [1.0, 0.25];
            let (time, _) = simulate(&grid, &speeds);
            let all: f64 = (0..wanted).map(|worker| speeds[worker % 2]).sum();
            let ratio = time * all / (grid.m * grid.n) as f64;
            assert!(!enough || ratio <= 1.3, "{name}: {grid:?}: {ratio:.2} of the time it could take");
        }
    }

    /// More rows may make fewer, larger strips; a workspace for them has room for the workers of fewer rows all the same.
    #[test]
    fn fewer_rows_have_no_more_workers() {
        for kernel in Kernel::all() {
            for (k, n) in [(512, 64), (4096, 40), (4096, 2000)] {
                let mut most_of_fewer = 0;
                for m in 1..400 {
                    most_of_fewer = most_of_fewer.max(Grid::new(kernel.0, (m, k, n), team(64)).workers());
                    let most = Grid::most_workers(kernel.0, (m, k, n), team(64));
                    assert!(
                        most_of_fewer <= most,
                        "{}: {m} x {k} x {n}: {most_of_fewer} workers",
                        kernel.name()
                    );
                }
            }
        }
    }

    quickcheck! {
        fn parts_cover_every_output_once(m: u8, n: u16, threads: u8) -> bool {
            let (m, n, threads) = (m as usize, n as usize % 300, threads as usize % 17);
            Kernel::all().all(|kernel| {
                let grid = Grid::new(kernel.0, (m, 4096, n), team(threads));
                let shares = Shares::new(grid.workers(), grid.parts());
                let mut seen = vec![0u8; m * n];
                let mut home = 0;
                while let Some(run) = shares.take(shares.home(home)) {
                    grid.pieces(run, |rows, cols| {
                        assert_eq!(cols.start % kernel.0.nr, 0);
                        assert!(!rows.is_empty() && !cols.is_empty() || m * n == 0);
                        for i in rows {
                            for j in cols.clone() {
                                seen[i * n + j] += 1;
                            }
                        }
                    });
                    home += 1;
                }
                grid.workers() <= threads.max(1) && seen.iter().all(|&count| count == 1)
            })
        }

        fn no_smaller_product_has_more_workers(m: u16, k: u16, n: u16, threads: u16, fewer: (u16, u16)) -> bool {
            let [m, k, n, threads] = [m, k, n, threads].map(usize::from);
            let (rows, fewer) = (m.min(fewer.0.into()), threads.min(fewer.1.into()));
            Kernel::all().all(|kernel| {
                let most = Grid::most_workers(kernel.0, (m, k, n), team(threads));
                most <= threads.max(1)
                    && [(m, threads), (rows, threads), (m, fewer), (rows, fewer)]
                        .into_iter()
                        .all(|(m, threads)| Grid::new(kernel.0, (m, k, n), team(threads)).workers() <= most)
            })
        }
    }
}
