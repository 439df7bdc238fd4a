//! Second moments of what a layer sees and should put out, so that memory is bounded whatever the number of samples.

use faer::{Accum, Mat, MatRef, Par, linalg::matmul::matmul};
use rayon::prelude::*;

/// Columns of `X'X` that are computed at a time. Fixed, so that sums do not depend on the number of threads.
const BLOCK: usize = 64;

/// Sums over rows `[x, y]`.
#[derive(Clone)]
pub(crate) struct Sums {
    inputs: usize,
    outputs: usize,
    rows: usize,
    /// `[X Y]' X` by blocks of columns, each from its diagonal down.
    blocks: Vec<Mat<f64>>,
    /// The sum of all `y^2`.
    squares: f64,
}

impl Sums {
    pub(crate) fn new(inputs: usize, outputs: usize) -> Sums {
        let block = |start: usize| Mat::zeros(inputs + outputs - start, BLOCK.min(inputs - start));
        let blocks = (0..inputs).step_by(BLOCK).map(block).collect();
        Sums { inputs, outputs, rows: 0, blocks, squares: 0.0 }
    }
    /// The bytes that the sums of a layer take.
    pub(crate) fn bytes(inputs: usize, outputs: usize) -> usize {
        (inputs / 2 + outputs).saturating_mul(inputs).saturating_mul(size_of::<f64>())
    }
    /// The sum of squares of all outputs.
    pub(crate) fn squares(&self) -> f64 {
        self.squares
    }
    /// Whether all that was added were finite numbers.
    pub(crate) fn is_finite(&self) -> bool {
        self.squares.is_finite() && self.blocks.iter().all(|block| block.is_all_finite())
    }
    /// How many rows were added.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }
    /// Adds rows, one after the other, the inputs first.
    pub(crate) fn add(&mut self, rows: &[f64]) {
        let width = self.inputs + self.outputs;
        let rows = MatRef::from_row_major_slice(rows, rows.len() / width, width);
        self.blocks.par_iter_mut().enumerate().for_each(|(k, block)| {
            let start = k * BLOCK;
            let below = rows.subcols(start, width - start);
            let columns = rows.subcols(start, block.ncols());
            matmul(block, Accum::Add, below.transpose(), columns, 1.0, Par::Seq);
        });
        self.rows += rows.nrows();
        self.squares += rows.subcols(self.inputs, self.outputs).squared_norm_l2();
    }
    /// These rows and others.
    pub(crate) fn plus(mut self, other: &Sums) -> Sums {
        self.blocks.iter_mut().zip(&other.blocks).for_each(|(a, b)| *a += b);
        self.rows += other.rows;
        self.squares += other.squares;
        self
    }
    /// `X'X`, of the inputs.
    pub(crate) fn gram(&self) -> Mat<f64> {
        let at = |row: usize, column: usize| {
            self.blocks[column / BLOCK][(row - column / BLOCK * BLOCK, column % BLOCK)]
        };
        Mat::from_fn(self.inputs, self.inputs, |i, j| at(i.max(j), i.min(j)))
    }
    /// `X'Y`, a column for each output.
    pub(crate) fn cross(&self) -> Mat<f64> {
        let start = |column: usize| column / BLOCK * BLOCK;
        let at = |i: usize, k: usize| self.blocks[i / BLOCK][(self.inputs + k - start(i), i % BLOCK)];
        Mat::from_fn(self.inputs, self.outputs, at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_over_several_blocks_are_the_products() {
        let (n, rows) = (BLOCK + 7, 5);
        let data: Vec<f64> = (0..rows * (n + 2)).map(|k| (k as f64 * 0.37).sin()).collect();
        let mut sums = Sums::new(n, 2);
        data.chunks(2 * (n + 2)).for_each(|part| sums.add(part));
        let all = MatRef::from_row_major_slice(&data, rows, n + 2);
        let (x, y) = (all.subcols(0, n), all.subcols(n, 2));
        assert!((sums.gram() - x.transpose() * x).norm_max() < 1e-12);
        assert!((sums.cross() - x.transpose() * y).norm_max() < 1e-12);
        assert_eq!(sums.rows(), rows);
    }
    #[test]
    fn one_nan_is_noticed_wherever_it_is() {
        for at in 0..3 {
            let mut sums = Sums::new(2, 1);
            sums.add(&[1.0, 2.0, 3.0]);
            assert!(sums.is_finite());
            let mut row = [1.0, 2.0, 3.0];
            row[at] = f64::NAN;
            sums.add(&row);
            assert!(!sums.is_finite(), "{at}");
        }
    }
}
