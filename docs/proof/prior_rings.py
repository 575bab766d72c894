#!/usr/bin/env python3
"""How many prior samples would pass for M87*: `halation assess` on samples of the prior alone, without data.

usage: prior_rings.py WORK [--samples N] [--seed S]      (prints JSON)

The samples lie in a field of 128 microarcsec, as M87* does. A ring is what `halation assess` counts as one; a ring like M87*'s has
besides a blur-corrected diameter of 39 to 45 microarcsec, a width of at most 20 and a position angle of 135 to 190 deg: the limits of
docs/m87.md.
"""
import argparse, json, math, os, subprocess
from pathlib import Path

import h5py
import numpy as np
from safetensors.numpy import load_file

FIELD_RAD = 128e-6 / 3600 * math.pi / 180


def as_ensemble(images, path):
    """The samples in the layout of posterior.h5: chain, draw, channel, y, x."""
    n, size = images.shape[0], images.shape[-1]
    offsets = (np.arange(size) - 0.5 * (size - 1)) * FIELD_RAD / size
    with h5py.File(path, "w") as f:
        f.attrs["output_kind"] = "samples"
        f.attrs["label"] = "samples of the prior, no data"
        group = f.create_group("posterior")
        group["channel"] = np.array(["I"], dtype=h5py.string_dtype())
        for name, values in [("chain", [0]), ("draw", np.arange(n)), ("y", offsets), ("x", -offsets)]:
            group[name] = values
        for name in ("y", "x"):
            group[name].attrs["units"] = "rad"
        image = group.create_dataset("image", data=images.reshape(1, n, 1, size, size))
        image.attrs["units"] = "Jy/pixel"
        weight = f.create_dataset("sample_stats/weight", data=np.full((1, n), 1.0 / n))
        for i, name in enumerate(["chain", "draw", "channel", "y", "x"]):
            group[name].make_scale(name)
            image.dims[i].attach_scale(group[name])
            if i < 2:
                weight.dims[i].attach_scale(group[name])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("work", type=Path)
    p.add_argument("--samples", type=int, default=500)
    p.add_argument("--seed", type=int, default=3)
    args = p.parse_args()
    halation = os.environ.get("HALATION", "target/release/halation")
    prior = os.environ.get("HALATION_PRIOR", "data/priors/vlbi-64.safetensors")
    args.work.mkdir(parents=True, exist_ok=True)
    stack, ensemble = args.work / "prior-samples.safetensors", args.work / "prior-samples.h5"
    if not stack.exists():
        subprocess.run([halation, "prior", "sample", prior, "-n", str(args.samples), "--seed", str(args.seed), "-o", stack], check=True)
    u = load_file(stack)["samples"][:, 0] * 0.5 + 0.5
    as_ensemble((u / u.sum(axis=(1, 2), keepdims=True)).astype(np.float32), ensemble)
    found = json.loads(subprocess.run([halation, "assess", ensemble, "--json"], check=True, capture_output=True, text=True).stdout)
    rings = [d for d in found["ring_draws"] if d and d["is_ring"]]
    like_m87 = [d for d in rings if 39 <= d["corrected_diameter_uas"] <= 45 and d["width_uas"] <= 20 and 135 <= d["position_angle_deg"] % 360 <= 190]
    n = len(u)
    share = lambda k: {"number": k, "share": k / n, "error": math.sqrt(max(k, 1) * (n - k) / n) / n}
    print(json.dumps({"samples": n, "ring": share(len(rings)), "ring_like_m87": share(len(like_m87))}, indent=1))


if __name__ == "__main__":
    main()
