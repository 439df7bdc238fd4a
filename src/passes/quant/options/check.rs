//! Which options go together.

use super::{Activations, Form, Observer, QuantOptions, Target};
use crate::error::{Error, Result};

impl QuantOptions {
    pub(in super::super) fn check(&self) -> Result<()> {
        let wrong = |what: &str, help: &str| Err(Error::usage(format!("pass `quant`: {what}"), help));
        if !matches!(self.bits, 2 | 3 | 4 | 8 | 16) {
            return wrong(
                &format!("weights of {} bits cannot be stored", self.bits),
                "`bits` is 16, 8, 4, 3 or 2",
            );
        }
        if self.float8.is_some() && (self.bits != 8 || self.symmetric == Some(false)) {
            return wrong(
                "floats of eight bits have no other bits and no zero points",
                "leave out `bits` and `symmetric`, or `float8`",
            );
        }
        if self.size.is_some() && (self.bits != 8 || self.float8.is_some() || self.form == Form::MatMulNBits)
        {
            return wrong(
                "`size` decides how many bits each weight gets",
                "leave out `bits`, `float8` and `form=matmulnbits`, or `size`",
            );
        }
        if self.size.is_some() && self.compensate > 0 {
            return wrong("`size` counts no factors", "leave out `compensate` or `size`");
        }
        let block = self.block(self.bits);
        if self.form == Form::MatMulNBits && !(self.bits == 4 && block >= 16 && block.is_power_of_two()) {
            return wrong(
                "`form=matmulnbits` is for four bits",
                "give `bits=4`, and as `block` a power of two",
            );
        }
        if !matches!(block, 0 | 16..=256) {
            return wrong(&format!("blocks of {block} elements"), "`block` is 0 or from 16 to 256");
        }
        if block > 0 && !self.per_channel {
            return wrong(
                "one scale for a weight excludes blocks",
                "leave out `block` or `per_channel=false`",
            );
        }
        self.check_operators()?;
        self.check_activations()?;
        self.check_observer()
    }
    /// What operators that read and write integers ask for.
    fn check_operators(&self) -> Result<()> {
        let wrong = |what: &str, help: &str| Err(Error::usage(format!("pass `quant`: {what}"), help));
        let measured = matches!(self.activations, Activations::Auto | Activations::Static);
        match self.form == Form::QOperator {
            true if !self.suits_integer_kernels() => wrong(
                "`form=qoperator` is for weights of symmetric int8 without blocks",
                "leave out `bits`, `float8`, `block` and `symmetric`, or `form`",
            ),
            true if !measured || self.has_wide_activations() => wrong(
                "`form=qoperator` is for activations of 8 bits whose ranges are measured",
                "leave out `activations` and `activation_type`, or `form`",
            ),
            true if self.target != Target::Cpu => wrong(
                "`form=qoperator` is what ONNX Runtime on a processor reads",
                "leave out `target`, or give `form=qdq`",
            ),
            _ => Ok(()),
        }
    }
    fn check_activations(&self) -> Result<()> {
        let wrong = |what: &str, help: &str| Err(Error::usage(format!("pass `quant`: {what}"), help));
        let profile = self.target.profile();
        if profile.symmetric_activations && self.activation_dtype() != profile.activation_type.dtype() {
            let what = format!("the target knows {} activations alone", profile.activation_type.dtype());
            return wrong(&what, "leave out `activation_type` or `target`");
        }
        if self.activation_type.is_some()
            && matches!(self.activations, Activations::None | Activations::Dynamic)
        {
            let what = "`activation_type` is that of activations whose ranges are measured";
            return wrong(what, "leave out `activation_type`, or give `activations=static`");
        }
        let asked = matches!(self.activations, Activations::Static | Activations::Dynamic)
            || self.activation_type.is_some();
        if asked && self.bits == 16 && !self.multiplies_wide_weights() {
            return wrong(
                "weights of 16 bits are multiplied by activations of 16 bits alone, and by `target=qnn` alone",
                "give `target=qnn` and `activation_type=uint16`, or leave out `bits`, or `activations` and `activation_type`",
            );
        }
        if asked && !self.suits_integer_kernels() {
            let help = "leave out `activations` and `activation_type`, or `target=cuda`, `form=folded`, `bits`, `float8`, `block` \
                        and `symmetric`";
            return wrong(
                "integer kernels need weights of symmetric int8 in the form `qdq`, without blocks",
                help,
            );
        }
        Ok(())
    }
    fn check_observer(&self) -> Result<()> {
        let wrong = |what: &str, help: &str| Err(Error::usage(format!("pass `quant`: {what}"), help));
        match (self.percentile, self.observer) {
            (Some(_), Some(observer)) if observer != Observer::Percentile => wrong(
                "`percentile` is what `observer=percentile` keeps",
                "leave out `observer` or `percentile`",
            ),
            (Some(kept), _) if !(50.0..=100.0).contains(&kept) => wrong(
                &format!("`percentile` is {kept}"),
                "give the percentage of elements to keep at either end, from 50 to 100, as 99.99",
            ),
            _ => Ok(()),
        }
    }
}
