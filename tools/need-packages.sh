#!/usr/bin/env bash
# Installs the system packages that the build needs (Debian, Ubuntu), or prints which are missing and stops.
set -euo pipefail
packages=()
command -v cargo >/dev/null || { echo "Rust is missing: see https://rustup.rs, then run make again." >&2; exit 2; }
command -v cc >/dev/null || packages+=(build-essential)
command -v pkg-config >/dev/null || packages+=(pkg-config)
command -v gfortran >/dev/null || packages+=(gfortran)
python3 -c 'import venv, ensurepip' 2>/dev/null || packages+=(python3-venv)
# The static archive, not only the shared library: the binary must start on a node that has no OpenBLAS.
blas=$(pkg-config --variable=libdir openblas 2>/dev/null || true)
[ -n "$blas" ] && [ -f "$blas/libopenblas.a" ] || packages+=(libopenblas-dev)
[ ${#packages[@]} -eq 0 ] && exit 0
echo "Missing system packages: ${packages[*]}"
if ! command -v apt-get >/dev/null; then
  echo "This is not Debian or Ubuntu: install a C compiler, pkg-config, gfortran, python3 with venv and OpenBLAS with its static archive (libopenblas.a)." >&2
  exit 2
fi
install=(apt-get install -y --no-install-recommends "${packages[@]}")
if [ "$(id -u)" = 0 ]; then apt-get update && "${install[@]}"
elif sudo -n true 2>/dev/null; then sudo apt-get update && sudo "${install[@]}"
else
  echo "Run this, then make again:   sudo apt-get install ${packages[*]}" >&2
  exit 2
fi
