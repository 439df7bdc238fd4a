//! What is known of a value's distribution without running the model.

/// The mean and the standard deviation of each channel (axis 1) of a float value over the data a model was trained on, as
/// far as the model itself tells: BatchNormalization holds both of what it puts out.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    /// One mean for each channel.
    pub mean: Vec<f64>,
    /// As many standard deviations.
    pub deviation: Vec<f64>,
}

impl Moments {
    /// The number of channels.
    pub fn channels(&self) -> usize {
        self.mean.len()
    }
    /// Those of some of the channels, in this order; `None` where there is no such channel.
    pub fn take(&self, channels: &[usize]) -> Option<Moments> {
        let of = |all: &[f64]| channels.iter().map(|c| all.get(*c).copied()).collect::<Option<Vec<f64>>>();
        Some(Moments { mean: of(&self.mean)?, deviation: of(&self.deviation)? })
    }
}
