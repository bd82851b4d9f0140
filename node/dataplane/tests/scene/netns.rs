//! Network namespaces of this test alone.

use std::{
    fs::File,
    os::fd::AsFd as _,
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

static MADE: AtomicU32 = AtomicU32::new(0);

/// A namespace, removed when this is dropped. Its name has the form by which the laboratory of the end-to-end tests
/// finds what killed runs have left behind.
#[derive(Debug)]
pub(crate) struct Netns {
    name: String,
}

impl Netns {
    pub(crate) fn new(name: &str) -> Self {
        let name = format!("pstn{}-lane{}-{name}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        ip(&["netns", "add", &name]);
        let netns = Self { name };
        netns.ip(&["link", "set", "lo", "up"]);
        netns
    }

    /// Joins two namespaces by a cable with an interface of this name at each end.
    pub(crate) fn join(&self, device: &str, other: &Self, other_device: &str) {
        let end = ["peer", "name", other_device, "netns", &other.name];
        self.ip(&[&["link", "add", device, "type", "veth"][..], &end].concat());
        self.ip(&["link", "set", device, "up"]);
        other.ip(&["link", "set", other_device, "up"]);
    }

    /// Adds addresses, usable at once.
    pub(crate) fn address(&self, device: &str, addresses: &[&str]) {
        for address in addresses {
            let nodad = address.contains(':').then_some("nodad");
            let words: Vec<_> = ["addr", "add", address, "dev", device].into_iter().chain(nodad).collect();
            self.ip(&words);
        }
    }

    /// Runs `ip` in it.
    pub(crate) fn ip(&self, words: &[&str]) {
        ip(&[&["-n", &self.name], words].concat());
    }

    /// Runs a command in it.
    pub(crate) fn run(&self, words: &[&str]) -> Output {
        let output = Command::new("ip").args(["netns", "exec", &self.name]).args(words).output();
        output.expect("'ip' of iproute2 is there")
    }

    /// Runs a command in it that has to succeed.
    pub(crate) fn must(&self, words: &[&str]) {
        let output = self.run(words);
        assert!(output.status.success(), "{}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr));
    }

    /// Runs `work` in it. Sockets and devices made there stay there.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let netns = File::open(format!("/run/netns/{}", self.name)).unwrap();
        let work = || {
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        };
        match thread::scope(|scope| scope.spawn(work).join()) {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

fn ip(words: &[&str]) {
    let output = Command::new("ip").args(words).output().expect("'ip' of iproute2 is there");
    assert!(output.status.success(), "ip {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr));
}
