//! The attributes of a node, read by name and type.

use tract_onnx::pb::{AttributeProto, NodeProto, TensorProto, tensor_proto::DataType};

use super::Error;

pub(super) struct Attributes<'a>(pub &'a NodeProto);

impl<'a> Attributes<'a> {
    pub fn get(&self, name: &str) -> Option<&'a AttributeProto> {
        self.0.attribute.iter().find(|it| it.name == name)
    }

    pub fn ints(&self, name: &str) -> &'a [i64] {
        self.get(name).map_or(&[], |it| &it.ints)
    }

    pub fn floats(&self, name: &str) -> &'a [f32] {
        self.get(name).map_or(&[], |it| &it.floats)
    }

    pub fn strings(&self, name: &str) -> &'a [Vec<u8>] {
        self.get(name).map_or(&[], |it| &it.strings)
    }

    pub fn int(&self, name: &str) -> Option<i64> {
        self.get(name).map(|it| it.i)
    }

    pub fn text(&self, name: &str) -> Option<&'a str> {
        self.get(name)
            .map(|it| str::from_utf8(&it.s).unwrap_or("not UTF-8"))
    }

    /// What an imputer replaces: by the specification 0 where it does not say, not what is missing.
    pub fn replaced(&self) -> f32 {
        self.get("replaced_value_float").map_or(0.0, |it| it.f)
    }

    /// What an imputer of values of this type replaces, and what it puts in: integers have attributes of their own.
    pub fn filling(&self, kind: DataType) -> Result<(f64, Vec<f64>), Error> {
        let refuse = |reason: String| Err(Error::operator(&self.0.op_type, reason));
        let (replaced, fills, attribute): (f64, Vec<f64>, _) = match kind {
            DataType::Float | DataType::Double => {
                let fills = self.floats("imputed_value_floats");
                let fills = fills.iter().map(|it| f64::from(*it)).collect();
                (f64::from(self.replaced()), fills, "imputed_value_floats")
            }
            DataType::Int64 => {
                let replaced = self.int("replaced_value_int64").unwrap_or(0) as f64;
                let fills = self.ints("imputed_value_int64s");
                let fills = fills.iter().map(|it| *it as f64).collect();
                (replaced, fills, "imputed_value_int64s")
            }
            other => {
                return refuse(format!(
                    "it is supported on floats and int64, not on {other:?}; cast the column to float before it"
                ));
            }
        };
        match fills.is_empty() {
            true => refuse(format!(
                "its column is {kind:?}, and it has no {attribute} to put in; cast the column to the type of what it puts in"
            )),
            false => Ok((replaced, fills)),
        }
    }

    /// Numbers that are a list of floats or, beside it, a tensor of the name with `_as_tensor`.
    pub fn numbers(&self, name: &str) -> Result<Vec<f64>, Error> {
        match self
            .get(&format!("{name}_as_tensor"))
            .and_then(|it| it.t.as_ref())
        {
            Some(tensor) => tensor_numbers(tensor),
            None => Ok(self.floats(name).iter().map(|it| f64::from(*it)).collect()),
        }
    }

    /// Numbers that are a tensor.
    pub fn tensor(&self, name: &str) -> Result<Vec<f64>, Error> {
        match self.get(name).and_then(|it| it.t.as_ref()) {
            Some(tensor) => tensor_numbers(tensor),
            None => Ok(Vec::new()),
        }
    }
}

/// The number type that a cast makes.
pub(super) fn cast_type(node: &NodeProto) -> Option<DataType> {
    let to = Attributes(node).int("to")?;
    DataType::try_from(i32::try_from(to).ok()?).ok()
}

/// The numbers of a tensor that holds numbers, whatever its shape.
pub(super) fn tensor_numbers(tensor: &TensorProto) -> Result<Vec<f64>, Error> {
    if tensor.data_location == Some(1) || !tensor.external_data.is_empty() {
        return Err(Error::graph(
            "keeps data in other files; save it as one file",
        ));
    }
    let kind = DataType::try_from(tensor.data_type).unwrap_or(DataType::Undefined);
    let raw = &tensor.raw_data;
    fn each<const N: usize>(raw: &[u8], number: impl Fn([u8; N]) -> f64) -> Option<Vec<f64>> {
        let (parts, rest) = raw.as_chunks::<N>();
        rest.is_empty()
            .then(|| parts.iter().map(|it| number(*it)).collect())
    }
    let numbers = match kind {
        DataType::Float if raw.is_empty() => {
            Some(tensor.float_data.iter().map(|it| f64::from(*it)).collect())
        }
        DataType::Float => each(raw, |it| f64::from(f32::from_le_bytes(it))),
        DataType::Double if raw.is_empty() => Some(tensor.double_data.clone()),
        DataType::Double => each(raw, f64::from_le_bytes),
        DataType::Int64 if raw.is_empty() => {
            Some(tensor.int64_data.iter().map(|it| *it as f64).collect())
        }
        DataType::Int64 => each(raw, |it| i64::from_le_bytes(it) as f64),
        DataType::Uint8 | DataType::Int32 if raw.is_empty() => {
            Some(tensor.int32_data.iter().map(|it| f64::from(*it)).collect())
        }
        DataType::Uint8 => each(raw, |[it]: [u8; 1]| f64::from(it)),
        DataType::Int32 => each(raw, |it| f64::from(i32::from_le_bytes(it))),
        _ => None,
    };
    let numbers = numbers.ok_or_else(|| {
        Error::graph(format!(
            "has a tensor {:?} that is not of plain numbers",
            short(&tensor.name)
        ))
    })?;
    let wanted = elements(tensor)?;
    if wanted != numbers.len() {
        let found = numbers.len();
        let name = short(&tensor.name);
        return Err(Error::graph(format!(
            "has a tensor {name:?} with {found} numbers where its shape wants {wanted}"
        )));
    }
    Ok(numbers)
}

/// How many elements a tensor's shape has.
pub(super) fn elements(tensor: &TensorProto) -> Result<usize, Error> {
    let sizes = tensor.dims.iter().map(|size| usize::try_from(*size).ok());
    let product = sizes
        .into_iter()
        .try_fold(1_usize, |product, size| product.checked_mul(size?));
    product.ok_or_else(|| {
        Error::graph(format!(
            "has a tensor {:?} with an absurd shape",
            short(&tensor.name)
        ))
    })
}

/// A name of the file's, for messages.
pub(super) fn short(name: &str) -> String {
    name.chars().take(60).collect()
}
