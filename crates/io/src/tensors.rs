//! Named tensors in safetensors files: checkpoints, priors, states of solvers.
//!
//! The writer sorts everything, so that equal content gives equal bytes (and equal hashes); the safetensors crate does not promise that.

use crate::{Error, Result, write_whole};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Values of a tensor in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub enum TensorValues {
    /// f32; half-precision files are widened to it on reading.
    F32(Vec<f32>),
    /// f64.
    F64(Vec<f64>),
    /// Signed integers.
    I64(Vec<i64>),
    /// Unsigned integers (counters, seeds).
    U64(Vec<u64>),
}

impl TensorValues {
    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            TensorValues::F32(v) => v.len(),
            TensorValues::F64(v) => v.len(),
            TensorValues::I64(v) => v.len(),
            TensorValues::U64(v) => v.len(),
        }
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn type_name(&self) -> &'static str {
        match self {
            TensorValues::F32(_) => "F32",
            TensorValues::F64(_) => "F64",
            TensorValues::I64(_) => "I64",
            TensorValues::U64(_) => "U64",
        }
    }

    fn extend_bytes(&self, out: &mut Vec<u8>) {
        match self {
            TensorValues::F32(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
            TensorValues::F64(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
            TensorValues::I64(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
            TensorValues::U64(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
        }
    }
}

/// A tensor: its shape and its values.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// The length of each axis.
    pub shape: Vec<usize>,
    /// As many values as the product of `shape`.
    pub values: TensorValues,
}

/// All tensors and strings of a safetensors file.
#[derive(Clone, Debug, Default)]
pub struct TensorFile {
    /// Where it was read from, for messages.
    pub(crate) path: PathBuf,
    /// The tensors by name.
    pub tensors: BTreeMap<String, NamedTensor>,
    /// The metadata strings.
    pub metadata: BTreeMap<String, String>,
}

impl TensorFile {
    /// An empty file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an f32 tensor.
    pub fn insert_f32(&mut self, name: impl Into<String>, shape: &[usize], values: Vec<f32>) {
        self.tensors.insert(name.into(), NamedTensor { shape: shape.to_vec(), values: TensorValues::F32(values) });
    }

    /// Adds an f64 tensor.
    pub fn insert_f64(&mut self, name: impl Into<String>, shape: &[usize], values: Vec<f64>) {
        self.tensors.insert(name.into(), NamedTensor { shape: shape.to_vec(), values: TensorValues::F64(values) });
    }

    /// Adds an unsigned integer tensor.
    pub fn insert_u64(&mut self, name: impl Into<String>, shape: &[usize], values: Vec<u64>) {
        self.tensors.insert(name.into(), NamedTensor { shape: shape.to_vec(), values: TensorValues::U64(values) });
    }

    /// Adds a signed integer tensor.
    pub fn insert_i64(&mut self, name: impl Into<String>, shape: &[usize], values: Vec<i64>) {
        self.tensors.insert(name.into(), NamedTensor { shape: shape.to_vec(), values: TensorValues::I64(values) });
    }

    /// Shape and values of an f32 tensor.
    ///
    /// # Errors
    /// It is missing or of another type.
    pub fn f32s(&self, name: &str) -> Result<(&[usize], &[f32])> {
        match self.get(name)? {
            NamedTensor { shape, values: TensorValues::F32(v) } => Ok((shape, v)),
            other => Err(self.wrong_type(name, other, "F32")),
        }
    }

    /// Shape and values of an f64 tensor.
    ///
    /// # Errors
    /// It is missing or of another type.
    pub fn f64s(&self, name: &str) -> Result<(&[usize], &[f64])> {
        match self.get(name)? {
            NamedTensor { shape, values: TensorValues::F64(v) } => Ok((shape, v)),
            other => Err(self.wrong_type(name, other, "F64")),
        }
    }

    /// Shape and values of an unsigned integer tensor.
    ///
    /// # Errors
    /// It is missing or of another type.
    pub fn u64s(&self, name: &str) -> Result<(&[usize], &[u64])> {
        match self.get(name)? {
            NamedTensor { shape, values: TensorValues::U64(v) } => Ok((shape, v)),
            other => Err(self.wrong_type(name, other, "U64")),
        }
    }

    /// Shape and values of a signed integer tensor.
    ///
    /// # Errors
    /// It is missing or of another type.
    pub fn i64s(&self, name: &str) -> Result<(&[usize], &[i64])> {
        match self.get(name)? {
            NamedTensor { shape, values: TensorValues::I64(v) } => Ok((shape, v)),
            other => Err(self.wrong_type(name, other, "I64")),
        }
    }

    /// The metadata string `key`.
    ///
    /// # Errors
    /// It is missing.
    pub fn text(&self, key: &str) -> Result<&str> {
        self.metadata.get(key).map(String::as_str).ok_or_else(|| {
            let held: Vec<_> = self.metadata.keys().map(String::as_str).collect();
            Error::content(&self.path, format!("metadata {key}"), format!("is missing; the file holds: {}", list(&held)))
        })
    }

    fn get(&self, name: &str) -> Result<&NamedTensor> {
        self.tensors.get(name).ok_or_else(|| {
            let held: Vec<_> = self.tensors.keys().map(String::as_str).collect();
            Error::content(&self.path, format!("tensor {name}"), format!("is missing; the file holds: {}", list(&held)))
        })
    }

    fn wrong_type(&self, name: &str, found: &NamedTensor, expected: &str) -> Error {
        Error::content(
            &self.path,
            format!("tensor {name}"),
            format!("is {}, expected {expected}; write it in that type", found.values.type_name()),
        )
    }

    /// Reads a safetensors file: F32, F64, I64, U64 as they are; F16 and BF16 become f32, I32 becomes i64, U8 becomes u64.
    ///
    /// # Errors
    /// The file is missing, truncated, its header is no valid safetensors header, or a tensor has another type.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::os(path, e))?;
        let file = SafeTensors::deserialize(&bytes)
            .map_err(|e| Error::content(path, "header", format!("not a whole safetensors file ({e}); fetch or write it again")))?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| Error::content(path, "header", e.to_string()))?;
        let metadata = header.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
        let mut tensors = BTreeMap::new();
        for (name, view) in file.tensors() {
            let data = view.data();
            let values = match view.dtype() {
                Dtype::F32 => TensorValues::F32(each(data, f32::from_le_bytes)),
                Dtype::F64 => TensorValues::F64(each(data, f64::from_le_bytes)),
                Dtype::I64 => TensorValues::I64(each(data, i64::from_le_bytes)),
                Dtype::U64 => TensorValues::U64(each(data, u64::from_le_bytes)),
                Dtype::F16 => TensorValues::F32(each(data, |b| half_to_f32(u16::from_le_bytes(b)))),
                Dtype::BF16 => TensorValues::F32(each(data, |b: [u8; 2]| f32::from_bits((u16::from_le_bytes(b) as u32) << 16))),
                Dtype::I32 => TensorValues::I64(each(data, |b| i32::from_le_bytes(b) as i64)),
                Dtype::U8 => TensorValues::U64(each(data, |b: [u8; 1]| b[0] as u64)),
                other => {
                    return Err(Error::content(
                        path,
                        format!("tensor {name}"),
                        format!("has type {other:?}, expected F32, F64, F16, BF16, I64, I32, U64 or U8"),
                    ));
                }
            };
            tensors.insert(name, NamedTensor { shape: view.shape().to_vec(), values });
        }
        Ok(Self { path: path.to_path_buf(), tensors, metadata })
    }

    /// Writes the file, whole or not at all; equal content gives equal bytes.
    ///
    /// # Errors
    /// A tensor's shape and length differ, or the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_whole(path, &self.to_bytes(path)?)
    }

    fn to_bytes(&self, path: &Path) -> Result<Vec<u8>> {
        // Eight-byte values first, so that everything is aligned to its size.
        let size = |t: &NamedTensor| if matches!(t.values, TensorValues::F32(_)) { 4 } else { 8 };
        let mut order: Vec<(&String, &NamedTensor)> = self.tensors.iter().collect();
        order.sort_by_key(|(_, t)| std::cmp::Reverse(size(t)));
        let mut header = Map::new();
        if !self.metadata.is_empty() {
            header.insert("__metadata__".into(), json!(self.metadata));
        }
        let mut offset = 0;
        for (name, tensor) in &order {
            if tensor.shape.iter().product::<usize>() != tensor.values.len() {
                let problem = format!("has shape {:?} but {} values", tensor.shape, tensor.values.len());
                return Err(Error::content(path, format!("tensor {name}"), problem));
            }
            let end = offset + tensor.values.len() * size(tensor);
            header.insert(
                name.to_string(),
                json!({"dtype": tensor.values.type_name(), "shape": tensor.shape, "data_offsets": [offset, end]}),
            );
            offset = end;
        }
        let mut text = Value::Object(header).to_string().into_bytes();
        text.resize(text.len().div_ceil(8) * 8, b' ');
        let mut bytes = Vec::with_capacity(8 + text.len() + offset);
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text);
        for (_, tensor) in order {
            tensor.values.extend_bytes(&mut bytes);
        }
        Ok(bytes)
    }
}

pub(crate) fn each<T, const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|b| value(*b)).collect()
}

/// IEEE half precision to single precision, exact.
pub(crate) fn half_to_f32(h: u16) -> f32 {
    let sign = if h & 0x8000 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = ((h >> 10 & 0x1f) as i32, (h & 0x3ff) as f32);
    match exponent {
        0 => sign * fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => sign * f32::INFINITY,
        31 => f32::NAN,
        _ => sign * (1024.0 + fraction) * 2f32.powi(exponent - 25),
    }
}

fn list(names: &[&str]) -> String {
    match names {
        [] => "nothing".into(),
        names if names.len() > 12 => format!("{}, ... ({} in all)", names[..12].join(", "), names.len()),
        names => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> TensorFile {
        let mut file = TensorFile::new();
        file.insert_f32("w", &[2, 3], vec![1.0, -2.5, f32::MIN_POSITIVE, 0.0, f32::MAX, 3.0]);
        file.insert_f64("alpha", &[1], vec![0.1]);
        file.insert_u64("count", &[2], vec![u64::MAX, 1]);
        file.insert_i64("empty", &[0, 4], vec![]);
        file.metadata.insert("kind".into(), "unet".into());
        file.metadata.insert("config".into(), "{\"a\": \"\u{b5}\"}".into());
        file
    }

    #[test]
    fn round_trip_is_exact_and_repeatable() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        let file = example();
        file.write(&a).unwrap();
        let back = TensorFile::read(&a).unwrap();
        assert_eq!((&back.tensors, &back.metadata), (&file.tensors, &file.metadata));
        back.write(&b).unwrap();
        assert_eq!(std::fs::read(&a).unwrap(), std::fs::read(&b).unwrap());
        assert!(back.f64s("w").unwrap_err().to_string().contains("is F32, expected F64"));
        assert!(back.f32s("v").unwrap_err().to_string().contains("the file holds: alpha, count, empty, w"));
        assert!(back.text("card").is_err());
        assert_eq!(back.text("kind").unwrap(), "unet");
        let mut wrong = example();
        wrong.insert_f32("w", &[7], vec![0.0]);
        assert!(wrong.write(&a).is_err());
        assert_eq!(TensorFile::read(&a).unwrap().tensors, file.tensors, "a failed write leaves the old file");
    }

    /// The independent reader and writer of the safetensors crate agree with ours.
    #[test]
    fn half_precision_from_another_writer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("half");
        // 1.5, -2^-24 (subnormal), 65504 (largest), infinity.
        let f16: Vec<u8> = [0x3e00u16, 0x8001, 0x7bff, 0x7c00].iter().flat_map(|v| v.to_le_bytes()).collect();
        let bf16: Vec<u8> = [0x3fc0u16, 0xc000].iter().flat_map(|v| v.to_le_bytes()).collect();
        let views = [
            ("h", safetensors::tensor::TensorView::new(Dtype::F16, vec![4], &f16).unwrap()),
            ("b", safetensors::tensor::TensorView::new(Dtype::BF16, vec![2, 1], &bf16).unwrap()),
        ];
        std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
        let file = TensorFile::read(&path).unwrap();
        assert_eq!(file.f32s("h").unwrap().1, [1.5, -(2f32.powi(-24)), 65504.0, f32::INFINITY]);
        assert_eq!(file.f32s("b").unwrap(), (&[2, 1][..], &[1.5, -2.0][..]));
        let bools = [("flag", safetensors::tensor::TensorView::new(Dtype::BOOL, vec![2], &[0, 1]).unwrap())];
        std::fs::write(&path, safetensors::serialize(bools, None).unwrap()).unwrap();
        assert!(TensorFile::read(&path).unwrap_err().to_string().contains("BOOL"));
    }

    #[test]
    fn damage_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        example().write(&path).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let error = TensorFile::read(&path).unwrap_err().to_string();
            assert!(error.contains("not a whole safetensors file"), "{cut}: {error}");
        }
        for absurd in [u64::MAX, 1 << 62, whole.len() as u64 + 1] {
            let mut broken = whole.clone();
            broken[..8].copy_from_slice(&absurd.to_le_bytes());
            std::fs::write(&path, &broken).unwrap();
            assert!(TensorFile::read(&path).is_err());
        }
        let text = r#"{"w":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}"#;
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend(text.bytes());
        std::fs::write(&path, &bytes).unwrap();
        assert!(TensorFile::read(&path).is_err());
    }
}
