use super::{first_line, without_lock};
use crate::{Error, Result};
use hdf5::types::{VarLenAscii, VarLenUnicode};
use hdf5::{Group, H5Type};
use hdf5_sys::h5::herr_t;
use hdf5_sys::h5i::hid_t;
use ndarray::ArrayD;
use std::ffi::{CStr, c_char, c_uint, c_void};
use std::path::{Path, PathBuf};

type ScaleVisitor = unsafe extern "C" fn(dataset: hid_t, dimension: c_uint, scale: hid_t, data: *mut c_void) -> herr_t;

// From the HDF5 High Level library, which the bindings link but do not declare.
unsafe extern "C" {
    fn H5DSget_scale_name(dataset: hid_t, name: *mut c_char, size: usize) -> isize;
    fn H5DSis_scale(dataset: hid_t) -> i32;
    fn H5DSiterate_scales(dataset: hid_t, dimension: c_uint, from: *mut i32, visit: ScaleVisitor, data: *mut c_void) -> herr_t;
}

/// An HDF5 file open for reading. Sizes are checked before memory is taken.
#[derive(Debug)]
pub struct H5Reader {
    path: PathBuf,
    file: hdf5::File,
    bytes: u64,
}

impl H5Reader {
    /// Opens `path`.
    ///
    /// # Errors
    /// The file is missing, no HDF5 file, or cut short.
    pub fn open(path: &Path) -> Result<Self> {
        let meta = std::fs::metadata(path).map_err(|e| Error::os(path, e))?;
        if !meta.is_file() {
            return Err(Error::content(path, "file", "is not a regular file, expected an HDF5 file"));
        }
        let file = hdf5::File::with_options()
            .with_fapl(without_lock)
            .open(path)
            .map_err(|e| Error::content(path, "file", format!("not a readable HDF5 file, or truncated ({})", first_line(&e))))?;
        Ok(Self { path: path.to_path_buf(), file, bytes: meta.len() })
    }

    /// The file's name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a group or dataset `name` exists.
    pub fn has(&self, name: &str) -> bool {
        let mut at: Group = match self.file.group("/") {
            Ok(root) => root,
            Err(_) => return false,
        };
        let parts: Vec<&str> = name.split('/').filter(|p| !p.is_empty()).collect();
        for (i, part) in parts.iter().enumerate() {
            if !at.link_exists(part) {
                return false;
            }
            if i + 1 < parts.len() {
                match at.group(part) {
                    Ok(next) => at = next,
                    Err(_) => return false,
                }
            }
        }
        true
    }

    /// Names of the datasets of a group, sorted.
    ///
    /// # Errors
    /// There is no such group.
    pub fn datasets(&self, group: &str) -> Result<Vec<String>> {
        let found = self.file.group(group).and_then(|g| g.datasets()).map_err(|e| self.wrong(group, "group", &e))?;
        let mut names: Vec<String> = found.iter().filter_map(|d| d.name().rsplit('/').next().map(str::to_string)).collect();
        names.sort();
        Ok(names)
    }

    /// The shape of dataset `name`.
    ///
    /// # Errors
    /// There is no such dataset.
    pub fn shape(&self, name: &str) -> Result<Vec<usize>> {
        Ok(self.dataset(name)?.shape())
    }

    /// Dataset `name` as f64; integers and f32 are converted.
    ///
    /// # Errors
    /// It is missing, not numeric, larger than the file can hold, or cannot be read.
    pub fn f64s(&self, name: &str) -> Result<ArrayD<f64>> {
        self.read(name)
    }

    /// Dataset `name` as f32.
    ///
    /// # Errors
    /// As [`H5Reader::f64s`].
    pub fn f32s(&self, name: &str) -> Result<ArrayD<f32>> {
        self.read(name)
    }

    /// Dataset `name` as strings.
    ///
    /// # Errors
    /// It is missing, holds no variable-length strings, or cannot be read.
    pub fn texts(&self, name: &str) -> Result<Vec<String>> {
        let dataset = self.dataset(name)?;
        self.check_size(name, &dataset.shape(), 1)?;
        let values: Vec<VarLenUnicode> = dataset.read_raw().map_err(|e| self.wrong(name, "strings", &e))?;
        Ok(values.iter().map(|v| v.as_str().to_string()).collect())
    }

    /// Names of the dimensions of dataset `name`, from the scales attached to it; empty where there is none.
    ///
    /// # Errors
    /// There is no such dataset.
    pub fn dims(&self, name: &str) -> Result<Vec<String>> {
        let dataset = self.dataset(name)?;
        let mut names = vec![String::new(); dataset.ndim()];
        let _lock = hdf5_sys::LOCK.lock();
        for (i, name) in names.iter_mut().enumerate() {
            // SAFETY: the dataset is open, the visitor matches H5DS_iterate_t and writes to `name`, which outlives the call. A
            // dimension without scales makes the call return without visiting.
            unsafe {
                H5DSiterate_scales(dataset.id(), i as c_uint, std::ptr::null_mut(), visit_scale, (name as *mut String).cast())
            };
        }
        Ok(names)
    }

    /// The label of a dimension scale (netCDF marks dimensions without coordinates there); empty where there is none.
    ///
    /// # Errors
    /// There is no such dataset.
    pub fn scale_name(&self, name: &str) -> Result<String> {
        let dataset = self.dataset(name)?;
        let mut label = [0 as c_char; 256];
        let _lock = hdf5_sys::LOCK.lock();
        // SAFETY: the dataset is open; one byte less than the buffer's length is offered, so a zero byte always ends it.
        let length = unsafe { H5DSget_scale_name(dataset.id(), label.as_mut_ptr(), label.len() - 1) };
        // SAFETY: as above.
        Ok(if length > 0 { unsafe { CStr::from_ptr(label.as_ptr()) }.to_string_lossy().into_owned() } else { String::new() })
    }

    /// Whether dataset `name` is a dimension scale.
    ///
    /// # Errors
    /// There is no such dataset.
    pub fn is_scale(&self, name: &str) -> Result<bool> {
        let dataset = self.dataset(name)?;
        let _lock = hdf5_sys::LOCK.lock();
        // SAFETY: the dataset is open.
        Ok(unsafe { H5DSis_scale(dataset.id()) } > 0)
    }

    /// Attribute `name` of object `at` (a group or a dataset) as numbers.
    ///
    /// # Errors
    /// It is missing, not numeric or of absurd size.
    pub fn attribute_f64s(&self, at: &str, name: &str) -> Result<Option<Vec<f64>>> {
        let place = format!("attribute {name} of {at}");
        let Some(attribute) = self.attribute(at, name)? else { return Ok(None) };
        self.check_size(&place, &attribute.shape(), 8)?;
        attribute.read_raw().map(Some).map_err(|e| self.wrong(&place, "numbers", &e))
    }

    /// Attribute `name` of object `at` as a string.
    ///
    /// # Errors
    /// It is not a variable-length string.
    pub fn attribute_text(&self, at: &str, name: &str) -> Result<Option<String>> {
        let place = format!("attribute {name} of {at}");
        let Some(attribute) = self.attribute(at, name)? else { return Ok(None) };
        attribute
            .read_scalar::<VarLenUnicode>()
            .map(|v| v.as_str().to_string())
            .or_else(|_| attribute.read_scalar::<VarLenAscii>().map(|v| v.as_str().to_string()))
            .map(Some)
            .map_err(|e| self.wrong(&place, "a string", &e))
    }

    /// Names of the attributes of object `at`.
    ///
    /// # Errors
    /// There is no such object.
    pub fn attributes(&self, at: &str) -> Result<Vec<String>> {
        self.location(at).and_then(|l| l.attr_names()).map_err(|e| self.wrong(at, "group or dataset", &e))
    }

    fn location(&self, at: &str) -> hdf5::Result<hdf5::Location> {
        match self.file.group(at) {
            Ok(group) => Ok((*group).clone()),
            Err(_) => self.file.dataset(at).map(|d| (**d).clone()),
        }
    }

    fn attribute(&self, at: &str, name: &str) -> Result<Option<hdf5::Attribute>> {
        let location = self.location(at).map_err(|e| self.wrong(at, "group or dataset", &e))?;
        let names = location.attr_names().map_err(|e| self.wrong(at, "attributes", &e))?;
        if !names.iter().any(|n| n == name) {
            return Ok(None);
        }
        location.attr(name).map(Some).map_err(|e| self.wrong(&format!("attribute {name} of {at}"), "a readable attribute", &e))
    }

    fn dataset(&self, name: &str) -> Result<hdf5::Dataset> {
        if !self.has(name) {
            let held = self.file.member_names().unwrap_or_default().join(", ");
            return Err(Error::content(&self.path, format!("dataset {name}"), format!("is missing; the file holds: {held}")));
        }
        self.file.dataset(name).map_err(|e| self.wrong(&format!("dataset {name}"), "a readable dataset", &e))
    }

    fn read<T: H5Type>(&self, name: &str) -> Result<ArrayD<T>> {
        let dataset = self.dataset(name)?;
        self.check_size(name, &dataset.shape(), size_of::<T>())?;
        dataset.read_dyn().map_err(|e| self.wrong(&format!("dataset {name}"), "numbers that can be read", &e))
    }

    /// Deflate shrinks at most 1032-fold, so a file of n bytes holds no more than that; whatever claims more is corrupt.
    fn check_size(&self, place: &str, shape: &[usize], size: usize) -> Result<()> {
        let claimed = shape.iter().try_fold(size as u64, |n, d| n.checked_mul(*d as u64));
        if claimed.is_none_or(|n| n > self.bytes.saturating_mul(1032)) {
            return Err(Error::content(
                &self.path,
                place,
                format!(
                    "claims shape {shape:?}, more than a file of {} bytes can hold; it is corrupt or was never written",
                    self.bytes
                ),
            ));
        }
        Ok(())
    }

    fn wrong(&self, place: &str, expected: &str, error: &hdf5::Error) -> Error {
        Error::content(&self.path, place, format!("expected {expected} ({})", first_line(error)))
    }
}

unsafe extern "C" fn visit_scale(_: hid_t, _: c_uint, scale: hid_t, data: *mut c_void) -> herr_t {
    let mut buffer = [0 as c_char; 512];
    // SAFETY: the buffer's length is passed; HDF5 ends the name with a zero byte.
    let name = unsafe {
        if hdf5_sys::h5i::H5Iget_name(scale, buffer.as_mut_ptr(), buffer.len()) <= 0 {
            return 0;
        }
        CStr::from_ptr(buffer.as_ptr()).to_string_lossy()
    };
    // SAFETY: `data` is the String that `H5Reader::dims` passed.
    let out = unsafe { &mut *data.cast::<String>() };
    *out = name.rsplit('/').next().unwrap_or_default().to_string();
    1
}
