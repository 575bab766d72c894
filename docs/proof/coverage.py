#!/usr/bin/env python3
"""Coverage by ranks and simulation-based calibration of `halation reconstruct vlbi` with the trained prior.

usage: coverage.py RUN WORK RECORD.json [--truths network|simulator] [--first I] [--number N]
       coverage.py SUM RECORD.json

RUN adds one entry for each observation to RECORD and skips those it holds, so that the work can be spread over machines and months; WORK
holds the observations and ensembles. An entry counts only for the prior that it was made with: RUN stops at another one's. SUM prints the
summary as JSON.

Truth i is a sample of the network (200 ancestral levels: with the 40 that `prior sample` takes by default samples are broader than what the
network's scores describe) or an image of the simulator that it was not trained on. It is seen with the uv coverage, noise, gains and phases of
the EHT on 6 April 2017, both bands, in a field of 128 microarcsec, and reconstructed with 19 draws and default settings.
Masks come from the posterior mean, errors from a bootstrap over observations: pixels of one image are not independent.
"""
import argparse, hashlib, json, math, os, random, subprocess, sys
from pathlib import Path

FIELD_UAS, FLUX_JY, DRAWS, LEVELS_OF_TRUTHS = 128.0, 0.6, 19, 200
FEATURES = ["corrected_diameter_uas", "width_uas", "position_angle_deg", "asymmetry", "central_brightness"]


def truth(halation, prior, kind, i, path):
    import numpy as np
    from astropy.io import fits
    from safetensors.numpy import load_file

    stack = path.with_suffix(".safetensors")
    if kind == "network":
        command = [halation, "prior", "sample", prior, "-n", "1", "--steps", str(LEVELS_OF_TRUTHS), "--seed", str(70_000 + i), "-o", stack]
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


def read(record):
    return json.loads(record.read_text()) if record.exists() else {"prior": None, "levels": None, "runs": {}}


def run(args, halation, prior, data):
    prior_hash = hashlib.sha256(Path(prior).read_bytes()).hexdigest()
    for i in range(args.first, args.first + args.number):
        name = f"{args.truths}-{i:03d}"
        record = read(args.record)
        if record["runs"] and record["prior"] != prior_hash:
            sys.exit(f"{args.record}: its runs are of the prior {record['prior']}, {prior} is {prior_hash}; name another record")
        if name in record["runs"]:
            continue
        folder = args.work / name
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
        levels, entry = kept(json.loads(found.stdout), random.Random(i))
        # Read anew: another process may have added its own meanwhile.
        record = read(args.record)
        record.update(prior=prior_hash, levels=levels)
        record["runs"] = dict(sorted({**record["runs"], name: entry}.items()))
        new = args.record.with_suffix(f".{os.getpid()}")
        lines = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in record["runs"].items())
        new.write_text(f'{{"prior": "{prior_hash}", "levels": {json.dumps(levels)}, "runs": {{\n{lines}\n}}}}\n')
        new.replace(args.record)


def kept(found, rng):
    """The levels, and what stays of one `assess --truth --json`; the place of a truth between two draws is random."""
    seen, pixels, ranks = found["truth"], found["truth"]["coverage"], {}
    ring, draws = seen["ring"], [d for d in found["ring_draws"] if d]
    # Features exist for nearly any image; where one draw or the truth has none, there is no rank.
    if ring and len(draws) == len(found["ring_draws"]):
        for feature in FEATURES:
            value, others = ring[feature], [d[feature] for d in draws]
            if feature == "position_angle_deg":
                mean = math.atan2(sum(math.sin(math.radians(d)) for d in others), sum(math.cos(math.radians(d)) for d in others))
                turn = lambda a: (a - math.degrees(mean) + 180.0) % 360.0 - 180.0
                value, others = turn(value), [turn(d) for d in others]
            ranks[feature] = rank_position(others, value, rng.random())
    share = seen["bright_flux_share"]
    ranks["bright_flux_share"] = rank_position(share["draws"], share["truth"], rng.random())
    rounded = lambda v: float(f"{v:.4g}")
    return pixels["levels"], {
        "pixels": pixels["pixels"], "inside": [rounded(v) for v in pixels["inside"]], "chi2": {k: rounded(v) for k, v in found["chi2"].items()},
        "correlation_mean": rounded(seen["mean"]["correlation"]), "label": found["ensemble"]["label"], "ranks": {k: rounded(v) for k, v in ranks.items()}}


def bootstrap(values, statistic, n=2000):
    if len(values) < 2:
        return None  # one observation says nothing of its own scatter
    rng = random.Random(0)
    means = [statistic([values[rng.randrange(len(values))] for _ in values]) for _ in range(n)]
    mean = sum(means) / n
    return math.sqrt(sum((m - mean) ** 2 for m in means) / (n - 1))


def rank_position(draws, value, u):
    return (sum(d < value for d in draws) + u * (1 + sum(d == value for d in draws))) / (len(draws) + 1)


def summary(record):
    levels, out = record["levels"], {}
    for kind in ("network", "simulator"):
        runs = [r for name, r in record["runs"].items() if name.startswith(kind)]
        if not runs:
            continue
        pooled = lambda rows, k: sum(r["inside"][k] * r["pixels"] for r in rows) / max(1, sum(r["pixels"] for r in rows))
        mean = lambda rows, k: sum(r["inside"][k] for r in rows) / len(rows)
        entry = {"observations": len(runs), "levels": levels}
        for name, statistic in (("inside", pooled), ("inside_mean_over_observations", mean)):
            entry[name] = [statistic(runs, k) for k in range(len(levels))]
            entry[f"{name}_error"] = [bootstrap(runs, lambda r: statistic(r, k)) for k in range(len(levels))]
        entry["ranks"] = {}
        for feature in FEATURES + ["bright_flux_share"]:
            ranks = [r["ranks"][feature] for r in runs if feature in r["ranks"]]
            inside = [sum(abs(p - 0.5) <= q / 2 for p in ranks) / len(ranks) for q in levels] if ranks else []
            entry["ranks"][feature] = {"number": len(ranks), "inside": inside}
        out[kind] = entry
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = p.add_subparsers(dest="what", required=True)
    r = parts.add_parser("RUN")
    r.add_argument("work", type=Path)
    r.add_argument("record", type=Path)
    r.add_argument("--truths", choices=["network", "simulator"], default="network")
    r.add_argument("--first", type=int, default=0)
    r.add_argument("--number", type=int, default=40)
    parts.add_parser("SUM").add_argument("record", type=Path)
    args = p.parse_args()
    if args.what == "SUM":
        print(json.dumps(summary(read(args.record)), indent=1))
        return
    halation = os.environ.get("HALATION", "target/release/halation")
    prior = os.environ.get("HALATION_PRIOR", "data/priors/vlbi-64.safetensors")
    data = Path(os.environ.get("HALATION_SHARED", "../shared")) / "data/vlbi/m87_2017"
    if not data.is_dir():
        sys.exit(f"{data} is not there: set HALATION_SHARED to the folder of the public data")
    run(args, halation, prior, data)


if __name__ == "__main__":
    main()
