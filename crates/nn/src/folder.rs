use crate::{Error, ImageSource, Result};
use halation_io::{ImageStack, sha256_of_files};
use rayon::prelude::*;
use std::path::{Path, PathBuf};

/// The images of a folder, held in memory: a source for training. Pixel value v is seen by the network as
/// z = 2 (v - low) / (high - low) - 1.
pub struct ImageFolder {
    shape: [usize; 3],
    values: Vec<f32>,
    range: [f64; 2],
    description: String,
}

impl ImageFolder {
    /// Reads every PNG, TIFF, FITS and HDF5 file of the folder, in the order of their names; other files and subfolders are left out.
    /// `range` are low and high, the smallest and largest value of all images where it is not given.
    ///
    /// # Errors
    /// Names the file: no folder or no image in it, a file that cannot be read, images of different shapes or not square, values that are
    /// not finite or outside of `range`, or images of one value.
    pub fn open(folder: &Path, range: Option<[f64; 2]>) -> Result<Self> {
        if let Some([low, high]) = range.filter(|[low, high]| !(low < high && (high - low).is_finite())) {
            return Err(Error::Invalid(format!("the range is {low} to {high}, expected two increasing numbers")));
        }
        let paths = image_files(folder)?;
        // All results first: of several wrong files the first by name is told, whichever was read first.
        let stacks: Vec<Result<ImageStack>> = paths.par_iter().map(|path| checked(path, range)).collect();
        let stacks = stacks.into_iter().collect::<Result<Vec<_>>>()?;
        let shape = stacks[0].shape;
        if let Some(i) = stacks.iter().position(|s| s.shape != shape) {
            let (found, first) = (stacks[i].shape, paths[0].display());
            let problem =
                format!("has shape {found:?} (channel, y, x), expected {shape:?} as {first}; bring all images to one size");
            return Err(wrong(&paths[i], "image", problem));
        }
        if shape[1] != shape[2] {
            let problem = format!("is {} x {} pixels, expected a square; cut the images", shape[2], shape[1]);
            return Err(wrong(&paths[0], "image", problem));
        }
        let mut values: Vec<f32> = Vec::with_capacity(stacks.iter().map(|s| s.values.len()).sum());
        stacks.into_iter().for_each(|stack| values.extend(stack.values));
        let range = range.unwrap_or_else(|| {
            let low = values.iter().copied().fold(f32::INFINITY, f32::min);
            [low.into(), values.iter().copied().fold(f32::NEG_INFINITY, f32::max).into()]
        });
        let [low, high] = range;
        if low == high {
            return Err(wrong(
                folder,
                "images",
                format!("all pixels are {low}, expected images that differ; check how they were written"),
            ));
        }
        values.par_iter_mut().for_each(|v| *v = (2.0 * (*v as f64 - low) / (high - low) - 1.0) as f32);
        let images = values.len() / shape.iter().product::<usize>();
        let (files, hash) = (paths.len(), sha256_of_files(&paths)?);
        let description = format!("{images} images of {files} files, SHA-256 {hash}, values {low} to {high}");
        Ok(Self { shape, values, range, description })
    }

    /// The values that the network sees as -1 and 1.
    pub fn range(&self) -> [f64; 2] {
        self.range
    }
}

fn wrong(path: &Path, place: impl Into<String>, problem: impl Into<String>) -> Error {
    halation_io::Error::content(path, place, problem).into()
}

fn image_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let os = |source| Error::Io { path: folder.to_path_buf(), source };
    let entries: Vec<PathBuf> =
        std::fs::read_dir(folder).and_then(|entries| entries.map(|e| e.map(|e| e.path())).collect()).map_err(os)?;
    let mut paths: Vec<PathBuf> = entries.iter().filter(|p| p.is_file() && ImageStack::is_known(p)).cloned().collect();
    if paths.is_empty() {
        let problem = format!("found no image among {} entries, expected files {}", entries.len(), ImageStack::names());
        return Err(wrong(folder, "folder", problem));
    }
    paths.sort();
    Ok(paths)
}

/// Reads a file and refuses values that training cannot use.
fn checked(path: &Path, range: Option<[f64; 2]>) -> Result<ImageStack> {
    let stack = ImageStack::read(path)?;
    let [low, high] = range.unwrap_or([f32::MIN.into(), f32::MAX.into()]);
    let Some(i) = stack.values.iter().position(|v| !(low..=high).contains(&(*v as f64))) else { return Ok(stack) };
    let [c, h, w] = stack.shape;
    let place = format!("image {}, channel {}, row {}, column {}", i / (c * h * w), i / (h * w) % c, i / w % h, i % w);
    let found = stack.values[i];
    let expected = match range {
        Some(_) => format!("{low} to {high}; give a wider range or correct the image"),
        None => "a finite number; replace what is missing or leave the image out".into(),
    };
    Err(wrong(path, place, format!("value {found}, expected {expected}")))
}

impl ImageSource for ImageFolder {
    fn describe(&self) -> String {
        self.description.clone()
    }

    fn item_shape(&self) -> [usize; 3] {
        self.shape
    }

    fn len(&self) -> Option<u64> {
        Some((self.values.len() / self.shape.iter().product::<usize>()) as u64)
    }

    fn fill(&self, index: u64, out: &mut [f32]) -> Result<()> {
        out.copy_from_slice(&self.values[index as usize * out.len()..][..out.len()]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use halation_io::write_png_gray;

    #[track_caller]
    fn refused(folder: &Path, range: Option<[f64; 2]>, says: &[&str]) {
        let message = ImageFolder::open(folder, range).err().unwrap().to_string();
        says.iter().for_each(|s| assert!(message.contains(s), "{s:?} is not in {message:?}"));
    }

    #[test]
    fn images_come_in_the_order_of_names_between_minus_one_and_one() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        refused(folder.path(), None, &["found no image among 0 entries", "*.png"]);
        refused(&at("absent"), None, &["absent"]);
        write_png_gray(&at("b.png"), 2, 2, &[0, 50, 100, 200]).unwrap();
        write_png_gray(&at("a.png"), 2, 2, &[200, 200, 200, 100]).unwrap();
        std::fs::write(at("notes.txt"), "not an image").unwrap();
        let open = |range| ImageFolder::open(folder.path(), range).unwrap();
        let source = open(None);
        assert_eq!((source.item_shape(), source.len(), source.range()), ([3, 2, 2], Some(2), [0.0, 200.0]));
        let mut image = [0.0; 12];
        source.fill(0, &mut image).unwrap();
        assert_eq!(image[..4], [1.0, 1.0, 1.0, 0.0]);
        source.fill(1, &mut image).unwrap();
        assert_eq!(image[8..], [-1.0, -0.5, 0.0, 1.0]);
        // What a run is resumed by changes with range and contents.
        let said = source.describe();
        assert!(said.starts_with("2 images of 2 files, SHA-256 ") && said.ends_with("values 0 to 200"), "{said}");
        assert_ne!(open(Some([0.0, 400.0])).describe(), said);
        write_png_gray(&at("a.png"), 2, 2, &[200, 200, 200, 101]).unwrap();
        assert_ne!(open(None).describe(), said);

        refused(folder.path(), Some([0.0, 150.0]), &["a.png", "image 0, channel 0, row 0, column 0", "value 200", "0 to 150"]);
        refused(folder.path(), Some([1.0, 1.0]), &["1 to 1", "increasing"]);
        write_png_gray(&at("c.png"), 1, 1, &[7]).unwrap();
        refused(folder.path(), None, &["c.png", "[3, 1, 1]", "[3, 2, 2]", "a.png"]);
        std::fs::write(at("c.png"), "damaged").unwrap();
        refused(folder.path(), None, &["c.png", "not a readable PNG"]);
    }

    #[test]
    fn what_cannot_be_trained_on_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        write_png_gray(&path, 2, 1, &[1, 2]).unwrap();
        refused(folder.path(), None, &["a.png", "2 x 1", "square"]);
        write_png_gray(&path, 1, 1, &[5]).unwrap();
        refused(folder.path(), None, &["all pixels are 5"]);
    }
}
