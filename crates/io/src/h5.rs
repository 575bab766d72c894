//! HDF5 in and out, with dimension scales, so that netCDF4 readers (xarray) find named dimensions and coordinates.
//!
//! HDF5 holds one global lock, so calls from several threads run one after another.

mod reader;

pub use reader::H5Reader;

use crate::{Error, Result};
use hdf5::H5Type;
use hdf5::plist::file_access::FileAccessBuilder;
use hdf5::types::VarLenUnicode;
use hdf5_sys::h5::herr_t;
use hdf5_sys::h5i::hid_t;
use ndarray::ArrayViewD;
use std::ffi::{CString, c_char, c_uint};
use std::path::{Path, PathBuf};
use std::str::FromStr;

// The dimension-scale calls of the HDF5 High Level library, which the bindings link but do not declare.
unsafe extern "C" {
    fn H5DSset_scale(dataset: hid_t, name: *const c_char) -> herr_t;
    fn H5DSattach_scale(dataset: hid_t, scale: hid_t, dimension: c_uint) -> herr_t;
}

fn first_line(error: &hdf5::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_string()
}

/// What [`H5Writer`] says of a dataset besides its values.
#[derive(Clone, Copy, Debug, Default)]
pub struct Described<'a> {
    /// Attribute `units`, left out when empty.
    pub unit: &'a str,
    /// Attribute `long_name`, left out when empty.
    pub description: &'a str,
}

/// HDF5 locks the files that it opens. Ours are written under another name and renamed when whole, so a lock guards nothing; it does harm where a
/// process started meanwhile inherits it, and on network file systems that have none.
fn without_lock(access: &mut FileAccessBuilder) -> &mut FileAccessBuilder {
    access.file_locking(false)
}

/// An HDF5 file being written. Use it inside [`crate::write_whole_with`], so that a half-written file is never seen.
#[derive(Debug)]
pub struct H5Writer {
    path: PathBuf,
    file: hdf5::File,
}

impl H5Writer {
    /// Creates `path`, replacing what is there.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn create(path: &Path) -> Result<Self> {
        let file = hdf5::File::with_options().with_fapl(without_lock).create(path).map_err(|e| wrong(path, "file", &e))?;
        Ok(Self { path: path.to_path_buf(), file })
    }

    /// Creates group `name` (and its parents).
    ///
    /// # Errors
    /// It exists, or the disk is full.
    pub fn group(&self, name: &str) -> Result<()> {
        self.file.create_group(name).map(|_| ()).map_err(|e| wrong(&self.path, name, &e))
    }

    /// Sets a string attribute of group or dataset `at`.
    ///
    /// # Errors
    /// There is no such object, or the disk is full.
    pub fn attribute_text(&self, at: &str, name: &str, value: &str) -> Result<()> {
        let place = format!("attribute {name} of {at}");
        // A zero byte would end the string in C.
        let value = VarLenUnicode::from_str(&value.replace('\0', " "))
            .map_err(|e| Error::content(&self.path, place.clone(), e.to_string()))?;
        self.location(at)
            .and_then(|l| l.new_attr::<VarLenUnicode>().create(name))
            .and_then(|a| a.write_scalar(&value))
            .map_err(|e| wrong(&self.path, &place, &e))
    }

    /// Sets a numeric attribute: a scalar for one value, else a list.
    ///
    /// # Errors
    /// As [`H5Writer::attribute_text`].
    pub fn attribute_f64s(&self, at: &str, name: &str, values: &[f64]) -> Result<()> {
        let write = || {
            let location = self.location(at)?;
            match values {
                [value] => location.new_attr::<f64>().create(name)?.write_scalar(value),
                _ => location.new_attr_builder().with_data(values).create(name).map(|_| ()),
            }
        };
        write().map_err(|e| wrong(&self.path, &format!("attribute {name} of {at}"), &e))
    }

    /// A dimension with numeric coordinates: dataset `name` of `group`, made a dimension scale.
    ///
    /// # Errors
    /// The name is taken, or the disk is full.
    pub fn coordinate(&self, group: &str, name: &str, values: &[f64], described: Described) -> Result<()> {
        let at = self.put(group, name, &ndarray::ArrayView1::from(values).into_dyn(), &[], described)?;
        self.make_scale(&at, name)
    }

    /// A dimension that counts 0, 1, 2, ...
    ///
    /// # Errors
    /// As [`H5Writer::coordinate`].
    pub fn index(&self, group: &str, name: &str, length: usize) -> Result<()> {
        let values: Vec<i64> = (0..length as i64).collect();
        let at = self.put(group, name, &ndarray::ArrayView1::from(&values).into_dyn(), &[], Described::default())?;
        self.make_scale(&at, name)
    }

    /// A dimension whose coordinates are names.
    ///
    /// # Errors
    /// As [`H5Writer::coordinate`].
    pub fn labels(&self, group: &str, name: &str, values: &[String]) -> Result<()> {
        let place = format!("{group}/{name}");
        let texts =
            values.iter().map(|v| VarLenUnicode::from_str(&v.replace('\0', " "))).collect::<std::result::Result<Vec<_>, _>>();
        let texts = texts.map_err(|e| Error::content(&self.path, place.clone(), e.to_string()))?;
        let made = self.file.group(group).and_then(|g| g.new_dataset_builder().with_data(&texts).create(name));
        made.map_err(|e| wrong(&self.path, &place, &e))?;
        self.make_scale(&place, name)
    }

    /// A dimension without coordinates, as netCDF4 writes it.
    ///
    /// # Errors
    /// As [`H5Writer::coordinate`].
    pub fn dimension(&self, group: &str, name: &str, length: usize) -> Result<()> {
        let place = format!("{group}/{name}");
        let made = self.file.group(group).and_then(|g| g.new_dataset::<f32>().shape(length).create(name));
        made.map_err(|e| wrong(&self.path, &place, &e))?;
        self.make_scale(&place, &format!("This is a netCDF dimension but not a netCDF variable. {length:>9}"))
    }

    /// An f32 dataset whose dimensions are scales of the same group, compressed, one draw of an image to a chunk.
    ///
    /// # Errors
    /// A dimension is missing, the name is taken, or the disk is full.
    pub fn f32s(&self, group: &str, name: &str, values: &ArrayViewD<f32>, dims: &[&str], described: Described) -> Result<()> {
        self.put(group, name, values, dims, described).map(|_| ())
    }

    /// As [`H5Writer::f32s`] for f64.
    ///
    /// # Errors
    /// As [`H5Writer::f32s`].
    pub fn f64s(&self, group: &str, name: &str, values: &ArrayViewD<f64>, dims: &[&str], described: Described) -> Result<()> {
        self.put(group, name, values, dims, described).map(|_| ())
    }

    /// Puts everything on the disk. Without it, errors of the last writes (a full disk) would go unseen.
    ///
    /// # Errors
    /// The disk is full.
    pub fn finish(self) -> Result<()> {
        self.file.flush().map_err(|e| wrong(&self.path, "file", &e))?;
        self.file.close().map_err(|e| wrong(&self.path, "file", &e))
    }

    fn put<T: H5Type + Clone>(
        &self,
        group: &str,
        name: &str,
        values: &ArrayViewD<T>,
        dims: &[&str],
        described: Described,
    ) -> Result<String> {
        let place = format!("{group}/{name}");
        if !dims.is_empty() && dims.len() != values.ndim() {
            return Err(Error::content(
                &self.path,
                place,
                format!("has {} axes but {} dimension names ({})", values.ndim(), dims.len(), dims.join(", ")),
            ));
        }
        let write = || {
            let builder = self.file.group(group)?.new_dataset_builder();
            let dataset = match chunk_shape(values.shape()) {
                Some(chunk) => {
                    let builder = builder.chunk(chunk).shuffle().deflate(4);
                    let dataset = builder.empty::<T>().shape(values.shape()).create(name)?;
                    // Copies only an array that is not in row-major order.
                    dataset.write(values.as_standard_layout().view())?;
                    dataset
                }
                None => builder.with_data(values.as_standard_layout().view()).create(name)?,
            };
            for (i, dim) in dims.iter().enumerate() {
                let scale = self.file.dataset(&format!("{group}/{dim}"))?;
                let _lock = hdf5_sys::LOCK.lock();
                // SAFETY: both datasets are open and `i` is below the dataset's rank.
                if unsafe { H5DSattach_scale(dataset.id(), scale.id(), i as c_uint) } < 0 {
                    return Err(hdf5::Error::from(format!("the dimension scale {dim} of axis {i} cannot be attached")));
                }
            }
            Ok(())
        };
        write().map_err(|e| wrong(&self.path, &place, &e))?;
        for (key, value) in [("units", described.unit), ("long_name", described.description)] {
            if !value.is_empty() {
                self.attribute_text(&place, key, value)?;
            }
        }
        Ok(place)
    }

    fn make_scale(&self, at: &str, label: &str) -> Result<()> {
        let dataset = self.file.dataset(at).map_err(|e| wrong(&self.path, at, &e))?;
        let label = CString::new(label).map_err(|e| Error::content(&self.path, at, e.to_string()))?;
        let _lock = hdf5_sys::LOCK.lock();
        // SAFETY: the dataset is open and the label ends with a zero byte.
        if unsafe { H5DSset_scale(dataset.id(), label.as_ptr()) } < 0 {
            return Err(Error::content(&self.path, at, "cannot be made a dimension scale"));
        }
        Ok(())
    }

    fn location(&self, at: &str) -> hdf5::Result<hdf5::Location> {
        match self.file.group(at) {
            Ok(group) => Ok((*group).clone()),
            Err(_) => self.file.dataset(at).map(|d| (**d).clone()),
        }
    }
}

fn wrong(path: &Path, place: &str, error: &hdf5::Error) -> Error {
    Error::content(path, place, format!("cannot be written ({}); check the free space", first_line(error)))
}

/// Whole trailing axes up to about a million elements; none for arrays too small to be worth it.
fn chunk_shape(shape: &[usize]) -> Option<Vec<usize>> {
    const MOST: usize = 1 << 20;
    if shape.iter().product::<usize>() < 4096 {
        return None;
    }
    let mut chunk = vec![1; shape.len()];
    let mut size = 1;
    // The first two axes of draws stay apart, so that reading one draw costs one chunk.
    let apart = if shape.len() >= 3 { shape.len() - 2 } else { 0 };
    for i in (apart..shape.len()).rev() {
        chunk[i] = shape[i].min((MOST / size).max(1)).max(1);
        size *= chunk[i];
        if chunk[i] < shape[i] {
            break;
        }
    }
    Some(chunk)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::ArrayD;

    #[test]
    fn chunks_hold_one_draw_and_stay_small() {
        assert_eq!(chunk_shape(&[1, 20, 1, 64, 64]), Some(vec![1, 1, 1, 64, 64]));
        assert_eq!(chunk_shape(&[2, 5, 3, 5000, 2000]), Some(vec![1, 1, 1, 524, 2000]));
        assert_eq!(chunk_shape(&[10]), None);
        assert_eq!(chunk_shape(&[5_000_000]), Some(vec![1 << 20]));
        assert_eq!(chunk_shape(&[0, 7]), None);
    }

    #[test]
    fn values_dims_and_attributes_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.h5");
        let x = ArrayD::from_shape_fn(vec![3, 2], |i| (i[0] * 10 + i[1]) as f32);
        let w = H5Writer::create(&path).unwrap();
        w.group("g").unwrap();
        w.labels("g", "name", &["a".into(), "\u{b5}as".into()]).unwrap();
        w.index("g", "draw", 3).unwrap();
        w.f32s("g", "x", &x.view(), &["draw", "name"], Described { unit: "Jy/pixel", description: "what" }).unwrap();
        w.f32s("g", "t", &x.t().into_dyn(), &["name", "draw"], Described::default()).unwrap();
        w.attribute_f64s("g/x", "level", &[0.5]).unwrap();
        w.attribute_f64s("/", "list", &[1.0, 2.0]).unwrap();
        w.attribute_text("/", "command", "halation \u{2026}").unwrap();
        assert!(w.f32s("g", "y", &x.view(), &["draw"], Described::default()).is_err());
        assert!(w.f32s("g", "z", &x.view(), &["draw", "nothing"], Described::default()).is_err());
        w.finish().unwrap();
        let r = H5Reader::open(&path).unwrap();
        assert_eq!(r.f32s("g/x").unwrap(), x);
        assert_eq!(r.f32s("g/t").unwrap(), x.t());
        assert_eq!(r.dims("g/x").unwrap(), ["draw", "name"]);
        assert_eq!(r.texts("g/name").unwrap(), ["a", "\u{b5}as"]);
        assert_eq!(r.attribute_text("g/x", "units").unwrap().as_deref(), Some("Jy/pixel"));
        assert_eq!(r.attribute_f64s("g/x", "level").unwrap(), Some(vec![0.5]));
        assert_eq!(r.attribute_f64s("/", "list").unwrap(), Some(vec![1.0, 2.0]));
        assert_eq!(r.attribute_text("/", "command").unwrap().as_deref(), Some("halation \u{2026}"));
        assert_eq!(r.attribute_text("/", "nothing").unwrap(), None);
        assert!(r.has("g/x") && !r.has("g/q") && !r.has("q/x") && !r.has("g/x/y"));
        assert!(r.f64s("g/name").unwrap_err().to_string().contains("expected numbers"));
        assert!(r.f64s("q").unwrap_err().to_string().contains("is missing"));
        assert!(r.f64s("g").is_err());
    }

    /// A lock that another process still holds (one that was started while the file was written inherits it) is no reason not to read.
    #[test]
    fn a_locked_file_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.h5");
        H5Writer::create(&path).unwrap().finish().unwrap();
        let holder = std::fs::File::open(&path).unwrap();
        holder.lock().unwrap();
        H5Reader::open(&path).unwrap();
        H5Writer::create(&path).unwrap();
    }
}
