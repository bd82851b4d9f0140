//! What it was measured on.

use std::fs;

use serde_json::{Value, json};

/// The machine, as JSON.
pub(super) fn machine() -> Value {
    json!({
        "cpu": model(), "cores": cores(), "kernel": rustix::system::uname().release().to_string_lossy(),
        "tcp_congestion_control": read("/proc/sys/net/ipv4/tcp_congestion_control"),
    })
}

/// The machine, in a line.
pub(super) fn line() -> String {
    format!(
        "{}, {} cores, Linux {}, TCP with {}",
        model(),
        cores(),
        rustix::system::uname().release().to_string_lossy(),
        read("/proc/sys/net/ipv4/tcp_congestion_control"),
    )
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn model() -> String {
    let info = read("/proc/cpuinfo");
    let model = info.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(':'));
    model.map_or("unknown processor", |(_, model)| model.trim()).to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}
