//! Changes of what a model takes and gives: dimensions that are fixed, outputs that are chosen.
//!
//! These are wishes of whoever uses the model, so what does not fit is an error ([`Error::Usage`](crate::Error)), never
//! a remark.
//!
//! ```
//! use onnx_compress::{ir::text, passes::interface};
//!
//! let mut model = text::parse(
//!     r#"<ir_version: 8, opset_import: ["" : 17]>
//!     g (float[batch,4] x) => (float[batch,4] y) {
//!         h = Neg (x)
//!         y = Relu (h)
//!     }"#,
//! )?;
//! interface::freeze_dims(&mut model, &[("batch".into(), 2)])?;
//! interface::set_outputs(&mut model, &["h".into()])?;
//! model.graph.sweep();
//! let h = model.graph.outputs[0];
//! assert_eq!(model.graph.tensor_type(h).unwrap().to_string(), "float[2,4]");
//! assert_eq!(model.graph.ops().count(), 1);
//! # Ok::<(), onnx_compress::Error>(())
//! ```

mod freeze;
mod outputs;

pub use freeze::{freeze_dims, set_input_shapes};
pub use outputs::{drop_unused_inputs, set_outputs};
