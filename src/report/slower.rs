//! Compression that made a model slower, and why.

use super::Summary;
use crate::runtime::Latency;

/// A sentence where the compressed model is slower beyond noise: by how much, and why, where that is known.
pub fn slower(latency: &Latency, before: &Summary, after: &Summary) -> Option<String> {
    if !latency.is_slower() {
        return None;
    }
    let more = |op: &str| {
        let of = |summary: &Summary| summary.operators.get(op).copied().unwrap_or(0);
        of(after).saturating_sub(of(before))
    };
    let (roundings, weights) = (more("QuantizeLinear"), more("DequantizeLinear"));
    let why = if roundings > 0 {
        format!(
            "rounding activations in {roundings} places costs more than integer kernels save; \
             `quant(activations=none)` is as small and no slower"
        )
    } else if weights > 0 {
        format!("{weights} weights are computed back in every run; `quant(form=auto)` avoids that")
    } else {
        "the runtime fuses its ops in another way, or its sizes suit the processor less".to_owned()
    };
    let (ratio, longer, runs) = (latency.ratio(), latency.longer, latency.runs);
    Some(format!("slower than the original: {ratio:.2}x, in {longer} of {runs} runs; {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Timing;

    fn summary(operators: &[(&str, u64)]) -> Summary {
        let operators = operators.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
        Summary { operators, ..Summary::default() }
    }
    fn said(after_ms: f64, longer: usize, after: &[(&str, u64)]) -> Option<String> {
        let timing = |ms| Timing { p50_ms: ms, p95_ms: 2.0 * ms };
        let (original, compressed) = (timing(1.0), timing(after_ms));
        let latency = Latency { original, compressed, runs: 100, longer, batch: 1, threads: Some(1) };
        slower(&latency, &summary(&[("Conv", 3), ("DequantizeLinear", 1)]), &summary(after))
    }
    #[test]
    fn noise_is_not_slowness() {
        assert_eq!(said(1.04, 100, &[]), None, "medians too close");
        assert_eq!(said(1.5, 60, &[]), None, "a coin may give that");
        assert_eq!(said(0.5, 0, &[("QuantizeLinear", 3)]), None);
    }
    #[test]
    fn the_cause_is_named_where_it_shows() {
        let said = |after: &[(&str, u64)]| said(2.4, 97, after).unwrap();
        assert!(
            said(&[("DequantizeLinear", 4)])
                .starts_with("slower than the original: 2.40x, in 97 of 100 runs; 3 weights")
        );
        assert!(said(&[("DequantizeLinear", 4), ("QuantizeLinear", 2)]).contains("in 2 places"));
        assert!(said(&[("DequantizeLinear", 1)]).contains("fuses"));
    }
}
