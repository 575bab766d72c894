use super::*;
use crate::{SkyImage, write_fits_image};
use ndarray::{Array2, Array3, Array4};
use std::path::PathBuf;
use tiff::encoder::{TiffEncoder, colortype};

fn png(path: &Path, colour: png::ColorType, depth: png::BitDepth, [w, h]: [u32; 2], bytes: &[u8]) {
    let mut encoder = png::Encoder::new(File::create(path).unwrap(), w, h);
    encoder.set_color(colour);
    encoder.set_depth(depth);
    if colour == png::ColorType::Indexed {
        encoder.set_palette(vec![10, 20, 30, 40, 50, 60]);
    }
    encoder.write_header().unwrap().write_image_data(bytes).unwrap();
}

#[track_caller]
fn holds(path: &Path, shape: [usize; 3], values: &[f32]) {
    let stack = ImageStack::read(path).unwrap();
    assert_eq!((stack.shape, stack.values.as_slice()), (shape, values));
    assert_eq!(stack.count() * shape.iter().product::<usize>(), values.len());
}

#[track_caller]
fn refused(path: &Path, says: &[&str]) {
    let message = ImageStack::read(path).unwrap_err().to_string();
    let name = path.file_name().unwrap().to_str().unwrap();
    says.iter().chain([&name]).for_each(|s| assert!(message.contains(s), "{s:?} is not in {message:?}"));
}

fn folder() -> (tempfile::TempDir, impl Fn(&str) -> PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_path_buf();
    (folder, move |name: &str| root.join(name))
}

#[test]
fn pngs() {
    use png::{BitDepth, ColorType};
    let (_folder, at) = folder();
    png(&at("gray.PNG"), ColorType::Grayscale, BitDepth::Eight, [3, 2], &[0, 1, 2, 3, 4, 255]);
    holds(&at("gray.PNG"), [1, 2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 255.0]);
    png(&at("deep.png"), ColorType::Grayscale, BitDepth::Sixteen, [2, 1], &[1, 2, 255, 255]);
    holds(&at("deep.png"), [1, 1, 2], &[258.0, 65535.0]);
    png(&at("rgb.png"), ColorType::Rgb, BitDepth::Eight, [2, 1], &[1, 2, 3, 4, 5, 6]);
    holds(&at("rgb.png"), [3, 1, 2], &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    png(&at("palette.png"), ColorType::Indexed, BitDepth::Eight, [2, 1], &[1, 0]);
    holds(&at("palette.png"), [3, 1, 2], &[40.0, 10.0, 50.0, 20.0, 60.0, 30.0]);
    png(&at("alpha.png"), ColorType::GrayscaleAlpha, BitDepth::Eight, [1, 1], &[1, 2]);
    refused(&at("alpha.png"), &["transparency", "flatten"]);
    let whole = std::fs::read(at("rgb.png")).unwrap();
    std::fs::write(at("cut.png"), &whole[..whole.len() / 2]).unwrap();
    refused(&at("cut.png"), &["not a readable PNG", "fetch it again"]);
}

#[test]
fn tiffs() {
    let (_folder, at) = folder();
    let mut file = TiffEncoder::new(File::create(at("pages.tif")).unwrap()).unwrap();
    file.write_image::<colortype::Gray16>(2, 1, &[7, 65535]).unwrap();
    file.write_image::<colortype::Gray16>(2, 1, &[1, 2]).unwrap();
    holds(&at("pages.tif"), [1, 1, 2], &[7.0, 65535.0, 1.0, 2.0]);
    let mut file = TiffEncoder::new(File::create(at("float.tiff")).unwrap()).unwrap();
    file.write_image::<colortype::Gray32Float>(1, 2, &[-0.5, 1e9]).unwrap();
    holds(&at("float.tiff"), [1, 2, 1], &[-0.5, 1e9]);
    let mut file = TiffEncoder::new(File::create(at("rgb.tif")).unwrap()).unwrap();
    file.write_image::<colortype::RGB8>(2, 1, &[1, 2, 3, 4, 5, 6]).unwrap();
    holds(&at("rgb.tif"), [3, 1, 2], &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    let mut file = TiffEncoder::new(File::create(at("mixed.tif")).unwrap()).unwrap();
    file.write_image::<colortype::Gray8>(2, 1, &[7, 8]).unwrap();
    file.write_image::<colortype::Gray8>(1, 1, &[7]).unwrap();
    refused(&at("mixed.tif"), &["page 2", "[1, 1, 1]", "[1, 1, 2]", "split"]);
    let mut file = TiffEncoder::new(File::create(at("alpha.tif")).unwrap()).unwrap();
    file.write_image::<colortype::RGBA8>(1, 1, &[1, 2, 3, 4]).unwrap();
    refused(&at("alpha.tif"), &["page 1", "RGBA", "convert"]);
    let whole = std::fs::read(at("pages.tif")).unwrap();
    std::fs::write(at("cut.tif"), &whole[..12]).unwrap();
    refused(&at("cut.tif"), &["not a readable TIFF"]);
}

#[test]
fn fits_and_hdf5() {
    let (_folder, at) = folder();
    let pixels = Array2::from_shape_fn((2, 3), |(y, x)| (10 * y + x) as f64 - 0.5);
    write_fits_image(&at("image.fits"), &SkyImage::new(pixels.clone(), 1e-11), &[]).unwrap();
    holds(&at("image.fits"), [1, 2, 3], &[-0.5, 0.5, 1.5, 9.5, 10.5, 11.5]);
    std::fs::write(at("text.fits"), "hello").unwrap();
    refused(&at("text.fits"), &["not a FITS file"]);

    let write = |name: &str, datasets: &[(&str, ndarray::ArrayD<f64>)]| {
        let file = hdf5::File::create(at(name)).unwrap();
        for (name, values) in datasets {
            file.new_dataset_builder().with_data(values).create(*name).unwrap();
        }
    };
    write("one.h5", &[("photons", pixels.clone().into_dyn())]);
    holds(&at("one.h5"), [1, 2, 3], &[-0.5, 0.5, 1.5, 9.5, 10.5, 11.5]);
    write("stack.h5", &[("images", Array3::from_elem((4, 1, 2), 3.0).into_dyn()), ("labels", pixels.clone().into_dyn())]);
    holds(&at("stack.h5"), [1, 1, 2], &[3.0; 8]);
    write("colour.hdf5", &[("images", Array4::from_elem((2, 3, 1, 2), 3.0).into_dyn())]);
    holds(&at("colour.hdf5"), [3, 1, 2], &[3.0; 12]);
    write("two.h5", &[("a", pixels.clone().into_dyn()), ("b", pixels.into_dyn())]);
    refused(&at("two.h5"), &["\"a\"", "\"b\"", "\"images\""]);
    write("line.h5", &[("images", ndarray::Array1::from_elem(3, 1.0).into_dyn())]);
    refused(&at("line.h5"), &["dataset images", "[3]", "(image, y, x)"]);
    refused(&at("film.gif"), &["*.png", "*.tiff", "*.fits", "*.h5"]);
}
