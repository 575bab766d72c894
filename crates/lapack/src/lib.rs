//! The one place that chooses a LAPACK: OpenBLAS, linked statically by `build.rs`.
//!
//! Libraries call LAPACK through `ndarray-linalg` without naming a back end; the binary and every test that reaches LAPACK say
//! `use halation_lapack as _;` so that the symbols are found.

unsafe extern "C" {
    fn openblas_set_num_threads(threads: std::ffi::c_int);
}

/// Makes every LAPACK call run in the thread that calls it. Results then do not depend on the number of threads, and callers that are
/// parallel themselves do not oversubscribe the machine.
pub fn one_thread() {
    // SAFETY: OpenBLAS allows this call at any time from any thread; it takes a plain integer.
    unsafe { openblas_set_num_threads(1) }
}

#[cfg(test)]
mod tests {}
