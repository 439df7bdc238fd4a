//! Second moments of what a layer sees and should put out, so that memory is bounded whatever the number of samples.

use faer::{Accum, Mat, MatRef, Par, linalg::matmul::matmul};
use rayon::prelude::*;

/// Columns of `X'X` that are computed at a time. Fixed, so that sums do not depend on the number of threads.
const BLOCK: usize = 64;

/// Sums over rows `[x, y]`. As long as the rows take less memory than their sums, they are kept as they are.
#[derive(Clone)]
pub(crate) struct Sums {
    inputs: usize,
    outputs: usize,
    kept: Kept,
}

#[derive(Clone)]
enum Kept {
    /// One after the other, the inputs first.
    Rows(Vec<f64>),
    Sums(Products),
}

#[derive(Clone)]
struct Products {
    rows: usize,
    /// `[X Y]' X` by blocks of columns, each from its diagonal down.
    blocks: Vec<Mat<f64>>,
    /// The sum of the squares of each output.
    squares: Vec<f64>,
}

impl Sums {
    pub(crate) fn new(inputs: usize, outputs: usize) -> Sums {
        Sums { inputs, outputs, kept: Kept::Rows(Vec::new()) }
    }
    /// The most bytes that the sums of a layer take.
    pub(crate) fn bytes(inputs: usize, outputs: usize) -> usize {
        (inputs / 2 + outputs).saturating_mul(inputs).saturating_mul(size_of::<f64>())
    }
    /// The sum of the squares of each output.
    pub(crate) fn squares(&self) -> Vec<f64> {
        match &self.kept {
            Kept::Rows(_) => self.few().map_or_else(Vec::new, |[_, y]| squares(y)),
            Kept::Sums(sums) => sums.squares.clone(),
        }
    }
    /// Whether all that was added were finite numbers.
    pub(crate) fn is_finite(&self) -> bool {
        match &self.kept {
            Kept::Rows(rows) => rows.iter().all(|x| x.is_finite()),
            Kept::Sums(sums) => {
                sums.squares.iter().all(|x| x.is_finite())
                    && sums.blocks.iter().all(|block| block.is_all_finite())
            }
        }
    }
    /// How many rows were added.
    pub(crate) fn rows(&self) -> usize {
        match &self.kept {
            Kept::Rows(rows) => rows.len() / self.width(),
            Kept::Sums(sums) => sums.rows,
        }
    }
    /// `X` and `Y`, where there are so few rows that they are kept as they are.
    pub(crate) fn few(&self) -> Option<[MatRef<'_, f64>; 2]> {
        let Kept::Rows(rows) = &self.kept else { return None };
        let rows = MatRef::from_row_major_slice(rows, rows.len() / self.width(), self.width());
        Some([rows.subcols(0, self.inputs), rows.subcols(self.inputs, self.outputs)])
    }
    fn width(&self) -> usize {
        (self.inputs + self.outputs).max(1)
    }
    /// Adds rows, one after the other, the inputs first.
    pub(crate) fn add(&mut self, rows: &[f64]) {
        let (inputs, width) = (self.inputs, self.width());
        match &mut self.kept {
            Kept::Sums(sums) => sums.add(rows, inputs, width),
            Kept::Rows(all) => {
                all.extend(rows);
                if 2 * (all.len() / width) > inputs {
                    let mut sums = Products::new(inputs, width);
                    sums.add(all, inputs, width);
                    self.kept = Kept::Sums(sums);
                }
            }
        }
    }
    /// These rows and others.
    pub(crate) fn plus(mut self, other: &Sums) -> Sums {
        let (inputs, width) = (self.inputs, self.width());
        match (&mut self.kept, &other.kept) {
            (_, Kept::Rows(rows)) => self.add(rows),
            (Kept::Sums(sums), Kept::Sums(others)) => {
                sums.blocks.iter_mut().zip(&others.blocks).for_each(|(a, b)| *a += b);
                sums.rows += others.rows;
                sums.squares.iter_mut().zip(&others.squares).for_each(|(a, b)| *a += b);
            }
            (Kept::Rows(rows), Kept::Sums(others)) => {
                let mut sums = others.clone();
                sums.add(rows, inputs, width);
                self.kept = Kept::Sums(sums);
            }
        }
        self
    }
    /// `X'X`, of the inputs.
    pub(crate) fn gram(&self) -> Mat<f64> {
        match &self.kept {
            Kept::Rows(_) => self.few().map_or_else(Mat::new, |[x, _]| x.transpose() * x),
            Kept::Sums(sums) => sums.gram(self.inputs),
        }
    }
    /// `X'Y`, a column for each output.
    pub(crate) fn cross(&self) -> Mat<f64> {
        match &self.kept {
            Kept::Rows(_) => self.few().map_or_else(Mat::new, |[x, y]| x.transpose() * y),
            Kept::Sums(sums) => sums.cross(self.inputs, self.outputs),
        }
    }
}

impl Products {
    fn new(inputs: usize, width: usize) -> Products {
        let block = |start: usize| Mat::zeros(width - start, BLOCK.min(inputs - start));
        Products {
            rows: 0,
            blocks: (0..inputs).step_by(BLOCK).map(block).collect(),
            squares: vec![0.0; width - inputs],
        }
    }
    fn add(&mut self, rows: &[f64], inputs: usize, width: usize) {
        let rows = MatRef::from_row_major_slice(rows, rows.len() / width, width);
        self.blocks.par_iter_mut().enumerate().for_each(|(k, block)| {
            let start = k * BLOCK;
            let below = rows.subcols(start, width - start);
            let columns = rows.subcols(start, block.ncols());
            matmul(block, Accum::Add, below.transpose(), columns, 1.0, Par::Seq);
        });
        self.rows += rows.nrows();
        let more = squares(rows.subcols(inputs, width - inputs));
        self.squares.iter_mut().zip(more).for_each(|(a, b)| *a += b);
    }
    fn gram(&self, inputs: usize) -> Mat<f64> {
        let mut gram = Mat::zeros(inputs, inputs);
        for (k, block) in self.blocks.iter().enumerate() {
            let (start, columns) = (k * BLOCK, block.ncols());
            let part = block.subrows(0, inputs - start);
            gram.submatrix_mut(start, start, inputs - start, columns).copy_from(part);
            let below = part.subrows(columns, inputs - start - columns);
            gram.submatrix_mut(start, start + columns, columns, below.nrows()).copy_from(below.transpose());
        }
        gram
    }
    fn cross(&self, inputs: usize, outputs: usize) -> Mat<f64> {
        let mut cross = Mat::zeros(inputs, outputs);
        for (k, block) in self.blocks.iter().enumerate() {
            let part = block.subrows(inputs - k * BLOCK, outputs);
            cross.subrows_mut(k * BLOCK, block.ncols()).copy_from(part.transpose());
        }
        cross
    }
}

/// The sum of the squares of each column.
fn squares(m: MatRef<'_, f64>) -> Vec<f64> {
    m.col_iter().map(|column| column.squared_norm_l2()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_over_several_blocks_are_the_products() {
        let (n, rows) = (BLOCK + 7, 5);
        let data: Vec<f64> = (0..rows * (n + 2)).map(|k| (k as f64 * 0.37).sin()).collect();
        let mut sums = Sums::new(n, 2);
        sums.kept = Kept::Sums(Products::new(n, n + 2));
        data.chunks(2 * (n + 2)).for_each(|part| sums.add(part));
        let all = MatRef::from_row_major_slice(&data, rows, n + 2);
        let (x, y) = (all.subcols(0, n), all.subcols(n, 2));
        assert!((sums.gram() - x.transpose() * x).norm_max() < 1e-12);
        assert!((sums.cross() - x.transpose() * y).norm_max() < 1e-12);
        assert_eq!(sums.rows(), rows);
    }
    #[test]
    fn few_rows_are_kept_and_mean_the_same() {
        let (n, outputs) = (40, 3);
        let data: Vec<f64> = (0..30 * (n + outputs)).map(|k| (k as f64 * 0.53).cos()).collect();
        let rows =
            |range: std::ops::Range<usize>| &data[range.start * (n + outputs)..range.end * (n + outputs)];
        let of = |range| {
            let mut sums = Sums::new(n, outputs);
            sums.add(rows(range));
            sums
        };
        let same = |a: &Sums, b: &Sums| {
            assert!((a.gram() - b.gram()).norm_max() < 1e-12 && (a.cross() - b.cross()).norm_max() < 1e-12);
            let same = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-12 * b;
            assert!(a.squares().iter().zip(&b.squares()).all(same));
            assert_eq!(a.rows(), b.rows());
        };
        let mut many = Sums { kept: Kept::Sums(Products::new(n, n + outputs)), ..Sums::new(n, outputs) };
        many.add(rows(0..20));
        let few = of(0..20);
        assert!(few.few().is_some());
        same(&few, &many);
        // Any two together, in any form, are all rows.
        for (a, b) in [(0..10, 10..30), (0..25, 25..30), (0..5, 5..30), (0..7, 7..30)] {
            let both = of(a).plus(&of(b));
            assert!(both.few().is_none());
            same(&both, &of(0..30));
        }
        assert!(of(0..4).plus(&of(4..9)).few().is_some());
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
