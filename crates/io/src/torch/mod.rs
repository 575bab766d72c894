//! Tensors in the files of PyTorch's `torch.save`: a zip archive of a pickle, which says what there is, and of the numbers.

mod pickle;
#[cfg(test)]
mod tests;
mod zip;

use crate::tensors::{each, half_to_f32};
use crate::{Error, NamedTensor, Result, TensorFile, TensorValues};
use pickle::{Heap, Strided, Type, Value};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Depth to which tensors are looked for: {ema: {shadow_params: [...]}} is two.
const DEPTH: usize = 3;

/// A file of `torch.save`, opened: dictionaries of tensors by their keys, without the code that made them.
pub struct TorchFile {
    path: PathBuf,
    bytes: Vec<u8>,
    entries: BTreeMap<String, Range<usize>>,
    /// Folder of all entries, with its slash.
    folder: String,
    root: Value,
    heap: Heap,
}

/// Whether `path` begins like a zip archive.
///
/// # Errors
/// The file cannot be read.
pub fn is_torch_file(path: &Path) -> Result<bool> {
    use std::io::Read;
    let mut start = Vec::new();
    std::fs::File::open(path).and_then(|f| f.take(4).read_to_end(&mut start)).map_err(|e| Error::os(path, e))?;
    Ok(start == b"PK\x03\x04")
}

impl TorchFile {
    /// Reads the file and what its pickle says; no code runs.
    ///
    /// # Errors
    /// The file cannot be read, is no whole archive, or its pickle names anything but tensors, dictionaries and plain values.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::os(path, e))?;
        let fail = |place: &str, problem: String| Error::content(path, place, problem);
        let entries = zip::entries(&bytes).map_err(|e| fail("archive", e))?;
        let Some((pickle, at)) = entries.iter().find(|(name, _)| name.ends_with("data.pkl")) else {
            return Err(fail("archive", "holds no data.pkl, expected a file of torch.save (not of torch.jit.save)".into()));
        };
        let folder = pickle.trim_end_matches("data.pkl").to_string();
        if entries.get(&format!("{folder}byteorder")).is_some_and(|at| bytes[at.clone()].starts_with(b"big")) {
            return Err(fail("byteorder", "is big, expected little; save the file on a little-endian machine".into()));
        }
        let (root, heap) = pickle::parse(&bytes[at.clone()]).map_err(|e| fail(pickle, e))?;
        Ok(Self { path: path.to_path_buf(), bytes, entries, folder, root, heap })
    }

    /// Keys under which the file holds dictionaries or lists with tensors, dots between those of nested ones; "" is the whole file.
    pub fn groups(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.collect(&self.root, "", &mut found);
        found
    }

    fn collect(&self, value: &Value, group: &str, found: &mut Vec<String>) {
        let members = self.heap.members(value);
        if members.iter().any(|(_, v)| matches!(v, Value::Tensor(_))) {
            found.push(group.to_string());
        }
        let depth = group.split('.').filter(|k| !k.is_empty()).count();
        for (name, value) in members.iter().filter(|(name, _)| depth < DEPTH && !name.contains('.')) {
            let inner = if group.is_empty() { name.clone() } else { format!("{group}.{name}") };
            self.collect(value, &inner, found);
        }
    }

    /// The tensors of the dictionary or list at `group`, one of [`TorchFile::groups`], in the order of the file; elements of a list are
    /// named 0, 1, and so on. Other values are left out.
    ///
    /// # Errors
    /// There is no such group, or a tensor's numbers are missing.
    pub fn tensors(&self, group: &str) -> Result<Vec<(String, NamedTensor)>> {
        let mut value = &self.root;
        for key in group.split('.').filter(|k| !k.is_empty()) {
            value = self.heap.members(value).into_iter().find(|(name, _)| name == key).map(|(_, v)| v).ok_or_else(|| {
                let held = self.groups().join(", ");
                Error::content(&self.path, format!("key {group}"), format!("is missing; tensors are under: {held}"))
            })?;
        }
        let mut found = Vec::new();
        for (name, value) in self.heap.members(value) {
            if let Value::Tensor(tensor) = value {
                let tensor = self.tensor(tensor).map_err(|e| Error::content(&self.path, format!("tensor {name}"), e))?;
                found.push((name, tensor));
            }
        }
        Ok(found)
    }

    /// Tensors of this file to be found by their names.
    pub fn tensor_file(&self, tensors: Vec<(String, NamedTensor)>) -> TensorFile {
        TensorFile { path: self.path.clone(), tensors: tensors.into_iter().collect(), ..TensorFile::default() }
    }

    fn tensor(&self, view: &Strided) -> std::result::Result<NamedTensor, String> {
        let entry = format!("{}data/{}", self.folder, view.storage.key);
        let range = self.entries.get(&entry).ok_or_else(|| format!("its entry {entry} is missing; the file is damaged"))?;
        let bytes = &self.bytes[range.clone()];
        let size = view.storage.kind.size();
        let places = places(view, bytes.len() / size)?;
        let picked: Vec<u8> = places.iter().flat_map(|at| &bytes[at * size..(at + 1) * size]).copied().collect();
        let values = match view.storage.kind {
            Type::F64 => TensorValues::F64(each(&picked, f64::from_le_bytes)),
            Type::F32 => TensorValues::F32(each(&picked, f32::from_le_bytes)),
            Type::F16 => TensorValues::F32(each(&picked, |b| half_to_f32(u16::from_le_bytes(b)))),
            Type::Bf16 => TensorValues::F32(each(&picked, |b: [u8; 2]| f32::from_bits((u16::from_le_bytes(b) as u32) << 16))),
            Type::I64 => TensorValues::I64(each(&picked, i64::from_le_bytes)),
            Type::I32 => TensorValues::I64(each(&picked, |b| i32::from_le_bytes(b) as i64)),
            Type::U8 => TensorValues::U64(each(&picked, |b: [u8; 1]| b[0] as u64)),
        };
        Ok(NamedTensor { shape: view.shape.clone(), values })
    }
}

impl Type {
    fn size(self) -> usize {
        match self {
            Type::F64 | Type::I64 => 8,
            Type::F32 | Type::I32 => 4,
            Type::F16 | Type::Bf16 => 2,
            Type::U8 => 1,
        }
    }
}

/// Where in a storage of `len` numbers the elements of a view lie, row-major.
fn places(view: &Strided, len: usize) -> std::result::Result<Vec<usize>, String> {
    let Strided { offset, shape, stride, .. } = view;
    let damaged =
        || format!("shape {shape:?}, stride {stride:?} and offset {offset} do not fit its {len} numbers; the file is damaged");
    let count = shape.iter().try_fold(1usize, |n, s| n.checked_mul(*s)).filter(|n| *n <= len && shape.len() == stride.len());
    let mut places = vec![*offset];
    if count.ok_or_else(damaged)? == 0 {
        return Ok(Vec::new());
    }
    for (size, stride) in shape.iter().copied().zip(stride.iter().copied()) {
        let along = |place: &usize| {
            let place = *place;
            (0..size).map(move |i: usize| i.checked_mul(stride)?.checked_add(place))
        };
        places = places.iter().flat_map(along).collect::<Option<_>>().ok_or_else(damaged)?;
    }
    if places.iter().any(|at| *at >= len) { Err(damaged()) } else { Ok(places) }
}
