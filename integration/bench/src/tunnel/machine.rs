//! What it was measured on.

use std::fs;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// The machine, as JSON.
pub(super) fn machine() -> Value {
    json!({
        "cpu": model(), "cores": cores(), "kernel": rustix::system::uname().release().to_string_lossy(),
    })
}

/// The machine, in a line.
pub(super) fn line() -> String {
    format!("{}, {} cores, Linux {}", model(), cores(), rustix::system::uname().release().to_string_lossy())
}

/// TCP's congestion control, where nothing else is asked for.
pub(super) fn congestion_control() -> Result<String> {
    let file = "/proc/sys/net/ipv4/tcp_congestion_control";
    Ok(fs::read_to_string(file).with_context(|| format!("read {file}"))?.trim().to_owned())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn model() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(':'));
    model.map_or("unknown processor", |(_, model)| model.trim()).to_owned()
}
