//! What a run tells: log.txt, and a bar or plain lines on stderr.

use anyhow::{Context, Result};
use halation_inverse::Progress;
use halation_io::OutputDir;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// log.txt of a run.
pub(super) struct Log {
    path: PathBuf,
    file: std::fs::File,
}

impl Log {
    pub fn open(folder: &OutputDir) -> Result<Self> {
        let path = folder.path().join("log.txt");
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&path).with_context(|| path.display().to_string())?;
        Ok(Self { path, file })
    }

    pub fn line(&mut self, text: &str) -> Result<()> {
        writeln!(self.file, "{text}").with_context(|| self.path.display().to_string())
    }
}

/// A bar on a terminal, one plain line every few seconds elsewhere.
pub(super) struct Display {
    bar: Option<ProgressBar>,
    last: Option<Instant>,
}

impl Display {
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len} {msg}") {
                bar.set_style(style);
            }
            bar
        });
        Self { bar, last: None }
    }

    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => eprintln!("{line}"),
        }
    }

    pub fn show(&mut self, p: &Progress) {
        const EVERY: Duration = Duration::from_secs(5);
        let i = &p.info;
        let chi2: Vec<String> = i.reduced_chi2.iter().map(|(name, v)| format!("{name} {v:.2}")).collect();
        let ess = i.effective_samples.map(|e| format!(", effective samples {e:.0}")).unwrap_or_default();
        let left = if p.left_s.is_finite() { format!("{:.1} min left", p.left_s / 60.0) } else { "measuring".into() };
        let text = format!("{}, network {}, chi2 {}{ess}, {left}", i.stage, i.network_evaluations, chi2.join(", "));
        match &self.bar {
            Some(bar) => {
                bar.set_length(i.total as u64);
                bar.set_position(i.step as u64);
                bar.set_message(text);
            }
            None if self.last.is_none_or(|t| t.elapsed() >= EVERY) || i.done() => {
                eprintln!("{}/{} {text}", i.step, i.total);
                self.last = Some(Instant::now());
            }
            None => {}
        }
    }

    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
