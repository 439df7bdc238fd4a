//! The directions of a layer's outputs that hold most of them.
//!
//! The nearest weights of rank `r` to `W`, measured by `tr E'GE`, are `W Z Z'` with `Z` the first `r` eigenvectors of
//! `W'GW`, and what they lose is the sum of the other eigenvalues (Eckart, Young and Mirsky). With `G` the identity
//! that is the truncated singular value decomposition. `G` need not be regular.
//!
//! Of large matrices, where few directions are wanted, only a space is decomposed that all but contains them (Halko,
//! Martinsson and Tropp 2011): an orthonormal basis of the image of a random matrix, twice as wide as what is wanted,
//! under powers of the matrix. Once another multiplication hardly lowers what is lost, it will do; where that takes too
//! many of them, the whole matrix is decomposed after all. Where a matrix like it was decomposed before, the directions of
//! that one are the space to start from.

use super::metric::Metric;
use faer::{Mat, Side};
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};

/// From this many rows on a matrix is large.
const LARGE: usize = 512;
/// A random space is the faster way up to this share of the directions.
const WORTH: f64 = 0.125;
/// And the space of what is known of a matrix like it up to this one.
const WORTH_KNOWN: f64 = 0.5;
/// Columns beyond those of what is known, or beyond twice the wanted ones.
const OVERSAMPLING: usize = 16;
/// Most multiplications by the matrix: more take longer than to decompose it whole.
const MULTIPLICATIONS: usize = 5;
/// The space will do where a multiplication lowered what is lost by a smaller share than this,
const SETTLED: f64 = 1e-3;
/// or by a smaller share of the whole.
const NOTHING: f64 = 1e-10;
/// Eigenvalues below this share of the first one are noise of rounding.
const NOISE: f64 = 1e-13;
pub(super) const NO_NUMBERS: &str = "its weights or what it sees are no finite numbers";

/// Eigenvalues, the largest first, and their vectors, a column each.
type Pairs = (Vec<f64>, Mat<f64>);

/// The eigenvalues of a positive semidefinite matrix.
#[derive(Clone)]
pub(super) struct Values {
    /// The leading ones, the largest first.
    leading: Vec<f64>,
    /// The sum of all of them.
    total: f64,
}

/// Leading eigenvalues and vectors of a positive semidefinite matrix.
pub(super) struct Spectrum {
    pub(super) values: Values,
    /// A column each.
    vectors: Mat<f64>,
}

impl Values {
    /// Of `M'GM`.
    pub(super) fn of(m: &Mat<f64>, metric: &Metric) -> Result<Values, String> {
        let square = match m.ncols() <= m.nrows() {
            true => m.transpose() * metric.times(m),
            false => rows(&metric.whitened(m).ok_or(NO_NUMBERS)?),
        };
        let found = square.is_all_finite().then(|| square.self_adjoint_eigenvalues(Side::Lower).ok());
        let rising = found.flatten().ok_or(NO_NUMBERS)?;
        Ok(Values::new(rising.into_iter().rev().collect(), &square))
    }
    fn new(mut leading: Vec<f64>, of: &Mat<f64>) -> Values {
        let first = leading.first().copied().unwrap_or(0.0);
        leading.truncate(leading.partition_point(|v| *v > NOISE * first));
        Values { leading, total: (0..of.nrows()).map(|k| of[(k, k)]).sum() }
    }
    /// These ranks as far as they tell anything: no more directions are there than hold something.
    pub(super) fn ranks(&self, wanted: &[usize]) -> impl Iterator<Item = usize> {
        wanted.iter().map(|rank| (*rank).min(self.leading.len()))
    }
    /// What is lost with so many directions.
    pub(super) fn lost(&self, rank: usize) -> f64 {
        (self.total - self.leading.iter().take(rank).sum::<f64>()).max(0.0)
    }
}

impl Spectrum {
    /// Of `M'GM`, up to `most` eigenvalues.
    pub(super) fn of(m: &Mat<f64>, metric: &Metric, most: usize, seed: u64) -> Result<Spectrum, String> {
        Spectrum::near(None, m, metric, most, seed)
    }
    /// The same, with that of a matrix like it to start from.
    pub(super) fn near(
        known: Option<&Spectrum>,
        m: &Mat<f64>,
        metric: &Metric,
        most: usize,
        seed: u64,
    ) -> Result<Spectrum, String> {
        let known = known.map(|known| known.vectors.as_ref());
        if m.ncols() <= m.nrows() {
            return Spectrum::leading(
                &(m.transpose() * metric.times(m)),
                most,
                seed,
                known.map(|v| v.to_owned()),
            );
        }
        // Fewer eigenvalues than columns are not 0: those of `SMM'S'`, with the vectors turned to the columns' side.
        let tall = metric.whitened(m).ok_or(NO_NUMBERS)?;
        let mut spectrum = Spectrum::leading(&rows(&tall), most, seed, known.map(|v| &tall * v))?;
        spectrum.vectors = tall.transpose() * spectrum.vectors;
        for (k, value) in spectrum.values.leading.iter().enumerate() {
            spectrum.vectors.col_mut(k).iter_mut().for_each(|x| *x /= value.sqrt());
        }
        Ok(spectrum)
    }
    fn leading(m: &Mat<f64>, most: usize, seed: u64, known: Option<Mat<f64>>) -> Result<Spectrum, String> {
        let share = if m.nrows() >= LARGE { most as f64 / m.nrows() as f64 } else { 1.0 };
        let space = match known.filter(|v| v.ncols() >= most && share <= WORTH_KNOWN) {
            Some(known) => Some(known.subcols(0, known.ncols().min(most + OVERSAMPLING)).to_owned()),
            None => (share <= WORTH).then(|| random(m.nrows(), 2 * most + OVERSAMPLING, seed)),
        };
        let settled = space.map(|space| settled(m, space, most)).transpose()?.flatten();
        let (mut values, mut vectors) = settled.map_or_else(|| whole(m), Ok)?;
        values.truncate(most);
        let values = Values::new(values, m);
        vectors.truncate(m.nrows(), values.leading.len());
        Ok(Spectrum { values, vectors })
    }
    /// Forgets all directions but the first; says how many bytes those take.
    pub(super) fn truncate(&mut self, rank: usize) -> usize {
        self.vectors = self.first(rank);
        self.vectors.nrows() * self.vectors.ncols() * size_of::<f64>()
    }
    /// The first directions.
    pub(super) fn first(&self, rank: usize) -> Mat<f64> {
        self.vectors.subcols(0, rank.min(self.vectors.ncols())).to_owned()
    }
}

/// `M M'`
fn rows(m: &Mat<f64>) -> Mat<f64> {
    m * m.transpose()
}

/// All eigenvalues and vectors, the largest first.
fn whole(m: &Mat<f64>) -> Result<Pairs, String> {
    let found =
        m.is_all_finite().then(|| m.self_adjoint_eigen(Side::Lower).ok()).flatten().ok_or(NO_NUMBERS)?;
    let (values, n) = (found.S().column_vector(), m.nrows());
    Ok(((0..n).rev().map(|k| values[k]).collect(), found.U().reverse_cols().to_owned()))
}

/// Divides each column of `a` by a number that makes it as long as that of `b` times it, as few bits need it.
pub(super) fn balance(a: &mut Mat<f64>, b: &mut Mat<f64>) {
    for k in 0..a.ncols() {
        let (size, other) = (a.col(k).norm_l2(), b.col(k).norm_l2());
        if size > 0.0 && other > 0.0 {
            let root = (size / other).sqrt();
            a.col_mut(k).iter_mut().for_each(|x| *x /= root);
            b.col_mut(k).iter_mut().for_each(|x| *x *= root);
        }
    }
}

/// Columns that span as good as anything. Uniform numbers of mean 0 do as well as normal ones.
fn random(rows: usize, columns: usize, seed: u64) -> Mat<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    Mat::from_fn(rows, columns, |_, _| rng.random::<f64>() - 0.5)
}

/// Nearly the first `most` eigenvalues and vectors of a positive semidefinite matrix, the largest first, and more that
/// are worth less, found from the space that some columns span; `None` where it does not settle.
fn settled(m: &Mat<f64>, start: Mat<f64>, most: usize) -> Result<Option<Pairs>, String> {
    if !m.is_all_finite() {
        return Err(NO_NUMBERS.into());
    }
    let mut space = start.qr().compute_thin_Q();
    let total = m.diagonal().column_vector().sum();
    let mut lost = total;
    for _ in 0..MULTIPLICATIONS {
        let image = m * &space;
        let (values, inside) = whole(&(space.transpose() * &image))?;
        let now = total - values.iter().take(most).sum::<f64>();
        if lost - now <= SETTLED * now + NOTHING * total {
            return Ok(Some((values, space * inside)));
        }
        lost = now;
        space = image.qr().compute_thin_Q();
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(m: &Mat<f64>, spectrum: &Spectrum, rank: usize) -> f64 {
        let z = spectrum.first(rank);
        (m - m * &z * z.transpose()).squared_norm_l2()
    }

    #[test]
    fn what_is_of_low_rank_is_recovered() {
        for (rows, columns) in [(40, 60), (60, 40), (1, 9), (9, 1), (640, 530)] {
            let rank = rows.min(columns).min(5);
            let m = random(rows, rank, 1) * random(rank, columns, 2);
            let spectrum = Spectrum::of(&m, &Metric::plain(), rank, 3).unwrap();
            assert!(error(&m, &spectrum, rank) < 1e-18 * m.squared_norm_l2(), "{rows} x {columns}");
            assert!(spectrum.values.lost(rank) < 1e-10 * spectrum.values.total);
        }
    }
    #[test]
    fn a_random_space_is_as_good_as_the_whole() {
        // Singular values that fall slowly, as those of trained layers do.
        let (rows, columns, rank) = (600, 560, 60);
        let mut m = random(rows, columns, 4);
        for j in 0..columns {
            let scale = 1.0 / (1.0 + j as f64 / 30.0);
            m.col_mut(j).iter_mut().for_each(|x| *x *= scale);
        }
        let sketched = Spectrum::of(&m, &Metric::plain(), rank, 5).unwrap();
        let full = Spectrum::of(&m, &Metric::plain(), columns, 5).unwrap();
        let (found, best) = (error(&m, &sketched, rank), error(&m, &full, rank));
        assert!(
            (best - full.values.lost(rank)).abs() < 1e-9 * full.values.total,
            "the loss is the squared error"
        );
        assert!((found - sketched.values.lost(rank)).abs() < 1e-9 * full.values.total);
        let alone = Values::of(&m, &Metric::plain()).unwrap();
        assert!((alone.lost(rank) - full.values.lost(rank)).abs() < 1e-9 * alone.total);
        assert!(found < 1.005 * best, "{found} against {best}");
        let again = Spectrum::of(&m, &Metric::plain(), rank, 5).unwrap();
        assert!(again.vectors == sketched.vectors, "seeded, so the same each time");
    }
    #[test]
    fn the_directions_of_a_matrix_like_it_lead_to_its_own() {
        for (rows, columns) in [(600, 520), (520, 600)] {
            let m =
                random(rows, columns, 8)
                    * Mat::from_fn(columns, columns, |i, j| {
                        if i == j { 1.0 / (1.0 + i as f64 / 30.0) } else { 0.0 }
                    });
            let known = Spectrum::of(&m, &Metric::plain(), usize::MAX, 0).unwrap();
            let like = &m + random(rows, columns, 9) * faer::Scale(0.01);
            let (rank, best) = (200, Values::of(&like, &Metric::plain()).unwrap());
            let found = Spectrum::near(Some(&known), &like, &Metric::plain(), rank, 0).unwrap();
            let (found, best) = (error(&like, &found, rank), best.lost(rank));
            assert!(found < 1.002 * best, "{found} against {best}");
            assert!(error(&like, &known, rank) > 1.0001 * best, "what is known alone is not as good");
        }
    }
    #[test]
    fn what_a_random_space_does_not_find_is_decomposed_whole() {
        // No direction holds more than another: no space settles on the first ones.
        let m = random(520, 520, 6).qr().compute_thin_Q();
        let shaky = Mat::from_fn(520, 520, |i, j| m[(i, j)] * (1.0 + j as f64 / 520.0));
        let square = shaky.transpose() * &shaky;
        assert!(settled(&square, random(520, 136, 7), 60).unwrap().is_none());
        let found = Spectrum::of(&shaky, &Metric::plain(), 60, 7).unwrap();
        let values = Values::of(&shaky, &Metric::plain()).unwrap();
        assert!((found.values.lost(60) - values.lost(60)).abs() < 1e-9 * values.total);
    }
    #[test]
    fn what_is_no_number_is_said() {
        let m = Mat::from_fn(2, 2, |i, j| if i + j == 2 { f64::NAN } else { 1.0 });
        assert!(Spectrum::of(&m, &Metric::plain(), 2, 0).is_err());
    }
}
