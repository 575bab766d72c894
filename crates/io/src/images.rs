//! Images as plain numbers, from the formats in which laboratories keep them.

use crate::sky::read_plane;
use crate::{Error, H5Reader, Result};
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use tiff::decoder::{Decoder, DecodingResult};

/// The images of one file, all of one shape.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageStack {
    /// (channel, y, x), rows in the order of the file.
    pub shape: [usize; 3],
    /// Image after image, in the values of the file: integers are not scaled.
    pub values: Vec<f32>,
}

/// Pixels along one side beyond which a header is taken to be damaged.
const LARGEST_SIDE: usize = 1 << 14;

/// Name of the HDF5 dataset that is read where a file has several.
const DATASET: &str = "images";

type Read = fn(&Path) -> Result<ImageStack>;

const FORMATS: [(&[&str], Read); 4] =
    [(&["png"], read_png), (&["tif", "tiff"], read_tiff), (&["fits", "fit", "fts"], read_fits), (&["h5", "hdf5"], read_hdf5)];

fn reader_of(path: &Path) -> Option<Read> {
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    FORMATS.iter().find(|(names, _)| names.contains(&extension.as_str())).map(|(_, read)| *read)
}

impl ImageStack {
    /// Whether the name of a file says that [`ImageStack::read`] knows its format.
    pub fn is_known(path: &Path) -> bool {
        reader_of(path).is_some()
    }

    /// Reads PNG (gray or RGB), TIFF (gray or RGB, each page an image), FITS (the first image of two axes) or HDF5 (a dataset of shape
    /// (y, x), (image, y, x) or (image, channel, y, x): the only one, or that called `images`).
    ///
    /// # Errors
    /// Another format, a damaged file, transparency, pages of different sizes, or a dataset of another shape.
    pub fn read(path: &Path) -> Result<Self> {
        match reader_of(path) {
            Some(read) => read(path),
            None => {
                let problem = format!("is not called as an image, expected {}; convert it or rename it", Self::names());
                Err(Error::content(path, "file", problem))
            }
        }
    }

    /// The endings of names that are known, for messages.
    pub fn names() -> String {
        FORMATS.iter().flat_map(|(names, _)| *names).map(|name| format!("*.{name}")).collect::<Vec<_>>().join(", ")
    }

    /// Number of images.
    pub fn count(&self) -> usize {
        self.values.len() / self.shape.iter().product::<usize>()
    }

    /// From pixels with their channels side by side, as PNG and TIFF store them.
    fn interleaved(pixels: &[f32], [c, h, w]: [usize; 3]) -> Self {
        let values = (0..c).flat_map(|channel| pixels[channel..].iter().step_by(c).copied()).collect();
        Self { shape: [c, h, w], values }
    }
}

fn check_sides(path: &Path, place: &str, h: usize, w: usize) -> Result<()> {
    if (1..=LARGEST_SIDE).contains(&h) && (1..=LARGEST_SIDE).contains(&w) {
        return Ok(());
    }
    Err(Error::content(path, place, format!("is {w} x {h} pixels, expected 1 to {LARGEST_SIDE} along each side; cut it")))
}

fn read_png(path: &Path) -> Result<ImageStack> {
    let damaged = |e: png::DecodingError| Error::content(path, "file", format!("not a readable PNG file ({e}); fetch it again"));
    let mut decoder = png::Decoder::new(BufReader::new(File::open(path).map_err(|e| Error::os(path, e))?));
    // Palettes become colours, and 1, 2 and 4 bits become 8.
    decoder.set_transformations(png::Transformations::EXPAND);
    let mut reader = decoder.read_info().map_err(damaged)?;
    let (w, h) = (reader.info().width as usize, reader.info().height as usize);
    check_sides(path, "image", h, w)?;
    let (colour, depth) = reader.output_color_type();
    let channels = match colour {
        png::ColorType::Grayscale => 1,
        png::ColorType::Rgb => 3,
        _ => {
            let problem = "has transparency, expected gray or RGB; flatten it onto a background first";
            return Err(Error::content(path, "image", problem));
        }
    };
    let bytes_of_value = if depth == png::BitDepth::Sixteen { 2 } else { 1 };
    let mut bytes = vec![0; w * h * channels * bytes_of_value];
    reader.next_frame(&mut bytes).map_err(damaged)?;
    let pixels: Vec<f32> = match bytes_of_value {
        2 => bytes.as_chunks::<2>().0.iter().map(|b| u16::from_be_bytes(*b).into()).collect(),
        _ => bytes.iter().map(|b| (*b).into()).collect(),
    };
    Ok(ImageStack::interleaved(&pixels, [channels, h, w]))
}

fn read_tiff(path: &Path) -> Result<ImageStack> {
    let damaged =
        |e: tiff::TiffError| Error::content(path, "file", format!("not a readable TIFF file ({e}); fetch it again or convert it"));
    let file = BufReader::new(File::open(path).map_err(|e| Error::os(path, e))?);
    let mut decoder = Decoder::new(file).map_err(damaged)?;
    let mut stack: Option<ImageStack> = None;
    for page in 1.. {
        let place = format!("page {page}");
        let (w, h) = decoder.dimensions().map_err(damaged)?;
        let (w, h) = (w as usize, h as usize);
        check_sides(path, &place, h, w)?;
        let channels = match decoder.colortype().map_err(damaged)? {
            tiff::ColorType::Gray(8 | 16 | 32 | 64) => 1,
            tiff::ColorType::RGB(8 | 16 | 32 | 64) => 3,
            other => {
                let problem = format!("is {other:?}, expected gray or RGB with 8, 16, 32 or 64 bits a value; convert it");
                return Err(Error::content(path, place, problem));
            }
        };
        let pixels: Vec<f32> = match decoder.read_image().map_err(damaged)? {
            DecodingResult::U8(v) => v.into_iter().map(f32::from).collect(),
            DecodingResult::U16(v) => v.into_iter().map(f32::from).collect(),
            DecodingResult::U32(v) => v.into_iter().map(|v| v as f32).collect(),
            DecodingResult::U64(v) => v.into_iter().map(|v| v as f32).collect(),
            DecodingResult::I8(v) => v.into_iter().map(f32::from).collect(),
            DecodingResult::I16(v) => v.into_iter().map(f32::from).collect(),
            DecodingResult::I32(v) => v.into_iter().map(|v| v as f32).collect(),
            DecodingResult::I64(v) => v.into_iter().map(|v| v as f32).collect(),
            DecodingResult::F16(v) => v.into_iter().map(f32::from).collect(),
            DecodingResult::F32(v) => v,
            DecodingResult::F64(v) => v.into_iter().map(|v| v as f32).collect(),
        };
        if pixels.len() != w * h * channels {
            let problem = "has its colours in separate planes, expected them side by side; convert it";
            return Err(Error::content(path, place, problem));
        }
        let image = ImageStack::interleaved(&pixels, [channels, h, w]);
        match &mut stack {
            None => stack = Some(image),
            Some(stack) if stack.shape == image.shape => stack.values.extend(image.values),
            Some(stack) => {
                let (found, expected) = (image.shape, stack.shape);
                let problem = format!("has shape {found:?} (channel, y, x), expected {expected:?} as page 1; split the file");
                return Err(Error::content(path, place, problem));
            }
        }
        if !decoder.more_images() {
            break;
        }
        decoder.next_image().map_err(damaged)?;
    }
    stack.ok_or_else(|| Error::content(path, "file", "holds no page, expected at least one"))
}

fn read_fits(path: &Path) -> Result<ImageStack> {
    let (hdu, pixels) = read_plane(path)?;
    let (h, w) = pixels.dim();
    check_sides(path, &hdu.place(), h, w)?;
    Ok(ImageStack { shape: [1, h, w], values: pixels.iter().map(|v| *v as f32).collect() })
}

fn read_hdf5(path: &Path) -> Result<ImageStack> {
    let file = H5Reader::open(path)?;
    let names = file.datasets("/")?;
    let name = match names.as_slice() {
        [only] => only,
        _ if names.iter().any(|name| name == DATASET) => DATASET,
        _ => {
            let problem =
                format!("holds the datasets {names:?}, expected one, or one called {DATASET:?}; rename that of the images");
            return Err(Error::content(path, "group /", problem));
        }
    };
    let place = format!("dataset {name}");
    let found = file.shape(name)?;
    let shape = match *found.as_slice() {
        [h, w] | [_, h, w] => [1, h, w],
        [_, c, h, w] => [c, h, w],
        _ => {
            let problem = format!("has shape {found:?}, expected (y, x), (image, y, x) or (image, channel, y, x); reshape it");
            return Err(Error::content(path, place, problem));
        }
    };
    check_sides(path, &place, shape[1], shape[2])?;
    if found.contains(&0) {
        return Err(Error::content(path, place, format!("has shape {found:?}, expected at least one image")));
    }
    Ok(ImageStack { shape, values: file.f32s(name)?.iter().copied().collect() })
}

#[cfg(test)]
mod tests;
