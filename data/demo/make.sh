#!/usr/bin/env bash
# Makes the demo observation: one image of our own simulator, seen by the EHT of 2017 towards M87.
# The ring.uvfits that is kept here was made before random numbers depended on the frequency of a band: made anew, it has other noise.
# usage: data/demo/make.sh [path of the binary]
set -euo pipefail
halation=$(realpath "${1:-target/release/halation}")
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$halation" simulate sources --family gaussian-ring --seed 7 --start 9 -n 1 -o "$work/sources"
"$halation" simulate vlbi --image "$work"/sources/source_000009.fits --array eht-2017 --ra-deg 187.70593 --dec-deg 12.39112 \
    --start 2017-04-06T00:45 --hours 7.5 --scan-s 300 --gap-s 780 --integration-s 60 --frequency-ghz 227.0707,229.0707 \
    --flux 0.6Jy --seed 1 -o ring.uvfits --force
