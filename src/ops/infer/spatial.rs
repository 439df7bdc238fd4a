//! Shape rules of convolutions, pooling and what else works on `[batch, channels, spatial...]`.

use super::{
    call::{Call, Found, add, mul, number, shaped, sub, unknown},
    expr::Expr,
    fact::{Fact, Size, num},
};

/// Per-axis attributes of a window, with ONNX's defaults.
struct Window {
    kernel: Vec<Size>,
    strides: Vec<i64>,
    dilations: Vec<i64>,
    pads: Vec<i64>,
    /// `auto_pad` is SAME_UPPER or SAME_LOWER.
    same: bool,
}

impl Window {
    /// `axes` spatial axes; the kernel from the attribute, else from the weight's shape.
    fn of(c: &Call<'_>, axes: usize, weight: Option<&[Size]>) -> Option<Window> {
        let list = |name: &str, n: usize, default: i64| {
            let list = c.op.ints(name).map_or(vec![default; n], <[i64]>::to_vec);
            (list.len() == n).then_some(list)
        };
        let kernel = match (weight, c.op.ints("kernel_shape")) {
            (Some(w), _) => w.get(2..)?.to_vec(),
            (None, Some(k)) => k.iter().map(|k| num(*k)).collect(),
            (None, None) => return None,
        };
        let auto = c.op.str("auto_pad").unwrap_or("NOTSET");
        let pads = if auto == "NOTSET" { list("pads", 2 * axes, 0)? } else { vec![0; 2 * axes] };
        let window = Window {
            kernel,
            strides: list("strides", axes, 1)?,
            dilations: list("dilations", axes, 1)?,
            pads,
            same: auto.starts_with("SAME"),
        };
        (window.kernel.len() == axes && window.strides.iter().all(|s| *s > 0)).then_some(window)
    }
    /// The extent that the dilated kernel covers.
    fn reach(&self, k: usize) -> Size {
        add(&mul(&sub(&self.kernel[k], &num(1)), &num(self.dilations[k])), &num(1))
    }
    fn padding(&self, k: usize) -> Size {
        num(self.pads[k].checked_add(self.pads[k + self.strides.len()])?)
    }
    /// How often the window fits.
    fn fits(&self, k: usize, size: &Size, ceil: bool) -> Size {
        if self.same {
            return size.as_ref()?.ceil_div(self.strides[k]);
        }
        let room = sub(&add(size, &self.padding(k)), &self.reach(k))?;
        let stride = self.strides[k];
        if !ceil {
            return room.floor_div(stride)?.add(&Expr::from(1));
        }
        let fits = room.ceil_div(stride)?.add(&Expr::from(1))?;
        // A window that would start in the padding behind the input does not count.
        let last = fits.sub(&Expr::from(1))?.mul(&Expr::from(stride))?;
        let end = add(size, &num(self.pads[k]))?;
        match (last.number(), end.number()) {
            (Some(last), Some(end)) => Some(if last >= end { fits.sub(&Expr::from(1))? } else { fits }),
            // The last window reaches back into the input by itself.
            _ if stride == 1 => Some(fits),
            _ if number(&self.reach(k))?.checked_sub(self.pads[k + self.strides.len()])? >= stride => {
                Some(fits)
            }
            _ => None,
        }
    }
}

pub(super) fn conv(c: &Call<'_>) -> Found {
    let (x, w) = match &*c.op.op_type {
        "QLinearConv" => (c.shape(0)?, c.shape(3)?),
        _ => (c.shape(0)?, c.shape(1)?),
    };
    let axes = x.len().checked_sub(2)?;
    let window = Window::of(c, axes, Some(w))?;
    let mut out = vec![x[0].clone(), w[0].clone()];
    out.extend((0..axes).map(|k| window.fits(k, &x[k + 2], false)));
    shaped(out)
}

pub(super) fn pool(c: &Call<'_>) -> Found {
    let x = c.shape(0)?;
    let axes = x.len().checked_sub(2)?;
    let window = Window::of(c, axes, None)?;
    let mut out = x[..2].to_vec();
    out.extend((0..axes).map(|k| window.fits(k, &x[k + 2], c.flag("ceil_mode"))));
    Some(vec![Fact::shaped(out.clone()), Fact::shaped(out)])
}

pub(super) fn global_pool(c: &Call<'_>) -> Found {
    let x = c.shape(0)?;
    shaped([x.get(..2)?, &vec![num(1); x.len() - 2]].concat())
}

pub(super) fn conv_transpose(c: &Call<'_>) -> Found {
    let (x, w) = (c.shape(0)?, c.shape(1)?);
    let axes = x.len().checked_sub(2)?;
    let window = Window::of(c, axes, Some(w))?;
    let extra = c.op.ints("output_padding").map_or(vec![0; axes], <[i64]>::to_vec);
    let mut out = vec![x[0].clone(), mul(w.get(1)?, &num(c.op.int("group").unwrap_or(1)))];
    for k in 0..axes {
        if let Some(given) = c.op.ints("output_shape") {
            // Some exporters give the whole shape, others only the spatial part.
            out.push(num(*given.get(given.len().checked_sub(axes)? + k)?));
            continue;
        }
        let stride = num(window.strides[k]);
        if window.same {
            out.push(mul(&x[k + 2], &stride));
            continue;
        }
        let start = mul(&sub(&x[k + 2], &num(1)), &stride);
        let end = add(&start, &add(&window.reach(k), &num(*extra.get(k)?)));
        out.push(sub(&end, &window.padding(k)));
    }
    shaped(out)
}

pub(super) fn max_unpool(c: &Call<'_>) -> Found {
    let x = c.shape(0)?;
    if c.input(2).is_some() {
        return match &c.input(2)?.values {
            Some(sizes) => shaped(sizes.clone()),
            None => shaped(vec![None; x.len()]),
        };
    }
    let axes = x.len().checked_sub(2)?;
    let window = Window::of(c, axes, None)?;
    let mut out = x[..2].to_vec();
    for k in 0..axes {
        let start = mul(&sub(&x[k + 2], &num(1)), &num(window.strides[k]));
        out.push(sub(&add(&start, &window.kernel[k]), &window.padding(k)));
    }
    shaped(out)
}

pub(super) fn grid_sample(c: &Call<'_>) -> Found {
    let (x, grid) = (c.shape(0)?, c.shape(1)?);
    let spatial = grid.get(1..grid.len().checked_sub(1)?)?;
    shaped([x.get(..2)?, spatial].concat())
}

pub(super) fn affine_grid(c: &Call<'_>) -> Found {
    let size = match &c.input(1)?.values {
        Some(values) => values.clone(),
        None => unknown(c.shape(1)?)?,
    };
    let (batch, spatial) = (size.first()?, size.get(2..)?);
    let batch = batch.clone().or_else(|| c.shape(0)?.first()?.clone());
    shaped([&[batch], spatial, &[num(spatial.len() as i64)]].concat())
}

/// CausalConvWithState: `[batch, channels, length]`, and as state the last positions that the kernel reaches back to.
pub(super) fn causal_conv(c: &Call<'_>) -> Found {
    let x = c.shape(0)?;
    let state = [x.get(..2)?, &[sub(c.shape(1)?.get(2)?, &num(1))]].concat();
    Some(vec![Fact::shaped(x.to_vec()), Fact::shaped(state)])
}

pub(super) fn roi_align(c: &Call<'_>) -> Found {
    let size = |name: &str| num(c.op.int(name).unwrap_or(1));
    let rois = c.shape(1).or(c.shape(2)).and_then(|s| s.first()?.clone());
    let channels = c.shape(0).and_then(|s| s.get(1)?.clone());
    shaped(vec![rois, channels, size("output_height"), size("output_width")])
}

pub(super) fn col2im(c: &Call<'_>) -> Found {
    let x = c.shape(0)?;
    let image = match &c.input(1)?.values {
        Some(values) => values.clone(),
        None => unknown(c.shape(1)?)?,
    };
    let block = c.input(2).and_then(Fact::numbers);
    let area = block.and_then(|b| b.iter().try_fold(1i64, |n, d| n.checked_mul(*d)));
    let channels = match (x.get(1).and_then(number), area) {
        (Some(n), Some(a)) if a > 0 => num(n / a),
        _ => None,
    };
    shaped([&[x.first()?.clone(), channels], &image[..]].concat())
}
