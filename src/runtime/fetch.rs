//! Values of a model, inner ones too, by running no more of it than they take.

use super::measurer::value_of;
use crate::{
    error::{Error, Result},
    ir::{Dim, Model, Origin, Tensor, ValueId},
    measure::Batch,
};
use std::collections::HashMap;

/// Values to take from runs of a model.
pub(super) struct Fetch {
    names: Vec<String>,
    /// Those that are constants.
    stored: HashMap<String, Tensor>,
    /// What computes the others; `None` where none is computed.
    pub(super) model: Option<Model>,
}

impl Fetch {
    /// Values of these names. Inputs and constants are not computed: they need no output of their own.
    pub(super) fn of(model: &Model, names: &[String]) -> Result<Fetch> {
        let mut fetching = model.clone();
        let graph = &mut fetching.graph;
        let (mut stored, mut outputs) = (HashMap::new(), Vec::new());
        for name in names {
            let value = value_of(graph, name)?;
            match &graph.value(value).origin {
                Origin::Initializer(tensor) => drop(stored.insert(name.clone(), tensor.clone())),
                _ if graph.is_input(value) || outputs.contains(&value) => {}
                _ => outputs.push(value),
            }
        }
        let computes = !outputs.is_empty();
        graph.outputs = outputs;
        graph.sweep();
        Ok(Fetch { names: names.to_vec(), stored, model: computes.then_some(fetching) })
    }
    /// How many bytes the computed ones take, where their types tell.
    pub(super) fn bytes(&self) -> Option<usize> {
        let Some(Model { graph, .. }) = &self.model else { return Some(0) };
        let of = |v: &ValueId| {
            let shape = graph.shape(*v)?;
            let elements = shape.iter().map(Dim::known).try_fold(1usize, |all, n| all.checked_mul(n?))?;
            graph.dtype(*v)?.bytes_for(elements)
        };
        graph.outputs.iter().map(of).try_fold(0usize, |all, bytes| all.checked_add(bytes?))
    }
    /// The values in order, of a batch and what it was computed to.
    pub(super) fn take(&self, batch: &Batch, computed: Batch) -> Result<Vec<Tensor>> {
        let computed: HashMap<String, Tensor> = computed.into_iter().collect();
        let find = |name: &String| {
            let given = batch.iter().find(|(given, _)| given == name).map(|(_, tensor)| tensor);
            let found = given.or(self.stored.get(name)).or(computed.get(name));
            found.cloned().ok_or_else(|| Error::Runtime(format!("`{name}` was not computed")))
        };
        self.names.iter().map(find).collect()
    }
}
