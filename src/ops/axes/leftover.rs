//! Where zeroed weights still leave something behind.
//!
//! A weight that is summed over takes the removed positions with it: they are zero in it. Where both operands of a
//! sum of products are computed, as queries and keys are, at least one of them must be zero at those positions by
//! itself. After a linear layer it is, after a sigmoid it is not: then the sum is a statistic over the group.

use super::{einsum, factor::Factor, flow::Flow};
use crate::ir::{OpId, ValueId};
use std::collections::{HashMap, HashSet};

type Leaves = HashSet<Factor>;

impl Flow<'_> {
    /// Marks the leaves that such sums run over and whose removed positions are zero in neither operand.
    pub(super) fn mark_leftovers(&mut self) {
        self.mark_own();
        let mut bodies = std::mem::take(&mut self.bodies);
        for body in bodies.iter_mut().flat_map(|(_, bodies)| bodies) {
            std::mem::swap(&mut self.arena, &mut body.arena);
            body.mark_leftovers();
            std::mem::swap(&mut self.arena, &mut body.arena);
        }
        self.bodies = bodies;
    }
    fn mark_own(&mut self) {
        let inside = self.sums.iter().map(|(operands, axis)| (operands.clone(), self.open(*axis)));
        let inside = inside.filter(|(operands, _)| self.all_computed(operands));
        let sums: Vec<_> = self.graph.ops().filter_map(|op| self.computed_sum(op)).chain(inside).collect();
        let wanted: Leaves = sums.iter().flat_map(|(_, over)| over.iter().copied()).collect();
        if wanted.is_empty() {
            return;
        }
        let zeros = self.zeros(&wanted);
        let is_zero = |v: &ValueId, leaf: &Factor| zeros.get(v).is_some_and(|z| z.contains(leaf));
        for (operands, over) in &sums {
            for leaf in over.iter().filter(|leaf| !operands.iter().any(|v| is_zero(v, leaf))) {
                self.arena.mark_statistic(*leaf);
            }
        }
    }
    /// The operands of a sum of products of two computed values, and the open leaves it runs over.
    fn computed_sum(&self, op: OpId) -> Option<(Vec<ValueId>, Vec<Factor>)> {
        let (a, b) = (self.graph.input(op, 0)?, self.graph.input(op, 1)?);
        let (inner, _) = self.summed(op)?;
        let over = self.open(*self.known_dims(a).get(inner)?);
        self.all_computed(&[a, b]).then(|| (vec![a, b], over))
    }
    fn all_computed(&self, operands: &[ValueId]) -> bool {
        !operands.iter().any(|v| self.is_weight(*v))
    }
    /// The leaves of an axis that may shrink.
    fn open(&self, axis: Factor) -> Vec<Factor> {
        let leaves = self.arena.leaves(axis);
        leaves.into_iter().filter(|l| self.arena.frozen(*l).is_none()).collect()
    }
    /// The axes of the first two operands that an op sums over.
    fn summed(&self, op: OpId) -> Option<(usize, usize)> {
        let node = self.graph.op(op);
        let rank = |slot| self.graph.input(op, slot).map(|v| self.known_dims(v).len());
        let turned = |name| usize::from(node.int(name).unwrap_or(0) != 0);
        match &*node.op_type {
            _ if !node.is_standard() => None,
            "MatMul" => Some((rank(0)?.checked_sub(1)?, rank(1)?.saturating_sub(2))),
            "Gemm" => Some((1 - turned("transA"), turned("transB"))),
            "Conv" => Some((1, 1)),
            "ConvTranspose" => Some((1, 0)),
            _ => None,
        }
    }
    /// For each value the leaves at whose removed positions it is zero, among those wanted.
    fn zeros(&self, wanted: &Leaves) -> HashMap<ValueId, Leaves> {
        let mut zeros: HashMap<ValueId, Leaves> = HashMap::new();
        let carried = |v: ValueId| -> Leaves {
            let leaves = self.known_dims(v).iter().flat_map(|f| self.arena.leaves(*f));
            leaves.filter(|l| wanted.contains(l)).collect()
        };
        for v in self.graph.values().filter(|v| self.is_weight(*v)) {
            zeros.insert(v, carried(v));
        }
        for op in self.graph.order() {
            let found = self.zeros_after(op, &zeros, &carried);
            for y in self.graph.outputs_of(op).into_iter().flatten() {
                zeros.insert(y, found.intersection(&carried(y)).copied().collect());
            }
        }
        zeros
    }
    /// What is zero in the outputs of an op, given what is zero in its inputs. Leaves that the outputs do not have may
    /// be among it.
    fn zeros_after(
        &self,
        op: OpId,
        zeros: &HashMap<ValueId, Leaves>,
        carried: &impl Fn(ValueId) -> Leaves,
    ) -> Leaves {
        let node = self.graph.op(op);
        let inputs: Vec<ValueId> = self.graph.inputs_of(op).into_iter().flatten().collect();
        let input = |slot| self.graph.input(op, slot);
        let of = |v: Option<ValueId>| v.and_then(|v| zeros.get(&v)).cloned().unwrap_or_default();
        let all = |vs: &[ValueId]| {
            let sets = vs.iter().map(|v| of(Some(*v)));
            sets.reduce(|a, b| a.intersection(&b).copied().collect()).unwrap_or_default()
        };
        match &*node.op_type {
            _ if !node.is_standard() => Leaves::new(),
            name if keeps_zero(name) => of(input(0)),
            "Add" | "Sub" | "Sum" | "Mean" | "Max" | "Min" => all(&inputs),
            "ScatterElements" | "ScatterND" => of(input(0)).intersection(&of(input(2))).copied().collect(),
            "Mul" => inputs.iter().flat_map(|v| of(Some(*v))).collect(),
            // Scaled and shifted at the end.
            "BatchNormalization"
            | "LayerNormalization"
            | "InstanceNormalization"
            | "GroupNormalization"
            | "RMSNormalization" => all(inputs.get(1..inputs.len().min(3)).unwrap_or_default()),
            "Concat" => {
                let unlike = |v: &ValueId| carried(*v).difference(&of(Some(*v))).copied().collect::<Vec<_>>();
                let spoilt: Leaves = inputs.iter().flat_map(unlike).collect();
                let any: Leaves = inputs.iter().flat_map(|v| of(Some(*v))).collect();
                any.difference(&spoilt).copied().collect()
            }
            "MatMul" | "Gemm" | "Conv" | "ConvTranspose" => {
                let Some((inner_a, inner_b)) = self.summed(op) else { return Leaves::new() };
                let rank = |slot| input(slot).map_or(0, |v| self.known_dims(v).len());
                let free = [(0, inner_a), (1, inner_b)]
                    .map(|(slot, inner)| (0..rank(slot)).filter(|k| *k != inner).collect());
                let bias = input(2).map(|v| of(Some(v)));
                let unbiased = |l: &Factor| bias.as_ref().is_none_or(|zero| zero.contains(l));
                self.zero_along(op, &free, zeros).into_iter().filter(unbiased).collect()
            }
            "Einsum" => {
                einsum::free(self.graph, op).map(|free| self.zero_along(op, &free, zeros)).unwrap_or_default()
            }
            _ => Leaves::new(),
        }
    }
    /// What is zero in a sum of products. A leaf along the axes of an operand that live on in the output (`free`) is zero
    /// there if the operand is; all operands that have it must agree.
    fn zero_along(&self, op: OpId, free: &[Vec<usize>], zeros: &HashMap<ValueId, Leaves>) -> Leaves {
        let (mut zero, mut other) = (Leaves::new(), Leaves::new());
        for (slot, axes) in free.iter().enumerate() {
            let Some(v) = self.graph.input(op, slot) else { continue };
            let dims = self.known_dims(v);
            let leaves = axes.iter().filter_map(|k| dims.get(*k)).flat_map(|f| self.arena.leaves(*f));
            let known = |leaf: &Factor| zeros.get(&v).is_some_and(|z| z.contains(leaf));
            let (yes, no): (Leaves, Leaves) = leaves.partition(known);
            zero.extend(yes);
            other.extend(no);
        }
        zero.difference(&other).copied().collect()
    }
}

/// Whether an operator of the standard puts out zero where its first input is zero, or moves that input's elements about.
pub fn keeps_zero(op_type: &str) -> bool {
    matches!(
        op_type,
        "Relu"
            | "LeakyRelu"
            | "PRelu"
            | "Tanh"
            | "Erf"
            | "Neg"
            | "Identity"
            | "Dropout"
            | "Cast"
            | "CastLike"
            | "GridSample"
            | "RoiAlign"
            | "MaxRoiPool"
            | "ReverseSequence"
            | "MeanVarianceNormalization"
            | "HardSwish"
            | "Swish"
            | "Gelu"
            | "Elu"
            | "Selu"
            | "Celu"
            | "Softsign"
            | "Mish"
            | "Abs"
            | "Sign"
            | "Floor"
            | "Ceil"
            | "Round"
            | "Sin"
            | "Tan"
            | "Sinh"
            | "Asin"
            | "Atan"
            | "Asinh"
            | "Atanh"
            | "Sqrt"
            | "Div"
            | "Transpose"
            | "Reshape"
            | "Flatten"
            | "Squeeze"
            | "Unsqueeze"
            | "Split"
            | "Slice"
            | "Gather"
            | "GatherElements"
            | "GatherND"
            | "Tile"
            | "DepthToSpace"
            | "SpaceToDepth"
            | "CumSum"
            | "Trilu"
            | "QuantizeLinear"
            | "DequantizeLinear"
            | "Expand"
            | "Resize"
            | "Upsample"
            | "MaxPool"
            | "AveragePool"
            | "GlobalAveragePool"
            | "GlobalMaxPool"
            | "ReduceSum"
            | "ReduceMean"
            | "ReduceMax"
            | "ReduceMin"
    )
}
