#!/usr/bin/env python3
"""The picture of docs/m87.md: the EHT's images beside posterior images and samples of the prior.

usage: gallery.py WORK PRIOR-SAMPLES.safetensors OUT.png     (WORK as `make proof` leaves it; HALATION_SHARED: the public data)

Rows: 6 April, 5 April (EHT fiducial image, mean of seed 0, mean of seed 1, the first three draws of seed 0), then six samples of the
prior. 128 microarcsec each, North up, East left, each scaled to its own largest value.
"""
import os, struct, sys, zlib
from pathlib import Path

import h5py
import numpy as np
from astropy.io import fits
from safetensors.numpy import load_file

FIELD_UAS, SIZE, GAP = 128.0, 192, 4


def sampled(pixels, pixel_uas):
    """Bilinear on SIZE x SIZE points of the field, about the middle of the image; row 0 is North."""
    at = (np.arange(SIZE) + 0.5 - SIZE / 2) * FIELD_UAS / SIZE / pixel_uas + 0.5 * (pixels.shape[0] - 1)
    low = np.clip(np.floor(at).astype(int), 0, pixels.shape[0] - 2)
    t = np.clip(at - low, 0.0, 1.0)
    rows = pixels[low] * (1 - t)[:, None] + pixels[low + 1] * t[:, None]
    return (rows[:, low] * (1 - t) + rows[:, low + 1] * t)[::-1]


def image(path):
    hdu = fits.open(path)[0]
    return sampled(np.squeeze(hdu.data).astype(float), abs(hdu.header["CDELT2"]) * 3.6e9)


def coloured(v):
    v = np.clip(v / v.max(), 0.0, 1.0)
    return (255 * np.clip(np.stack([2 * v, 2 * v - 0.5, 2 * v - 1], axis=-1), 0, 1)).astype(np.uint8)


def main():
    work, samples, out = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    data = Path(os.environ.get("HALATION_SHARED", "../shared")) / "data/vlbi/m87_2017"
    rows = []
    for day in ("096", "095"):
        draws = h5py.File(work / f"m87-{day}-seed0/posterior.h5")["posterior/image"][0, :3, 0].astype(float)
        means = [image(work / f"m87-{day}-seed{seed}/mean.fits") for seed in (0, 1)]
        rows.append([image(data / f"eht_fiducial_{day}.fits"), *means, *(sampled(d, FIELD_UAS / d.shape[0]) for d in draws)])
    u = load_file(samples)["samples"][:6, 0].astype(float) * 0.5 + 0.5
    rows.append([sampled(s, FIELD_UAS / s.shape[0]) for s in u])
    height, width = 3 * (SIZE + GAP) - GAP, 6 * (SIZE + GAP) - GAP
    page = np.full((height, width, 3), 255, dtype=np.uint8)
    for j, row in enumerate(rows):
        for i, v in enumerate(row):
            page[j * (SIZE + GAP):j * (SIZE + GAP) + SIZE, i * (SIZE + GAP):i * (SIZE + GAP) + SIZE] = coloured(v)
    lines = b"".join(b"\0" + line.tobytes() for line in page)
    chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    out.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines, 9)) + chunk(b"IEND", b""))


if __name__ == "__main__":
    main()
