//! Integers of two and four bits, packed into bytes from the lowest bits up.

use super::{DType, Tensor};

/// The bits of an element and whether it has a sign, for integers narrower than a byte.
fn narrow(dtype: DType) -> Option<(usize, bool)> {
    match dtype {
        DType::I4 => Some((4, true)),
        DType::U4 => Some((4, false)),
        DType::I2 => Some((2, true)),
        DType::U2 => Some((2, false)),
        _ => None,
    }
}

impl Tensor {
    /// A tensor of int4, uint4, int2 or uint2 from elements within that type, of which the lowest bits are taken; `None`
    /// for any other type.
    ///
    /// # Panics
    /// Where the elements do not fill the shape: a defect of the caller.
    pub fn packed(dtype: DType, shape: impl Into<Vec<usize>>, elements: &[i8]) -> Option<Tensor> {
        let (bits, _) = narrow(dtype)?;
        let pack = |part: &[i8]| {
            let bits_of = |(k, x): (usize, &i8)| (*x as u8 & ((1 << bits) - 1)) << (k * bits);
            part.iter().enumerate().map(bits_of).fold(0, |byte, x| byte | x)
        };
        let bytes: Vec<u8> = elements.chunks(8 / bits).map(pack).collect();
        Some(Tensor::new(dtype, shape, bytes).expect("the caller fills the shape"))
    }
    /// The elements of a tensor of int4, uint4, int2 or uint2; `None` for any other type.
    pub fn unpacked(&self) -> Option<Vec<i8>> {
        let (bits, signed) = narrow(self.dtype())?;
        let element = |k: usize| {
            let high = (self.bytes()[k * bits / 8] << (8 - bits - k * bits % 8)) as i8;
            if signed { high >> (8 - bits) } else { (high as u8 >> (8 - bits)) as i8 }
        };
        Some((0..self.len()).map(element).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_unpacked() {
        let signed = [-8i8, 7, 0, -1, 3];
        let t = Tensor::packed(DType::I4, [5], &signed).unwrap();
        assert_eq!((t.bytes(), t.unpacked().unwrap()), (&[0x78u8, 0xf0, 0x03][..], signed.to_vec()));
        let unsigned = [15i8, 0, 9];
        assert_eq!(Tensor::packed(DType::U4, [3], &unsigned).unwrap().unpacked().unwrap(), unsigned);
        let two = [-2i8, 1, 0, -1, 1];
        let t = Tensor::packed(DType::I2, [5], &two).unwrap();
        assert_eq!((t.byte_len(), t.unpacked().unwrap()), (2, two.to_vec()));
        assert_eq!(Tensor::packed(DType::U2, [4], &[3, 0, 2, 1]).unwrap().unpacked().unwrap(), [3, 0, 2, 1]);
        assert!(Tensor::packed(DType::I8, [1], &[1]).is_none());
    }
}
