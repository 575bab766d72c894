use super::*;
use ndarray::Array2;
use std::path::PathBuf;
use std::process::Command;

/// Real EHT images and others beside the source tree; none where they are absent.
fn shared(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("HALATION_SHARED")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")), PathBuf::from);
    let path = root.join(name);
    if !path.exists() {
        eprintln!("skipped: FITS image test needs {name}");
        return None;
    }
    Some(path)
}

/// A Python with astropy, for cross-checks.
fn python() -> Option<PathBuf> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.venv/bin/python");
    let python = std::env::var_os("HALATION_PYTHON").map_or_else(|| PathBuf::from(root), PathBuf::from);
    let works = Command::new(&python).args(["-c", "import astropy"]).output().is_ok_and(|o| o.status.success());
    if !works {
        eprintln!("skipped: astropy cross-check needs a Python with astropy (HALATION_PYTHON or .venv)");
    }
    works.then_some(python)
}

fn example() -> SkyImage {
    let pixels = Array2::from_shape_fn((5, 7), |(y, x)| (10 * y + x) as f64 + 0.125);
    SkyImage {
        ra_deg: Some(187.70593075958),
        dec_deg: Some(12.391123306),
        frequency_hz: Some(229.1e9),
        mjd: Some(57849.25),
        object: Some("M87".into()),
        ..SkyImage::new(pixels, 2e-6 * std::f64::consts::PI / 648_000.0)
    }
}

fn header(cards: &[&str]) -> Vec<u8> {
    let mut bytes: Vec<u8> = cards.iter().flat_map(|c| format!("{c:<80}").into_bytes()).collect();
    bytes.extend(format!("{:<80}", "END").into_bytes());
    bytes.resize(bytes.len().div_ceil(2880) * 2880, b' ');
    bytes
}

/// A minimal valid 2 x 2 image with some cards replaced (a card of the same keyword) or added.
fn small(change: &[&str]) -> Vec<u8> {
    let mut cards = vec![
        "SIMPLE  =                    T".to_string(),
        "BITPIX  =                  -32".into(),
        "NAXIS   =                    2".into(),
        "NAXIS1  =                    2".into(),
        "NAXIS2  =                    2".into(),
        "CTYPE1  = 'RA---SIN'".into(),
        "CTYPE2  = 'DEC--SIN'".into(),
        "CDELT1  = -1E-10".into(),
        "CDELT2  = 1E-10".into(),
        "BUNIT   = 'JY/PIXEL'".into(),
    ];
    for card in change {
        match cards.iter_mut().find(|c| c[..8] == card[..8]) {
            Some(old) => *old = card.to_string(),
            None => cards.push(card.to_string()),
        }
    }
    let mut bytes = header(&cards.iter().map(String::as_str).collect::<Vec<_>>());
    bytes.extend([1.0f32, 2.0, 3.0, 4.0].iter().flat_map(|v| v.to_be_bytes()));
    bytes.resize(bytes.len().div_ceil(2880) * 2880, 0);
    bytes
}

fn read_bytes(bytes: &[u8]) -> Result<SkyImage> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image[1].fits");
    std::fs::write(&path, bytes).unwrap();
    read_fits_image(&path)
}

#[test]
fn written_image_reads_back_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a[b]+(c).fits");
    let mut image = example();
    image.centre_rad = (3e-12, -5e-12);
    write_fits_image(&path, &image, &["halation reconstruct vlbi".into(), "long ".repeat(60)]).unwrap();
    let back = read_fits_image(&path).unwrap();
    assert_eq!(back.pixels, image.pixels);
    assert_eq!(
        (back.ra_deg, back.dec_deg, back.frequency_hz, back.mjd, &back.object),
        (image.ra_deg, image.dec_deg, image.frequency_hz, image.mjd, &image.object)
    );
    assert!((back.pixel_rad.0 / image.pixel_rad.0 - 1.0).abs() < 1e-15);
    assert!((back.centre_rad.0 - 3e-12).abs() < 1e-24 && (back.centre_rad.1 + 5e-12).abs() < 1e-24, "{:?}", back.centre_rad);
}

/// astropy must find the same pixels, and its WCS must put the first column East and the first row South of the source.
#[test]
fn astropy_opens_it_with_the_right_wcs() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image.fits");
    write_fits_image(&path, &example(), &["made by a test".into()]).unwrap();
    let script = "
import sys, numpy as np
from astropy.io import fits
from astropy.wcs import WCS
hdus = fits.open(sys.argv[1])
hdus.verify('exception')
h, d = hdus[0].header, hdus[0].data
assert d.shape == (5, 7) and d[3, 2] == 32.125, d
assert h['BUNIT'] == 'JY/PIXEL' and h['MJD'] == 57849.25 and h['FREQ'] == 229.1e9 and h['OBSRA'] == 187.70593075958
assert 'made by a test' in str(h['HISTORY'])
w = WCS(h)
centre = w.pixel_to_world(3.0, 2.0)
assert abs(centre.ra.deg - 187.70593075958) < 1e-12 and abs(centre.dec.deg - 12.391123306) < 1e-12, centre
corner = w.pixel_to_world(0.0, 0.0)
east = (corner.ra.deg - centre.ra.deg) * np.cos(np.radians(centre.dec.deg)) * 3600e6
north = (corner.dec.deg - centre.dec.deg) * 3600e6
assert abs(east - 6) < 1e-2 and abs(north + 4) < 1e-2, (east, north)
";
    let output = Command::new(python).arg("-c").arg(script).arg(&path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// CFITSIO, another implementation, reads the same pixels and keywords.
#[test]
fn cfitsio_reads_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image.fits");
    write_fits_image(&path, &example(), &[]).unwrap();
    let mut file = fitsio::FitsFile::open(&path).unwrap();
    let hdu = file.primary_hdu().unwrap();
    let pixels: Vec<f64> = hdu.read_image(&mut file).unwrap();
    assert_eq!(pixels, example().pixels.into_raw_vec_and_offset().0);
    let pixel_deg: f64 = hdu.read_key(&mut file, "CDELT1").unwrap();
    assert_eq!(pixel_deg, -example().pixel_rad.0.to_degrees());
    let object: String = hdu.read_key(&mut file, "OBJECT").unwrap();
    assert_eq!(object, "M87");
}

#[test]
fn real_images() {
    // Sum and shape as astropy gives them.
    for (name, n, total, pixel_deg) in [
        ("data/vlbi/m87_2017/eht_fiducial_095.fits", 64, 0.5960582653627469, 5.55555555555555e-10),
        ("data/vlbi/images/vida_example_image.fits", 64, 0.602412676261586, 5.55555555555555e-10),
        ("data/vlbi/synthetic_sgra/gt.fits", 128, 1.9951929630322192, 3.42881944444444e-10),
    ] {
        let Some(path) = shared(name) else { continue };
        let image = read_fits_image(&path).unwrap();
        assert_eq!(image.pixels.dim(), (n, n));
        assert!((image.total() - total).abs() < 1e-12, "{name}: {}", image.total());
        assert!((image.pixel_rad.0.to_degrees() / pixel_deg - 1.0).abs() < 1e-12);
        assert_eq!(image.centre_rad, (0.0, 0.0), "{name}: a missing CRPIX means the centre");
        assert!(image.frequency_hz.unwrap() > 2e11);
    }
    let Some(path) = shared("data/vlbi/m87_2017/SR1_M87_2017_095_hi_hops_netcal_StokesI.uvfits") else { return };
    assert!(read_fits_image(&path).unwrap_err().to_string().contains("UVFITS"));
    assert!(FitsFile::open(&path).unwrap().hdus().len() >= 2);
}

#[test]
fn orientation_types_and_extensions() {
    let plain = read_bytes(&small(&[])).unwrap();
    assert_eq!(plain.pixels, ndarray::arr2(&[[1.0, 2.0], [3.0, 4.0]]));
    let west = read_bytes(&small(&["CDELT1  = 1E-10"])).unwrap();
    assert_eq!(west.pixels, ndarray::arr2(&[[2.0, 1.0], [4.0, 3.0]]));
    let north = read_bytes(&small(&["CDELT2  = -1E-10"])).unwrap();
    assert_eq!(north.pixels, ndarray::arr2(&[[3.0, 4.0], [1.0, 2.0]]));
    let degenerate =
        small(&["NAXIS   =                    4", "NAXIS3  = 1", "NAXIS4  = 1", "CTYPE3  = 'FREQ'", "CRVAL3  = 4.3E10"]);
    assert_eq!(read_bytes(&degenerate).unwrap().frequency_hz, Some(4.3e10));
    // 16-bit integers with BSCALE and BZERO in an image extension behind an empty primary HDU.
    let mut bytes = header(&["SIMPLE  =                    T", "BITPIX  =                    8", "NAXIS   =                    0"]);
    let extension = small(&["SIMPLE  = ", "BITPIX  = 16", "BSCALE  = 0.5", "BZERO   = 1.0", "CRPIX1  = 1.0", "CRPIX2  = 2.0"]);
    let mut extension = extension[..2880].to_vec();
    extension[..80].copy_from_slice(format!("{:<80}", "XTENSION= 'IMAGE   '").as_bytes());
    bytes.extend(extension);
    bytes.extend([2i16, -4, 6, 8].iter().flat_map(|v| v.to_be_bytes()));
    bytes.resize(bytes.len().div_ceil(2880) * 2880, 0);
    let image = read_bytes(&bytes).unwrap();
    assert_eq!(image.pixels, ndarray::arr2(&[[2.0, -1.0], [4.0, 5.0]]));
    // The centre lies half a pixel West of column 1 and half a pixel South of row 2.
    let half = 0.5 * 1e-10f64.to_radians();
    assert!((image.centre_rad.0 + half).abs() < 1e-26 && (image.centre_rad.1 + half).abs() < 1e-26, "{:?}", image.centre_rad);
}

#[test]
fn units() {
    let steradian = read_bytes(&small(&["BUNIT   = 'Jy/sr'"])).unwrap();
    assert!((steradian.total() / (10.0 * 1e-10f64.to_radians().powi(2)) - 1.0).abs() < 1e-12);
}

#[test]
fn bad_images_are_errors_that_say_why() {
    let cases: &[(&[&str], &str)] = &[
        (&["BUNIT   = 'K'"], "BUNIT = K, expected JY/PIXEL"),
        (&["BUNIT   = ''"], "BUNIT is missing, expected JY/PIXEL or JY/SR; write the unit"),
        (&["BUNIT   = 'JY/BEAM'"], "BUNIT = JY/BEAM, expected JY/PIXEL"),
        (&["CTYPE1  = 'X'"], "CTYPE1 = X, expected RA---SIN"),
        (&["CTYPE2  = ''"], "expected DEC--SIN; write the WCS into the header"),
        (&["CDELT1  = 'wide'"], "CDELT1 is missing; expected the pixel size in degrees"),
        (&["CDELT1  = 0"], "no pixel size"),
        (&["CDELT1  = -2E-10"], "not square"),
        (&["CROTA2  = 10.0"], "rotated"),
        (&["CUNIT1  = 'furlong'"], "CUNIT1 = furlong"),
        (&["BITPIX  = 17"], "BITPIX = 17"),
        (&["NAXIS   = -3"], "NAXIS is missing"),
        (&["NAXIS   = 3", "NAXIS3  = 2"], "truncated"),
        (&["NAXIS1  = 1000000000000", "NAXIS2  = 1000000000000"], "beyond any file"),
        (&["NAXIS1  = 100000"], "truncated"),
        (&["NAXIS1  = 1"], "at least 2 x 2"),
        (&["NAXIS   = 0"], "holds no image"),
        (&["BITPIX  = 8", "BLANK   = 63"], "not finite"),
        (&["NAXIS1  = NAN"], "NAXIS1 is missing"),
    ];
    for (cards, expected) in cases {
        let mut bytes = small(cards);
        if cards.iter().any(|c| c.contains("NAXIS3")) {
            bytes.truncate(2880 + 20);
        }
        match read_bytes(&bytes) {
            Ok(_) => panic!("{cards:?} was read"),
            Err(e) => assert!(e.to_string().contains(expected), "{cards:?}: {e}"),
        }
    }
    let mut cube = small(&["NAXIS   = 3", "NAXIS3  = 2", "CTYPE3  = 'STOKES'"]);
    cube.extend([0; 2880]);
    assert!(read_bytes(&cube).unwrap_err().to_string().contains("NAXIS3 = 2 (STOKES)"));
    let mut nan = small(&[]);
    nan[2884..2888].copy_from_slice(&f32::NAN.to_be_bytes());
    assert!(read_bytes(&nan).unwrap_err().to_string().contains("column 2, row 1"));
    for (bytes, expected) in
        [(&b""[..], "empty"), (b"\x1f\x8b\x08", "gunzip"), (b"\x89HDF\r\n\x1a\n", "HDF5"), (b"hello world, this", "starts with")]
    {
        assert!(read_bytes(bytes).unwrap_err().to_string().contains(expected));
    }
    assert!(read_fits_image(Path::new("/no/such/file.fits")).unwrap_err().to_string().contains("/no/such/file.fits"));
    assert!(read_fits_image(Path::new("/tmp")).is_err());
}

/// A valid file cut at every block and at odd places is an error or, where only padding is lost, the same image; never a panic.
#[test]
fn truncation_at_any_byte() {
    let whole = small(&[]);
    for cut in (0..whole.len()).step_by(37) {
        match read_bytes(&whole[..cut]) {
            Ok(image) => assert!(cut >= 2880 + 16 && image.total() == 10.0),
            Err(e) => assert!(cut < 2880 + 16, "{cut}: {e}"),
        }
    }
}
