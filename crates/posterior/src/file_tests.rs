use super::*;
use ndarray::{Array5, ArrayD};
use std::path::PathBuf;
use std::process::Command;

/// A Python with xarray, h5netcdf, netCDF4 and h5py, for cross-checks.
fn python() -> Option<PathBuf> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.venv/bin/python");
    let python = std::env::var_os("HALATION_PYTHON").map_or_else(|| PathBuf::from(root), PathBuf::from);
    let works =
        Command::new(&python).args(["-c", "import xarray, h5netcdf, netCDF4, h5py"]).output().is_ok_and(|o| o.status.success());
    if !works {
        eprintln!(
            "skipped: posterior.h5 cross-check needs a Python with xarray, h5netcdf, netCDF4 and h5py (HALATION_PYTHON or .venv)"
        );
    }
    works.then_some(python)
}

fn variable(dims: &[&str], shape: &[usize], unit: &str) -> Variable {
    let mut n = 0.0;
    let values = ArrayD::from_shape_simple_fn(shape.to_vec(), || {
        n += 0.5;
        n
    });
    Variable { dims: dims.iter().map(|d| d.to_string()).collect(), unit: unit.into(), description: "what it is".into(), values }
}

fn example(chains: usize, draws: usize) -> Ensemble {
    let images =
        Array5::from_shape_fn((chains, draws, 1, 6, 4), |(c, d, _, y, x)| (100 * c + 10 * d) as f32 + (4 * y + x) as f32 / 32.0);
    let n = chains * draws;
    let axis =
        |name: &str, n: usize| Axis { name: name.into(), unit: "rad".into(), values: (0..n).map(|i| i as f64 * 1e-11).collect() };
    Ensemble {
        images,
        unit: "Jy/pixel".into(),
        channels: vec!["I".into()],
        y: axis("y", 6),
        x: axis("x", 4),
        weights: Array1::from_elem(n, 1.0 / n as f64),
        sample_stats: [
            ("reduced_chi2_closure_phase".to_string(), variable(&["chain", "draw"], &[chains, draws], "")),
            ("shift_rad".to_string(), variable(&["chain", "draw", "axis"], &[chains, draws, 2], "rad")),
        ]
        .into(),
        observed_data: [
            ("time".to_string(), variable(&["time"], &[7], "h")),
            ("closure_phase".to_string(), variable(&["closure_phase"], &[5], "rad")),
            ("sigma_closure_phase".to_string(), variable(&["closure_phase"], &[5], "rad")),
            ("u".to_string(), variable(&["time", "baseline"], &[7, 3], "lambda")),
        ]
        .into(),
        posterior_predictive: [(
            "closure_phase".to_string(),
            variable(&["chain", "draw", "closure_phase"], &[chains, draws, 5], "rad"),
        )]
        .into(),
        attributes: [
            ("solver".to_string(), "pnp-dm".to_string()),
            ("seed".into(), "0".into()),
            ("prior_sha256".into(), "ab".repeat(32)),
        ]
        .into(),
        output_kind: OutputKind::Samples,
    }
}

#[test]
fn round_trip() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("posterior.h5");
    let e = example(2, 15);
    write_ensemble(&e, &path).unwrap();
    let back = read_ensemble(&path).unwrap();
    assert_eq!(back.images, e.images);
    assert_eq!((&back.unit, &back.channels, &back.y, &back.x), (&e.unit, &e.channels, &e.y, &e.x));
    assert!((&back.weights - &e.weights).iter().all(|d| *d == 0.0));
    assert_eq!((&back.attributes, back.output_kind), (&e.attributes, e.output_kind));
    assert_eq!(back.sample_stats, e.sample_stats);
    assert_eq!(back.observed_data["u"], e.observed_data["u"]);
    assert_eq!(back.observed_data["time"], e.observed_data["time"]);
    // A variable with the name of its only dimension is its coordinate; beside more dimensions, the dimension is renamed.
    assert_eq!(back.observed_data["closure_phase"], e.observed_data["closure_phase"]);
    assert_eq!(back.posterior_predictive["closure_phase"].dims, ["chain", "draw", "closure_phase_index"]);
    assert_eq!(back.posterior_predictive["closure_phase"].values, e.posterior_predictive["closure_phase"].values);
    // Written again, the file says the same.
    write_ensemble(&back, &path).unwrap();
    assert_eq!(read_ensemble(&path).unwrap().observed_data, back.observed_data);
}

/// Both netCDF engines of xarray open every group with dimensions and coordinates; h5py sees the layout and the numbers of numpy.
#[test]
fn xarray_and_h5py_open_it() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("posterior.h5");
    let mut e = example(2, 15);
    e.weights = Array1::from_iter((0..30).map(|i| (i + 1) as f64 / 465.0));
    write_ensemble(&e, &path).unwrap();
    let script = r#"
import sys, h5py, numpy as np, xarray as xr
path = sys.argv[1]
for engine in ('h5netcdf', 'netcdf4'):
    p = xr.open_dataset(path, group='posterior', engine=engine)
    image = p['image']
    assert image.dims == ('chain', 'draw', 'channel', 'y', 'x') and image.shape == (2, 15, 1, 6, 4), image
    assert image.dtype == np.float32 and image.attrs['units'] == 'Jy/pixel'
    assert list(p['draw'].values) == list(range(15)) and list(p['channel'].values) == ['I'], p
    assert p['y'].attrs['units'] == 'rad' and abs(float(p['y'][5]) - 5e-11) < 1e-24
    assert float(image.sel(chain=1, draw=3, channel='I')[2, 1]) == np.float32(130 + 9 / 32)
    s = xr.open_dataset(path, group='sample_stats', engine=engine)
    assert s['weight'].dims == ('chain', 'draw') and abs(float(s['weight'].sum()) - 1) < 1e-12
    assert s['shift_rad'].dims == ('chain', 'draw', 'axis') and 'axis' not in s.coords
    o = xr.open_dataset(path, group='observed_data', engine=engine)
    assert o['u'].dims == ('time', 'baseline') and o['u'].attrs['units'] == 'lambda' and o['time'].values[1] == 1.0
    assert o['sigma_closure_phase'].dims == ('closure_phase',)
    q = xr.open_dataset(path, group='posterior_predictive', engine=engine)
    assert q['closure_phase'].dims == ('chain', 'draw', 'closure_phase_index'), q
    m = xr.open_dataset(path, group='summary', engine=engine)
    assert m['mean'].dims == ('channel', 'y', 'x') and m['q05'].attrs['level'] == 0.05
    root = xr.open_dataset(path, engine=engine)
    assert root.attrs['solver'] == 'pnp-dm' and root.attrs['output_kind'] == 'samples', root.attrs
f = h5py.File(path)
assert set(f) == {'posterior', 'sample_stats', 'observed_data', 'posterior_predictive', 'summary'}
x, w = f['posterior/image'][:].reshape(30, 1, 6, 4).astype(float), f['sample_stats/weight'][:].ravel()
mean = (w[:, None, None, None] * x).sum(0)
var = (w[:, None, None, None] * (x - mean) ** 2).sum(0) / (1 - (w ** 2).sum())
assert np.allclose(f['summary/mean'][:], mean, rtol=1e-6) and np.allclose(f['summary/std'][:], var ** 0.5, rtol=1e-6)
assert f['posterior/image'].dims[3][0].name == '/posterior/y'
assert f['posterior/image'].compression == 'gzip' or f['posterior/image'].size < 4096
"#;
    let output = Command::new(python).arg("-c").arg(script).arg(&path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn what_does_not_fit_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("posterior.h5");
    type Change = fn(&mut Ensemble);
    let broken: [(&str, Change); 7] = [
        ("weights", |e| e.weights[0] = f64::NAN),
        ("weights", |e| e.weights = Array1::from_elem(3, 1.0 / 3.0)),
        ("sum to 2", |e| e.weights *= 2.0),
        ("y axis", |e| e.y.values.truncate(5)),
        ("channels", |e| e.channels.clear()),
        ("dimension draw", |e| drop(e.sample_stats.insert("a".into(), variable(&["draw"], &[9], "")))),
        ("dimension time", |e| drop(e.observed_data.insert("a".into(), variable(&["time"], &[9], "")))),
    ];
    for (expected, change) in broken {
        let mut e = example(1, 4);
        change(&mut e);
        let error = write_ensemble(&e, &path).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn few_draws_state_their_level() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("posterior.h5");
    let e = example(1, 4);
    write_ensemble(&e, &path).unwrap();
    let r = H5Reader::open(&path).unwrap();
    let level = r.attribute_f64s("summary/q05", "level").unwrap().unwrap()[0];
    assert!((level - 0.2).abs() < 1e-12);
    assert_eq!(r.f32s("summary/q05").unwrap()[[0, 0, 0]], 0.0);
    assert_eq!(r.f32s("summary/q95").unwrap()[[0, 0, 0]], 30.0);
    assert!(r.attribute_text("summary/q95", "long_name").unwrap().unwrap().contains("fewer than 20"));
}

/// Truncated and overwritten files are errors or (where the damage hits only values) ensembles; never a panic or a huge allocation.
#[test]
fn damaged_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("posterior.h5");
    write_ensemble(&example(1, 3), &path).unwrap();
    let whole = std::fs::read(&path).unwrap();
    // A name for each: HDF5 may keep a damaged file open, and would answer from that.
    let named = |n: usize| folder.path().join(format!("{n}.h5"));
    for cut in (0..whole.len() - 1).step_by(1013) {
        let path = named(cut);
        std::fs::write(&path, &whole[..cut]).unwrap();
        assert!(read_ensemble(&path).is_err(), "{cut} bytes");
    }
    for at in (0..whole.len()).step_by(509) {
        let mut broken = whole.clone();
        let end = broken.len().min(at + 16);
        let path = named(whole.len() + at);
        broken[at..end].fill(0xff);
        std::fs::write(&path, &broken).unwrap();
        let _ = read_ensemble(&path);
    }
    let path = folder.path().join("other.h5");
    let w = H5Writer::create(&path).unwrap();
    w.attribute_text("/", "solver", "none").unwrap();
    w.finish().unwrap();
    assert!(read_ensemble(&path).unwrap_err().to_string().contains("not a posterior.h5"));
}

/// A disk that is full (here: a limit on the size of files, in a child process) is an error that leaves nothing behind.
#[cfg(unix)]
#[test]
fn full_disk_is_an_error() {
    if let Some(folder) = std::env::var_os("HALATION_TEST_FULL_DISK") {
        let path = PathBuf::from(folder).join("posterior.h5");
        let mut e = example(1, 30);
        let mut state = 1u32;
        // Noise does not compress, so 30 images of 64 x 64 need half a megabyte.
        e.images = Array5::from_shape_simple_fn((1, 30, 1, 64, 64), || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state as f32
        });
        for axis in [&mut e.y, &mut e.x] {
            axis.values = (0..64).map(f64::from).collect();
        }
        let error = write_ensemble(&e, &path).unwrap_err().to_string();
        assert!(error.contains("cannot be written"), "{error}");
        assert!(halation_io::write_whole(&path, &vec![1; 1 << 17]).is_err());
        assert!(!path.exists());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let limited = "trap '' XFSZ; ulimit -f 64; exec \"$0\" --exact file::tests::full_disk_is_an_error";
    let status = Command::new("sh")
        .args(["-c", limited])
        .arg(std::env::current_exe().unwrap())
        .env("HALATION_TEST_FULL_DISK", folder.path())
        .output()
        .unwrap();
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stdout));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
