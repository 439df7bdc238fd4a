//! What changes from one version of an operator to the next.

use crate::{
    error::{Error, Result},
    ir::{Attr, Graph, Op, OpId, Tensor, ValueId},
};

/// One op, to be taken to the next version.
pub(super) struct Step<'a> {
    pub(super) g: &'a mut Graph,
    pub(super) op: OpId,
    /// The body of a function has no initializers: constants are nodes there.
    pub(super) in_function: bool,
}

impl Step<'_> {
    /// Rewrites the op where `version` changes it.
    pub(super) fn to(mut self, version: i64) -> Result<()> {
        let op_type = self.g.op(self.op).op_type.clone();
        match (version, op_type.as_str()) {
            (9, "BatchNormalization") => match self.int("spatial", 1)? {
                1 => self.drop_attr("spatial"),
                _ => return self.fail("statistics for each position (spatial = 0) have no successor"),
            },
            (9, "Scan") => return self.fail("Scan of version 8 has a batch axis that version 9 lacks"),
            (9, "Upsample") => {
                let scales = match self.take("scales")? {
                    Some(Attr::Floats(scales)) => scales,
                    _ => return self.fail("its attribute `scales` is missing"),
                };
                self.append(1, "scales", Tensor::from_vec([scales.len()], scales));
            }
            (10, "Upsample") => self.g.op_mut(self.op).op_type = "Resize".into(),
            (10, "Slice") => {
                let starts = self.ints("starts")?.unwrap_or_default();
                let ends = self.ints("ends")?.unwrap_or_default();
                let axes = self.ints("axes")?.unwrap_or_else(|| (0..starts.len() as i64).collect());
                self.append(1, "starts", Tensor::ints(starts));
                self.append(2, "ends", Tensor::ints(ends));
                self.append(3, "axes", Tensor::ints(axes));
            }
            (10, "TopK") => {
                let k = self.int("k", 0)?;
                self.drop_attr("k");
                self.append(1, "k", Tensor::ints([k]));
            }
            (11, "Clip") => self.clip()?,
            (11, "Pad") => {
                let pads = self.ints("pads")?.unwrap_or_default();
                self.append(1, "pads", Tensor::ints(pads));
                let value = self.float("value", 0.0)?;
                self.drop_attr("value");
                if value != 0.0 {
                    self.append_like_input(2, "value", value)?;
                }
            }
            (11, "Resize") => self.resize()?,
            (11, "Scatter") => self.g.op_mut(self.op).op_type = "ScatterElements".into(),
            (12, "Dropout") => {
                let ratio = self.float("ratio", 0.5)?;
                self.drop_attr("ratio");
                self.append(1, "ratio", Tensor::scalar(ratio));
            }
            (13, "Squeeze" | "Unsqueeze" | "ReduceSum") => self.axes_to_input()?,
            (18, name) if name.starts_with("Reduce") && name != "ReduceSum" => self.axes_to_input()?,
            (13, "Split") => {
                if let Some(split) = self.ints("split")? {
                    self.append(1, "split", Tensor::ints(split));
                }
            }
            (13, "Softmax" | "LogSoftmax" | "Hardmax") => self.softmax()?,
            (14, "BatchNormalization") => {
                let outputs = self.g.outputs_of(self.op);
                let used = |v: &ValueId| self.g.is_output(*v) || !self.g.uses(*v).is_empty();
                if outputs.iter().skip(1).flatten().any(used) {
                    return self.fail("its running statistics are used, as only training does");
                }
                self.g.set_outputs(self.op, &outputs[..1]);
                for v in outputs.into_iter().skip(1).flatten() {
                    self.g.remove_value_if_unused(v);
                }
            }
            (16, "RoiAlign") => {
                let op = self.g.op_mut(self.op);
                op.set("coordinate_transformation_mode", "output_half_pixel");
            }
            (18, "Split") if self.g.input(self.op, 1).is_none() => {
                let outputs = self.g.outputs_of(self.op).len() as i64;
                self.g.op_mut(self.op).set("num_outputs", outputs);
            }
            (20, "GridSample") => {
                let op = self.g.op_mut(self.op);
                match op.str("mode") {
                    Some("bilinear") => op.set("mode", "linear"),
                    Some("bicubic") => op.set("mode", "cubic"),
                    _ => {}
                }
            }
            (20, "DFT") => {
                let axis = self.int("axis", 1)?;
                self.drop_attr("axis");
                self.append(2, "axis", Tensor::scalar(axis));
            }
            (21, "GroupNormalization") => {
                return self.fail("its scale and bias are per group, and per channel from version 21 on");
            }
            _ => {}
        }
        Ok(())
    }

    fn fail<T>(&self, why: &str) -> Result<T> {
        let op = self.g.op(self.op);
        Err(Error::unsupported(self.g.place(self.op), format!("{} cannot be converted: {why}", op.op_type)))
    }
    /// An attribute that must not refer to one of the function's.
    fn take(&mut self, name: &str) -> Result<Option<Attr>> {
        if let Some(Attr::Reference(..)) = self.g.op(self.op).attr(name) {
            return self.fail("an attribute that becomes an input is a parameter of the function");
        }
        Ok(self.g.op_mut(self.op).unset(name))
    }
    fn drop_attr(&mut self, name: &str) {
        self.g.op_mut(self.op).unset(name);
    }
    fn ints(&mut self, name: &str) -> Result<Option<Vec<i64>>> {
        match self.take(name)? {
            Some(Attr::Ints(values)) => Ok(Some(values)),
            None => Ok(None),
            Some(_) => self.fail("an attribute that should be whole numbers is not"),
        }
    }
    fn int(&mut self, name: &str, default: i64) -> Result<i64> {
        match self.g.op(self.op).attr(name) {
            None => Ok(default),
            Some(Attr::Int(value)) => Ok(*value),
            Some(_) => self.fail("an attribute that should be a whole number is not"),
        }
    }
    fn float(&mut self, name: &str, default: f32) -> Result<f32> {
        match self.g.op(self.op).attr(name) {
            None => Ok(default),
            Some(Attr::Float(value)) => Ok(*value),
            Some(_) => self.fail("an attribute that should be a number is not"),
        }
    }
    /// A new constant.
    fn constant(&mut self, hint: &str, tensor: Tensor) -> ValueId {
        let output = self.g.outputs_of(self.op).into_iter().flatten().next();
        let hint = output.map_or_else(|| hint.to_owned(), |v| format!("{}_{hint}", self.g.name_of(v)));
        if self.in_function {
            let op = Op::new("Constant", hint.clone()).with("value", tensor);
            return self.g.add_node(op, &[], &hint, None);
        }
        self.g.add_initializer(&hint, tensor)
    }
    /// Gives the op a constant input.
    fn append(&mut self, slot: usize, hint: &str, tensor: Tensor) {
        let constant = self.constant(hint, tensor);
        self.g.set_input(self.op, slot, Some(constant));
    }
    /// Gives the op a scalar input of the type of its first one.
    fn append_like_input(&mut self, slot: usize, hint: &str, value: f32) -> Result<()> {
        let input = self.g.input(self.op, 0).and_then(|v| self.g.dtype(v));
        let output = self.g.output(self.op, 0).and_then(|v| self.g.dtype(v));
        match input.or(output).and_then(|dtype| Tensor::from_f32(dtype, [], vec![value])) {
            Some(tensor) => {
                self.append(slot, hint, tensor);
                Ok(())
            }
            None => self.fail("the type of its input is not known, and an input it gains must have it"),
        }
    }
    fn axes_to_input(&mut self) -> Result<()> {
        if let Some(axes) = self.ints("axes")? {
            self.append(1, "axes", Tensor::ints(axes));
        }
        Ok(())
    }
    fn clip(&mut self) -> Result<()> {
        for (slot, name) in [(1, "min"), (2, "max")] {
            if self.g.op(self.op).attr(name).is_some() {
                let bound = self.float(name, 0.0)?;
                self.drop_attr(name);
                self.append_like_input(slot, name, bound)?;
            }
        }
        Ok(())
    }
    /// Resize of version 10 maps `x` to `x / scale` and takes the pixel before it, or after it where it shrinks.
    fn resize(&mut self) -> Result<()> {
        let (x, scales) = (self.g.input(self.op, 0), self.g.input(self.op, 1));
        let known = scales.and_then(|v| self.g.constant(v)).and_then(|t| t.to_f32().map(|s| s.into_owned()));
        let nearest = self.g.op(self.op).str("mode").is_none_or(|m| m == "nearest");
        let shrinks = known.as_ref().is_some_and(|s| s.iter().any(|s| *s < 1.0));
        let grows = known.as_ref().is_some_and(|s| s.iter().any(|s| *s > 1.0));
        if nearest && (known.is_none() || shrinks && grows) {
            return self.fail("how it rounds depends on scales that are not known or go both ways");
        }
        let roi = self.constant("roi", Tensor::from_vec([0], Vec::<f32>::new()));
        self.g.set_inputs(self.op, &[x, Some(roi), scales]);
        let op = self.g.op_mut(self.op);
        op.set("coordinate_transformation_mode", "asymmetric");
        if nearest {
            op.set("nearest_mode", if shrinks { "ceil" } else { "floor" });
        }
        Ok(())
    }
    /// Up to version 12 all axes from `axis` on are one; from 13 on `axis` is the only one. They agree on the last axis;
    /// elsewhere the op works on a flattened input.
    fn softmax(&mut self) -> Result<()> {
        let axis = self.int("axis", 1)?;
        let Some(x) = self.g.input(self.op, 0) else { return self.fail("it has no input") };
        let rank = self.g.rank(x).map(|r| r as i64);
        self.g.op_mut(self.op).set("axis", -1);
        if axis == -1 || rank.is_some_and(|r| axis == r - 1) {
            return Ok(());
        }
        let Some(y) = self.g.output(self.op, 0) else { return Ok(()) };
        let name = self.g.op(self.op).name.clone();
        let hint = self.g.name_of(y).to_owned();
        let node = |kind: &str| {
            Op::new(kind, if name.is_empty() { String::new() } else { format!("{name}/{kind}") })
        };
        let flat = self.g.add_node(node("Flatten").with("axis", axis), &[x], &format!("{hint}_flat"), None);
        let shape = self.g.add_node(node("Shape"), &[x], &format!("{hint}_shape"), None);
        let inner = self.g.add_value(&format!("{hint}_rows"), None);
        self.g.set_input(self.op, 0, Some(flat));
        self.g.set_outputs(self.op, &[Some(inner)]);
        self.g.add_op(node("Reshape"), &[Some(inner), Some(shape)], &[Some(y)]);
        Ok(())
    }
}
