#!/usr/bin/env bash
# A prior of your own images, from a folder of files to posterior draws. usage: examples/train_your_own/run.sh [OUT]
# HALATION: the program, HALATION_PYTHON: a Python with numpy, h5py and astropy (`make python` installs one). NUMBER: images in the folder,
# IMAGES: images that training sees in all.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..
halation=${HALATION:-$root/target/release/halation}
python=${HALATION_PYTHON:-$root/.venv/bin/python}
out=${1:-train-your-own}
mkdir -p "$out"

# 1. A folder of images: PNG, TIFF, FITS or HDF5, square and of one size. Put your own here. One more, for the test, stays outside.
[ -d "$out/images" ] || "$python" "$here/make_images.py" "$out/images" "${NUMBER:-4000}" 1
"$python" "$here/make_images.py" "$out/unseen" 1 2

# 2. Training. `--range` says which pixel values the network calls -1 and 1; `--augment` turns and mirrors, where the images have no up.
#    Interrupted by Ctrl-C, it goes on when this is called again. log.jsonl holds the loss on 200 images that are held out.
#    Gray levels of these images have a standard deviation of about 0.3 (in -1 to 1), which --sigma-data should be near.
[ -f "$out/run/prior.safetensors" ] && resume=--resume || resume=
"$halation" prior train "$out/images" -o "$out/run" $resume --range 0,1 --augment --validation "${VALIDATION:-200}" --channels 16 --mult 1,2,2 --attn 8 \
  --batch 32 --lr 3e-3 --schedule cosine --sigma-data 0.3 --images "${IMAGES:-100000}"

# 3. Look at what it has learned before it is used.
"$halation" prior info "$out/run/prior.safetensors"
"$halation" prior sample "$out/run/prior.safetensors" -n 64 --seed 0 -o "$out/samples.png"

# 4. Use it: an unseen image, blurred, a third of the pixels measured; twenty draws of what it may have been.
"$python" "$here/make_problem.py" "$out/unseen/00000.fits" "$out/problem.h5"
"$halation" reconstruct linear "$out/problem.h5" --prior "$out/run/prior.safetensors" -o "$out/posterior" --draws 20 --force ${LEVELS:+--levels "$LEVELS"}
"$python" "$here/compare.py" "$out/posterior" "$out/unseen/00000.fits" "$out/problem.h5"
