//! What the device says of itself.

use postern_model::Posture;

/// This machine's posture now.
pub fn posture() -> Posture {
    let uname = rustix::system::uname();
    let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    let os = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let posture = Posture {
        hostname: text(uname.nodename()),
        os: pretty_name(&os).unwrap_or_else(|| text(uname.sysname())),
        kernel: text(uname.release()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..Posture::default()
    };
    posture.bounded()
}

/// `PRETTY_NAME` of os-release(5).
fn pretty_name(os_release: &str) -> Option<String> {
    let value = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(value.trim().trim_matches(['"', '\'']).to_owned()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_a_name_and_a_kernel() {
        let posture = posture();
        assert!(!posture.hostname.is_empty() && !posture.kernel.is_empty() && !posture.os.is_empty());
        assert_eq!(pretty_name("ID=x\nPRETTY_NAME=\"Debian 12\"\n").as_deref(), Some("Debian 12"));
        assert_eq!(pretty_name(""), None);
    }
}
