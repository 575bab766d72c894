//! The one place that chooses a LAPACK: OpenBLAS, linked statically by `build.rs`.
//!
//! Libraries call LAPACK through `ndarray-linalg` without naming a back end; the binary and every test that reaches LAPACK say
//! `use halation_lapack as _;` so that the symbols are found.

#[cfg(test)]
mod tests {}
