#!/usr/bin/env python3
"""A problem for `halation reconstruct linear`: an image that was not trained on, blurred, a third of its pixels seen, with noise.

usage: make_problem.py IMAGE.fits PROBLEM.h5      (image values 0 to 1, as in training with --range 0,1)
"""
import sys

import h5py
import numpy as np
from astropy.io import fits

BLUR_PIXELS, SEEN, SIGMA = 1.5, 1 / 3, 0.02


def main():
    truth = fits.getdata(sys.argv[1]).astype(float)
    rng, side = np.random.default_rng(0), truth.shape[0]
    # A Gaussian point-spread function, cut off at the frame: one matrix along y, the same along x.
    d = np.arange(side)
    line = np.exp(-((d[:, None] - d) ** 2) / (2 * BLUR_PIXELS**2)) / np.sqrt(2 * np.pi * BLUR_PIXELS**2)
    a = np.kron(line, line)[np.sort(rng.choice(side * side, int(SEEN * side * side), replace=False))]
    y = a @ truth.ravel() + rng.normal(0, SIGMA, len(a))
    # The pixels of the prior and of the draws are z = 2 v - 1, so that A v = A z / 2 + A 1 / 2.
    with h5py.File(sys.argv[2], "w") as f:
        f["A"], f["y"] = a / 2, y - a.sum(axis=1) / 2
        f.attrs["sigma"], f.attrs["image_shape"] = SIGMA, [1, side, side]


if __name__ == "__main__":
    main()
