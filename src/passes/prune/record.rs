//! Which positions of which weights stayed, as the model itself tells it: what the reverse of pruning needs to know.

use crate::{
    error::{Error, Result},
    ir::{Graph, Model},
    ops::axes::Stays,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// The note that holds the record.
const KEY: &str = "pruned";

/// Positions of an axis that stayed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Stayed {
    /// The extent of the axis in the original.
    of: usize,
    /// Sorted.
    pub(super) kept: Vec<usize>,
}

/// What was cut out of a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Record {
    /// For each initializer that lost positions, by name, what stayed along each axis (`None`: all). What was cut again
    /// counts from the original.
    pub(super) weights: BTreeMap<String, Vec<Option<Stayed>>>,
    /// The names of sums that lost an operand, and which, in the order in which they did.
    pub(super) branches: Vec<(String, usize)>,
}

/// The record as it is written: positions once, however many axes lost the same.
#[derive(Serialize, Deserialize)]
struct Written {
    /// `extent:mask`, the mask in hexadecimal with position 0 in the highest bit of the first digit.
    positions: Vec<String>,
    /// For each axis of a weight which of those.
    weights: BTreeMap<String, Vec<Option<usize>>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    branches: Vec<(String, usize)>,
}

impl Record {
    /// The record of a model; `None` where it was not pruned.
    ///
    /// # Errors
    /// [`Error::Malformed`] where the note is not what [`Record::note`] writes.
    pub(super) fn of(model: &Model) -> Result<Option<Record>> {
        let Some(text) = model.notes.get(KEY) else { return Ok(None) };
        let read = || {
            let written: Written = serde_json::from_str(text).ok()?;
            let positions: Vec<_> =
                written.positions.iter().map(|p| Stayed::read(p)).collect::<Option<_>>()?;
            let axis = |k: Option<usize>| k.map_or(Some(None), |k| positions.get(k).cloned().map(Some));
            let weight = |(name, axes): (String, Vec<Option<usize>>)| {
                Some((name, axes.into_iter().map(axis).collect::<Option<Vec<_>>>()?))
            };
            let weights = written.weights.into_iter().map(weight).collect::<Option<_>>()?;
            Some(Record { weights, branches: written.branches })
        };
        let why = || format!("its entry `{}{KEY}` of metadata_props is not as it was written", Model::NOTE);
        read().map(Some).ok_or_else(|| Error::malformed((), why()))
    }
    /// Adds what a cut is about to remove from a graph.
    pub(super) fn add(&mut self, g: &Graph, stays: &Stays) {
        for (v, axes) in stays.iter() {
            let Some(tensor) = g.initializer(v) else { continue };
            let before = self.weights.remove(g.name_of(v)).unwrap_or_default();
            let axis = |k: usize, extent: usize| {
                let before = before.get(k).cloned().flatten().filter(|s| s.kept.len() == extent);
                let Some(now) = &axes[k] else { return before };
                Some(match before {
                    Some(before) => {
                        Stayed { of: before.of, kept: now.iter().map(|at| before.kept[*at]).collect() }
                    }
                    None => Stayed { of: extent, kept: now.clone() },
                })
            };
            let axes = tensor.shape().iter().enumerate().map(|(k, extent)| axis(k, *extent)).collect();
            self.weights.insert(g.name_of(v).to_owned(), axes);
        }
    }
    /// Writes the record into a model.
    pub(super) fn note(&self, model: &mut Model) {
        let (mut positions, mut known) = (Vec::new(), HashMap::new());
        let mut number = |stayed: &Stayed| {
            *known.entry(stayed.clone()).or_insert_with(|| {
                positions.push(stayed.written());
                positions.len() - 1
            })
        };
        let weight = |(name, axes): (&String, &Vec<Option<Stayed>>)| {
            (name.clone(), axes.iter().map(|axis| axis.as_ref().map(&mut number)).collect())
        };
        let weights = self.weights.iter().map(weight).collect();
        let written = serde_json::to_string(&Written { positions, weights, branches: self.branches.clone() });
        model.notes.insert(KEY.to_owned(), written.expect("lists of numbers and names are plain data"));
    }
}

impl Stayed {
    fn written(&self) -> String {
        let mut digits = vec![0u32; self.of.div_ceil(4)];
        self.kept.iter().for_each(|at| digits[at / 4] |= 8 >> (at % 4));
        let digits = digits.into_iter().filter_map(|d| char::from_digit(d, 16));
        format!("{}:", self.of) + &digits.collect::<String>()
    }
    fn read(text: &str) -> Option<Stayed> {
        let (of, mask) = text.split_once(':')?;
        let of: usize = of.parse().ok()?;
        if mask.len() != of.div_ceil(4) {
            return None;
        }
        let mut kept = Vec::new();
        for (k, digit) in mask.chars().enumerate() {
            let digit = digit.to_digit(16)?;
            kept.extend((0..4).filter(|bit| digit & (8 >> bit) != 0).map(|bit| 4 * k + bit));
        }
        kept.last().is_none_or(|last| *last < of).then_some(Stayed { of, kept })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let stayed = |of, kept: &[usize]| Some(Stayed { of, kept: kept.to_vec() });
        let axes = |axes: &[Option<Stayed>]| axes.to_vec();
        let weights = BTreeMap::from([
            ("w".to_owned(), axes(&[stayed(6, &[0, 3, 5]), None])),
            ("b".to_owned(), axes(&[stayed(6, &[0, 3, 5])])),
            ("v".to_owned(), axes(&[None, stayed(8, &[7])])),
        ]);
        let mut record = Record { weights, branches: Vec::new() };
        let mut model = Model::default();
        assert_eq!(Record::of(&model).unwrap(), None);
        record.note(&mut model);
        assert_eq!(
            model.notes[KEY],
            r#"{"positions":["6:94","8:01"],"weights":{"b":[0],"v":[null,1],"w":[0,null]}}"#
        );
        assert_eq!(Record::of(&model).unwrap().as_ref(), Some(&record));
        record.branches.push(("sum".to_owned(), 1));
        record.note(&mut model);
        assert_eq!(Record::of(&model).unwrap(), Some(record));
        for bad in
            ["", "{}", r#"{"positions":["6:97"],"weights":{}}"#, r#"{"positions":[],"weights":{"w":[0]}}"#]
        {
            model.notes.insert(KEY.to_owned(), bad.to_owned());
            assert!(Record::of(&model).is_err(), "{bad}");
        }
    }
}
