#!/usr/bin/env python3
"""Draws beside the true image: error of the mean, spread, coverage; and the error of ridge regression, which needs no prior network.

usage: compare.py OUT IMAGE.fits PROBLEM.h5      (OUT: a folder of `halation reconstruct linear`)
"""
import json
import sys
from pathlib import Path

import h5py
import numpy as np
from astropy.io import fits


def main():
    truth = 2 * fits.getdata(sys.argv[2]).astype(float) - 1
    with h5py.File(Path(sys.argv[1]) / "posterior.h5") as f:
        draws = f["posterior/image"][:].reshape(-1, *truth.shape)
    with h5py.File(sys.argv[3]) as f:
        a, y, sigma = f["A"][:], f["y"][:], f.attrs["sigma"]
    # A background of z = -1 and independent pixels with the standard deviation that the truth's have: the best a ridge can be told.
    variance = np.mean((truth + 1) ** 2)
    ridge = variance * a.T @ np.linalg.solve(variance * a @ a.T + sigma**2 * np.eye(len(y)), y + a.sum(axis=1)) - 1
    rms = lambda v: float(np.sqrt(np.mean(v**2)))
    beyond = lambda q: np.quantile(draws, q, axis=0)
    print(json.dumps({
        "rms_error_of_mean": rms(draws.mean(axis=0) - truth),
        "rms_standard_deviation": rms(draws.std(axis=0, ddof=1)),
        "inside_5_to_95_percent": float(np.mean((truth >= beyond(0.05)) & (truth <= beyond(0.95)))),
        "rms_error_of_ridge": rms(ridge.reshape(truth.shape) - truth),
    }, indent=1))


if __name__ == "__main__":
    main()
