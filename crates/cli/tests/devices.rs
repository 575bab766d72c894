//! Which kernels run is the user's choice, and said.

use std::process::{Command, Output};

fn devices(level: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_halation"))
        .args(["devices", "--json", "--cpu-level", level])
        .output()
        .expect("the binary runs")
}

#[test]
fn the_cpu_level_can_be_forced() {
    let output = devices("portable");
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["devices"][0]["level"], "portable");
    let output = devices("sse2");
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("--cpu-level") && message.contains("expected portable, avx2 or avx512"), "{message}");
}
