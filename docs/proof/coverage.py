#!/usr/bin/env python3
"""Coverage by ranks and simulation-based calibration of `halation reconstruct vlbi` with the trained prior.

usage: coverage.py RUN WORK [--truths network|simulator] [--first I] [--number N]      (resumable: what is done is skipped)
       coverage.py SUM WORK                                                          (prints JSON of all that is done)

Truth i (from samples of the network, or from the simulator at indices it was not trained on) is seen with the uv coverage, noise, gains and
phases of the EHT on 6 April 2017, both bands, in a field of 128 microarcsec, and reconstructed with 19 draws and default settings.
Masks come from the posterior mean, errors from a bootstrap over observations: pixels of one image are not independent.
"""
import argparse, json, math, os, random, subprocess, sys
from pathlib import Path

FIELD_UAS, FLUX_JY, DRAWS = 128.0, 0.6, 19
FEATURES = ["corrected_diameter_uas", "width_uas", "position_angle_deg", "asymmetry", "central_brightness"]


def truth(halation, prior, kind, i, path):
    import numpy as np
    from astropy.io import fits
    from safetensors.numpy import load_file

    stack = path.with_suffix(".safetensors")
    if kind == "network":
        command = [halation, "prior", "sample", prior, "-n", "1", "--seed", str(70_000 + i), "-o", stack]
    else:
        command = [halation, "simulate", "sources", "-n", "1", "--start", str(i), "--seed", "70000", "-o", stack, "--force"]
    subprocess.run(command, check=True)
    tensors = load_file(stack)
    u = tensors["samples"][0, 0] * 0.5 + 0.5 if kind == "network" else tensors["images"][0, 0]
    # Row 0 South, column 0 East, as FITS has it with a negative CDELT1.
    h = fits.Header()
    n, pixel_deg = u.shape[0], FIELD_UAS / u.shape[0] / 3.6e9
    for key, value in [("BUNIT", "JY/PIXEL"), ("OBJECT", f"{kind}-{i}"), ("CTYPE1", "RA---SIN"), ("CTYPE2", "DEC--SIN"),
                       ("CRVAL1", 187.70593), ("CRVAL2", 12.39112), ("CDELT1", -pixel_deg), ("CDELT2", pixel_deg),
                       ("CRPIX1", n / 2 + 0.5), ("CRPIX2", n / 2 + 0.5), ("CUNIT1", "deg"), ("CUNIT2", "deg")]:
        h[key] = value
    image = np.asarray(u, dtype=np.float64)
    fits.writeto(path, FLUX_JY * image / image.sum(), h, overwrite=True)


def run(args, halation, prior, data):
    for i in range(args.first, args.first + args.number):
        folder = args.work / f"{args.truths}-{i:03d}"
        result = args.work / f"{folder.name}.json"
        if result.exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        image, bands = folder / "truth.fits", []
        truth(halation, prior, args.truths, i, image)
        for band in ("lo", "hi"):
            seen = folder / f"{band}.uvfits"
            like = data / f"SR1_M87_2017_096_{band}_hops_netcal_StokesI.uvfits"
            subprocess.run([halation, "simulate", "vlbi", "--image", image, "--like", like, "--seed", str(i), "-o", seen, "--force"], check=True)
            bands.append(seen)
        out = folder / "out"
        if not out.exists():
            subprocess.run([halation, "reconstruct", "vlbi", *bands, "-o", out, "--prior", prior, "--fov", f"{FIELD_UAS:g}uas", "--draws", str(DRAWS),
                            "--seed", str(i), "--resume"], check=True)
        found = subprocess.run([halation, "assess", out, "--truth", image, "--json", "--seed", str(i)], check=True, capture_output=True, text=True)
        result.write_text(found.stdout)


def bootstrap(values, statistic, n=2000):
    if len(values) < 2:
        return None  # one observation says nothing of its own scatter
    rng = random.Random(0)
    means = [statistic([values[rng.randrange(len(values))] for _ in values]) for _ in range(n)]
    mean = sum(means) / n
    return math.sqrt(sum((m - mean) ** 2 for m in means) / (n - 1))


def rank_position(draws, value, u):
    return (sum(d < value for d in draws) + u * (1 + sum(d == value for d in draws))) / (len(draws) + 1)


def summary(work):
    rng = random.Random(1)
    out = {}
    for kind in ("network", "simulator"):
        runs = [json.loads(p.read_text()) for p in sorted(work.glob(f"{kind}-*.json"))]
        if not runs:
            continue
        levels = runs[0]["truth"]["coverage"]["levels"]
        shares = [r["truth"]["coverage"]["inside"] for r in runs]
        pixels = [r["truth"]["coverage"]["pixels"] for r in runs]
        pooled = lambda rows, k: sum(s[k] * p for s, p in rows) / max(1, sum(p for _, p in rows))
        rows = list(zip(shares, pixels))
        entry = {"observations": len(runs), "levels": levels,
                 "inside": [pooled(rows, k) for k in range(len(levels))],
                 "inside_error": [bootstrap(rows, lambda r: pooled(r, k)) for k in range(len(levels))],
                 "inside_by_observation_90": [s[levels.index(0.9)] for s in shares],
                 "chi2": {k: [r["chi2"][k] for r in runs] for k in runs[0]["chi2"]},
                 "correlation_mean": [r["truth"]["mean"]["correlation"] for r in runs], "positions": {}}

        def record(name, positions):
            inside = [sum(abs(p - 0.5) <= q / 2 for p in positions) / len(positions) for q in levels] if positions else []
            entry["positions"][name] = {"number": len(positions), "inside": inside, "all": positions}

        for feature in FEATURES:
            positions = []
            for r in runs:
                ring = r["truth"]["ring"]
                draws = [d[feature] for d in r["ring_draws"] if d]
                # Features exist for nearly any image; where one draw or the truth has none, there is no rank.
                if not ring or len(draws) < len(r["ring_draws"]):
                    continue
                value = ring[feature]
                if feature == "position_angle_deg":
                    mean = math.atan2(sum(math.sin(math.radians(d)) for d in draws), sum(math.cos(math.radians(d)) for d in draws))
                    turn = lambda a: (a - math.degrees(mean) + 180.0) % 360.0 - 180.0
                    draws, value = [turn(d) for d in draws], turn(value)
                positions.append(rank_position(draws, value, rng.random()))
            record(feature, positions)
        shares = [r["truth"]["bright_flux_share"] for r in runs]
        record("bright_flux_share", [rank_position(s["draws"], s["truth"], rng.random()) for s in shares])
        out[kind] = entry
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=["RUN", "SUM"])
    p.add_argument("work", type=Path)
    p.add_argument("--truths", choices=["network", "simulator"], default="network")
    p.add_argument("--first", type=int, default=0)
    p.add_argument("--number", type=int, default=40)
    args = p.parse_args()
    if args.what == "SUM":
        print(json.dumps(summary(args.work), indent=1))
        return
    halation = os.environ.get("HALATION", "target/release/halation")
    prior = os.environ.get("HALATION_PRIOR", "data/priors/vlbi-64.safetensors")
    data = Path(os.environ.get("HALATION_SHARED", "../shared")) / "data/vlbi/m87_2017"
    if not data.is_dir():
        sys.exit(f"{data} is not there: set HALATION_SHARED to the folder of the public data")
    run(args, halation, prior, data)


if __name__ == "__main__":
    main()
