//! A machine where systemd-resolved is in charge of names: the real one, on a system bus of its own.
//!
//! Such a machine has mounts and process ids of its own as well, in which `/etc/resolv.conf` leads to systemd-resolved and
//! process 1 is where it is. The program is unpacked from its package and never installed (see `install-packages`), since
//! installing it takes over the resolver of the machine that runs the tests.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};

use crate::{process::Background, topology::Host, wait::eventually};

/// Where `install-packages` unpacks it.
const UNPACKED: &str = "/usr/local/lib/postern-lab";

const BOOT: &str = r#"
set -e
mount --make-rprivate /
cp -a /etc "$1/etc"
mount --bind "$1/etc" /etc
mount -t tmpfs tmpfs /run
mkdir -p /run/dbus /run/systemd/resolve /etc/dbus-1/system.d
for user in messagebus:991 systemd-resolve:990; do
    name=${user%:*} id=${user#*:}
    grep -q "^$name:" /etc/group || echo "$name:x:$id:" >> /etc/group
    grep -q "^$name:" /etc/passwd || echo "$name:x:$id:$id::/:/usr/sbin/nologin" >> /etc/passwd
done
chown systemd-resolve:systemd-resolve /run/systemd/resolve
cp "$2/usr/share/dbus-1/system.d/org.freedesktop.resolve1.conf" /etc/dbus-1/system.d/
printf '[Resolve]\nDNS=%s\nDNSSEC=no\nLLMNR=no\nMulticastDNS=no\n' "$3" > /etc/systemd-resolved.conf
mkdir -p /etc/systemd && mv /etc/systemd-resolved.conf /etc/systemd/resolved.conf
rm -f /etc/resolv.conf
ln -s /run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
dbus-daemon --system --nofork --nopidfile &
until [ -S /run/dbus/system_bus_socket ]; do sleep 0.02; done
export LD_LIBRARY_PATH="$2/usr/lib/$(uname -m)-linux-gnu/systemd"
"$2/lib/systemd/systemd-resolved" &
until [ -e /run/systemd/resolve/stub-resolv.conf ]; do sleep 0.02; done
echo booted
wait
"#;

/// Puts systemd-resolved in charge on a host, asking `upstream`. What runs in the host that is returned is on that machine; it
/// ends with the process.
///
/// # Errors
/// When the program is not unpacked, or does not start.
pub fn boot(host: &Host, upstream: &str) -> Result<(Host, Background)> {
    ensure!(
        Path::new(UNPACKED).join("lib/systemd/systemd-resolved").exists(),
        "systemd-resolved is not unpacked below {UNPACKED}; run integration/lab/install-packages"
    );
    let dir = host.dir().join("machine");
    fs::create_dir_all(&dir)?;
    let mut command = host.command("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", BOOT, "boot"]);
    command.arg(&dir).args([UNPACKED, upstream]);
    let machine = host.spawn("machine", &mut command)?;
    eventually("systemd-resolved starts", || {
        ensure!(machine.log().contains("booted"), "{}", machine.log());
        Ok(())
    })?;
    // The first and only child of `unshare` is process 1 of the machine.
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", machine.pid()))?;
    let init = children.split_whitespace().next().and_then(|pid| pid.parse().ok()).context("no process 1")?;
    Ok((host.inside(init), machine))
}

/// What `resolvectl` says on such a machine.
///
/// # Errors
/// When it fails.
pub fn resolvectl(machine: &Host, words: &[&str]) -> Result<String> {
    let mut command = machine.command(&format!("{UNPACKED}/usr/bin/resolvectl"));
    command.env("LD_LIBRARY_PATH", format!("{UNPACKED}/usr/lib/{}-linux-gnu/systemd", std::env::consts::ARCH));
    crate::process::run(command.args(words))?.success()
}
