#!/usr/bin/env python3
"""What a prior leaves of smooth ripples of the background: `halation prior eval --io` on simulated doubles.

usage: ripples.py PRIOR... [--images N]      (prints JSON)

Images have noise sigma and, in pairs, plus and minus half a ripple with an RMS of sigma. Printed is, by sigma and cycles per field (x, y), the share of the ripple
that is left between the denoised images of a pair, in pixels where there is nothing: 1 where the prior takes it for the image's own, 0 where it knows better.
"""
import argparse, json, os, subprocess, tempfile
from pathlib import Path

import numpy as np
from astropy.io import fits
from safetensors.numpy import load_file, save_file

SIGMAS = [0.003, 0.01, 0.02, 0.05]
MODES = [(0, 0), (1, 0), (1, 1), (2, 1), (3, 0), (3, 3), (5, 2)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("priors", nargs="+")
    parser.add_argument("--images", type=int, default=8)
    args = parser.parse_args()
    halation = os.environ.get("HALATION", "target/release/halation")
    with tempfile.TemporaryDirectory() as folder:
        command = [halation, "simulate", "sources", "--spots", "--family", "double", "--seed", "3", "-n", "64", "-o", f"{folder}/s"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        images = [np.squeeze(fits.getdata(p)) for p in sorted(Path(folder, "s").glob("*.fits"))]
        images = [2.0 * image / image.max() - 1.0 for image in images]
        # With nothing in half of the field.
        images = [z for z in images if (z < -1.0 + 1e-6).sum() > 2048][: args.images]
        rng = np.random.default_rng(0)
        rows, columns = np.mgrid[:64, :64]
        x, levels, cases = [], [], []
        for sigma in SIGMAS:
            for z in images:
                for mode in MODES:
                    ripple = np.cos(2 * np.pi * (mode[0] * columns + mode[1] * rows) / 64 + rng.uniform(0, 2 * np.pi) * any(mode))
                    ripple /= np.sqrt((ripple**2).mean())
                    noise = rng.normal(size=z.shape)
                    x += [z + sigma * (noise + sign * ripple) for sign in (0.5, -0.5)]
                    levels += [sigma] * 2
                    cases.append((sigma, mode, ripple, z < -1.0 + 1e-6))
        x = np.array(x, np.float32)[:, None]
        save_file({"x": x, "sigma": np.array(levels, np.float32)}, f"{folder}/in")
        result = {"images": len(images)}
        for prior in args.priors:
            subprocess.run([halation, "prior", "eval", prior, "--io", f"{folder}/in", "-o", f"{folder}/out"], check=True, stdout=subprocess.DEVNULL)
            denoised = load_file(f"{folder}/out")["output"][:, 0].astype(float)
            shares = {}
            for i, (sigma, mode, ripple, empty) in enumerate(cases):
                left = (denoised[2 * i] - denoised[2 * i + 1]) / sigma
                share = (left * ripple)[empty].sum() / (ripple**2)[empty].sum()
                shares.setdefault(str(sigma), {}).setdefault(f"{mode[0]},{mode[1]}", []).append(share)
            result[Path(prior).stem] = {s: {m: round(float(np.mean(v)), 3) for m, v in by.items()} for s, by in shares.items()}
        print(json.dumps(result, indent=1))


main()
