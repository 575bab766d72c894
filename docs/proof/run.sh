#!/usr/bin/env bash
# The slow evidence. Resumable: what is done is skipped, what was interrupted goes on. Result files land in docs/proof/.
# Needs the public data: HALATION_SHARED, or ../shared beside the source tree.
set -euo pipefail
cd "$(dirname "$0")/../.."
shared=${HALATION_SHARED:-../shared}
halation=target/release/halation
python=${HALATION_PYTHON:-.venv/bin/python}
work=${HALATION_PROOF:-proof-output}
mkdir -p "$work"

# [truth=F.fits] reconstruct NAME FILES... -- OPTIONS...
reconstruct() {
  local name=$1 files=()
  shift
  while [ "$1" != -- ]; do files+=("$1"); shift; done
  shift
  [ -d "$work/$name" ] || "$halation" reconstruct vlbi "${files[@]}" -o "$work/$name" --resume "$@"
  # Paths as they are in the source tree and in the public data, wherever both lie.
  "$halation" assess "$work/$name" ${truth:+--truth "$truth"} --json | sed "s#$(pwd -P)/##g; s#$(realpath "$shared")/##g" > "docs/proof/$name.json"
  echo "$name: docs/proof/$name.json"
}

# observe IMAGE FOLDER SEED OPTIONS...: the image with the coverage and noise of 6 April, simulated gains and phases, a file for each band.
observe() {
  local image=$1 folder=$2 seed=$3
  shift 3
  [ ! -f "$folder/hi.uvfits" ] || return 0
  mkdir -p "$folder"
  for band in lo hi; do
    "$halation" simulate vlbi --image "$image" --like "$m87/SR1_M87_2017_096_${band}_hops_netcal_StokesI.uvfits" --seed $((seed++)) \
      -o "$folder/$band.uvfits" --force "$@"
  done
}

m87="$shared/data/vlbi/m87_2017"
if [ ! -d "$m87" ]; then
  echo "skipped: M87* needs $m87; set HALATION_SHARED"
  exit 0
fi
# Complex visibilities against the closed form, 100 simulated observations: writes docs/proof/vlbi-closed-form.json.
HALATION_SHARED=$(realpath "$shared") HALATION_PROOF=$(realpath "$work") cargo test --release -p halation-vlbi --test closed_form -- --ignored --nocapture
for day in 095 096; do
  for seed in 0 1; do
    reconstruct "m87-$day-seed$seed" "$m87/SR1_M87_2017_${day}_lo_hops_netcal_StokesI.uvfits" "$m87/SR1_M87_2017_${day}_hi_hops_netcal_StokesI.uvfits" -- --seed "$seed" --fov 128uas
  done
done
# Twice the levels must leave the ensemble as it is.
reconstruct m87-096-seed1-twice "$m87/SR1_M87_2017_096_lo_hops_netcal_StokesI.uvfits" "$m87/SR1_M87_2017_096_hi_hops_netcal_StokesI.uvfits" -- --seed 1 --fov 128uas --levels 880
# How many prior samples would pass for M87*, and the picture of docs/m87.md.
"$python" docs/proof/prior_rings.py "$work/prior-rings" > docs/proof/prior-rings.json
HALATION_SHARED="$shared" "$python" docs/proof/gallery.py "$work" "$work/prior-rings/prior-samples.safetensors" docs/img/m87-gallery.png
# The EHT's own image of 6 April, simulated with that day's coverage, noise, gains and phases.
observe "$m87/eht_fiducial_096.fits" "$work/fiducial" 5
truth="$work/fiducial/lo.truth.fits" reconstruct fiducial-096 "$work/fiducial/lo.uvfits" "$work/fiducial/hi.uvfits" -- --fov 128uas
# What is no ring, with the coverage and noise of 6 April, simulated gains and phases, and default settings, in the image's own field.
for source in "disk 3" "core-jet 2" "double 2" "double 0" "disk 0" "disk 1"; do
  read -r family index <<< "$source"
  name=$family-$index-096 folder="$work/sources-096-$family-$index"
  image="$folder/source_$(printf %06d "$index").fits"
  [ -f "$image" ] || "$halation" simulate sources --family "$family" --seed 11 --start "$index" -n 1 -o "$folder" --force
  observe "$image" "$folder" 0 --flux 0.6Jy
  field=$("$python" -c 'import json, sys; print(json.load(open(sys.argv[1]))[0]["fov_uas"])' "$folder/labels.json")
  truth="$folder/lo.truth.fits" reconstruct "$name" "$folder/lo.uvfits" "$folder/hi.uvfits" -- --fov "${field}uas"
done
c=$shared/data/vlbi/3c279_2017
reconstruct 3c279-095-seed0 "$c/SR1_3C279_2017_095_lo_hops_netcal_StokesI.uvfits" "$c/SR1_3C279_2017_095_hi_hops_netcal_StokesI.uvfits" --
truth="$shared/data/vlbi/synthetic_sgra/gt.fits" reconstruct sgra-synthetic-seed0 "$shared/data/vlbi/synthetic_sgra/obs.uvfits" --

# Coverage by ranks with the trained prior: one observation of each kind at a time, so that an interrupted run has both. Entries stay in the record, so that
# only what it lacks is run: move it away when the solver has changed.
record=docs/proof/coverage.json
for i in $(seq 0 39); do
  for truths in network simulator; do
    "$python" docs/proof/coverage.py RUN "$work/coverage" "$record" --truths $truths --first "$i" --number 1
  done
done
"$python" docs/proof/coverage.py SUM "$record"
