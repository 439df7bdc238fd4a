//! How ranges of activations follow from their elements.

use super::Observer;
use std::fmt::{self, Display, Formatter};

/// The share of elements that `percentile` leaves out on each side, unless another is given.
const OUTERMOST: f64 = 1e-5;

/// How a span follows from the elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rule {
    pub(super) observer: Observer,
    /// The share of elements that `percentile` leaves out on each side.
    pub(super) outermost: f64,
}

impl Rule {
    /// Those of which the outputs choose where none is given, what is taken unless another is clearly better first. With few
    /// samples or many, of even or of scattered elements, each is the best on some models.
    pub(super) const USUAL: [Rule; 4] = [
        Rule { observer: Observer::Percentile, outermost: OUTERMOST },
        Rule { observer: Observer::Percentile, outermost: 10.0 * OUTERMOST },
        Rule { observer: Observer::MinMax, outermost: OUTERMOST },
        Rule { observer: Observer::Mse, outermost: OUTERMOST },
    ];

    /// Whether the ends of a value tell all that it asks for.
    pub(super) fn needs_ends_alone(self) -> bool {
        match self.observer {
            Observer::MinMax | Observer::Average => true,
            Observer::Percentile => self.outermost <= 0.0,
            Observer::Mse | Observer::Entropy => false,
        }
    }
}

impl Display for Rule {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.observer {
            Observer::MinMax => f.write_str("minmax"),
            Observer::Average => f.write_str("average"),
            Observer::Percentile => write!(f, "percentile {}", 100.0 - 100.0 * self.outermost),
            Observer::Mse => f.write_str("mse"),
            Observer::Entropy => f.write_str("entropy"),
        }
    }
}

impl From<Observer> for Rule {
    fn from(observer: Observer) -> Rule {
        Rule { observer, outermost: OUTERMOST }
    }
}
