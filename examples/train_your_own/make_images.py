#!/usr/bin/env python3
"""Images to train on, in place of your own: curved filaments on a dark ground, one FITS file each.

usage: make_images.py FOLDER NUMBER SEED
"""
import sys
from pathlib import Path

import numpy as np
from astropy.io import fits

SIDE = 32


def filaments(rng):
    """One image: one to four smooth curves of random brightness and width, values 0 to about 1."""
    y, x = np.mgrid[:SIDE, :SIDE]
    image = np.zeros((SIDE, SIDE))
    for _ in range(rng.integers(1, 5)):
        position, angle = rng.uniform(0, SIDE, 2), rng.uniform(0, 2 * np.pi)
        bend, width, brightness = rng.normal(0, 0.06), rng.uniform(0.8, 1.6), rng.uniform(0.3, 1.0)
        curve = np.zeros_like(image)
        for _ in range(rng.integers(20, 60)):
            curve = np.maximum(curve, np.exp(-((y - position[0]) ** 2 + (x - position[1]) ** 2) / (2 * width**2)))
            position = position + [np.sin(angle), np.cos(angle)]
            angle += bend + rng.normal(0, 0.05)
        image = np.maximum(image, brightness * curve)
    return image.astype(np.float32)


def main():
    folder, number, rng = Path(sys.argv[1]), int(sys.argv[2]), np.random.default_rng(int(sys.argv[3]))
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(number):
        fits.writeto(folder / f"{i:05d}.fits", filaments(rng), overwrite=True)


if __name__ == "__main__":
    main()
