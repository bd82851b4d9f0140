//! Whether the screen locks by itself: what the desktop of whoever is logged in says.
//!
//! GNOME's settings are asked for with gsettings(1), as that user and not as root; KDE's are in files. Every graphical session
//! has to lock. Without one there is no screen to speak of, and another desktop's ways are not known: both are unknown.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use tokio::process::Command;

use super::files::{text, under};
use crate::os::program;

/// More sessions than this are not looked at, and more files not where they are.
const MAX_SESSIONS: usize = 16;
const MAX_FILES: usize = 1024;
/// Where KDE keeps what is set for all users, and where for one, in the home directory.
const KDE_ALL: &str = "/etc/xdg/kscreenlockerrc";
const KDE_OWN: &str = ".config/kscreenlockerrc";
/// A schema, a key, and whether its value lets the screen lock.
type Setting = (&'static str, &'static str, fn(&str) -> bool);
/// The settings of GNOME that decide.
const GNOME: [Setting; 3] = [
    ("org.gnome.desktop.screensaver", "lock-enabled", |value| value == "true"),
    ("org.gnome.desktop.lockdown", "disable-lock-screen", |value| value == "false"),
    // After so many seconds without input; zero is never.
    ("org.gnome.desktop.session", "idle-delay", |value| number(value).is_some_and(|seconds| seconds > 0)),
];

/// A user in front of a screen, and what is known of it without asking a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seat {
    user: User,
    lock: Lock,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lock {
    Known(Option<bool>),
    AskGnome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct User {
    uid: u32,
    gid: u32,
    home: PathBuf,
}

/// Who is in front of a screen; `None` when nobody can know. Reads files, and may wait for a disk.
pub(super) fn seats(root: &Path) -> Option<Vec<Seat>> {
    let sessions: Vec<_> = fs::read_dir(under(root, "/run/systemd/sessions")).ok()?.take(MAX_FILES).collect();
    let users = text(&under(root, "/etc/passwd")).ok()?;
    let mut seats = Vec::new();
    for session in sessions {
        let path = session.ok()?.path();
        // Beside the sessions are pipes, named like them with an ending.
        if path.extension().is_some() {
            continue;
        }
        let Ok(session) = text(&path) else { continue };
        let field = |name: &str| {
            session.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default().trim()
        };
        let is_graphical = matches!(field("TYPE"), "wayland" | "x11" | "mir");
        if field("CLASS") != "user" || !is_graphical || field("STATE") == "closing" {
            continue;
        }
        let user = user(&users, field("UID").parse().ok()?)?;
        let lock = lock(root, &user, &field("DESKTOP").to_lowercase());
        seats.push(Seat { user, lock });
        if seats.len() > MAX_SESSIONS {
            return None;
        }
    }
    Some(seats)
}

fn lock(root: &Path, user: &User, desktop: &str) -> Lock {
    if desktop.starts_with("gnome") || desktop.starts_with("ubuntu") || desktop == "pop" {
        Lock::AskGnome
    } else if desktop.starts_with("plasma") || desktop.starts_with("kde") {
        Lock::Known(kde(root, user))
    } else {
        Lock::Known(None)
    }
}

/// Whether all of them lock. One that doesn't decides; then one of which it is not known.
pub(super) async fn lock_all(seats: Vec<Seat>) -> Option<bool> {
    let mut answers = Vec::new();
    for seat in seats {
        answers.push(match seat.lock {
            Lock::Known(known) => known,
            Lock::AskGnome => gnome(&seat.user).await,
        });
    }
    together(&answers)
}

fn together(answers: &[Option<bool>]) -> Option<bool> {
    if answers.contains(&Some(false)) {
        return Some(false);
    }
    (!answers.is_empty() && !answers.contains(&None)).then_some(true)
}

async fn gnome(user: &User) -> Option<bool> {
    let mut locks = true;
    for (schema, key, is_right) in GNOME {
        let value = setting(user, schema, key).await?;
        locks &= is_right(value.trim());
    }
    Some(locks)
}

/// Of gsettings, run with the rights of the user whose settings they are, and with nothing of this program's environment.
async fn setting(user: &User, schema: &str, key: &str) -> Option<String> {
    if user.uid == 0 || user.gid == 0 {
        return None;
    }
    let mut command = Command::new("gsettings");
    // Other groups than this one are given up along with root.
    command.uid(user.uid).gid(user.gid).args(["get", schema, key]).current_dir("/").env_clear();
    let runtime = format!("/run/user/{}", user.uid);
    command.env("PATH", "/usr/local/bin:/usr/bin:/bin").env("LC_ALL", "C").env("HOME", &user.home);
    command.env("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={runtime}/bus")).env("XDG_RUNTIME_DIR", runtime);
    let output = program::output(command, "").await.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Such as `uint32 300`.
fn number(value: &str) -> Option<u32> {
    value.rsplit(' ').next()?.parse().ok()
}

/// Of passwd(5); users that are kept elsewhere are not found.
fn user(passwd: &str, uid: u32) -> Option<User> {
    passwd.lines().find_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        let (it, gid, home) = (fields.get(2)?, fields.get(3)?, fields.get(5)?);
        let is_it = it.parse() == Ok(uid) && home.starts_with('/');
        is_it.then(|| Some(User { uid, gid: gid.parse().ok()?, home: PathBuf::from(home) }))?
    })
}

/// The user's own setting, else the one for all, else KDE's own, which is to lock after five minutes.
fn kde(root: &Path, user: &User) -> Option<bool> {
    let home = under(root, &user.home);
    // A home that is hidden from this program says nothing, and its being empty neither.
    if fs::metadata(home.join(".config")).ok()?.uid() != user.uid {
        return None;
    }
    let (own, all) = (settings(&home.join(KDE_OWN))?, settings(&under(root, KDE_ALL))?);
    let get = |key: &str| kde_setting(&own, key).or_else(|| kde_setting(&all, key));
    let locks = match get("Autolock") {
        Some("true") | None => true,
        Some("false") => false,
        Some(_) => return None,
    };
    let minutes: f64 = match get("Timeout") {
        Some(text) => text.parse().ok()?,
        None => 5.0,
    };
    Some(locks && minutes > 0.0)
}

/// Empty when there is no such file; `None` when it can't be read.
fn settings(path: &Path) -> Option<String> {
    match text(path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == ErrorKind::NotFound => Some(String::new()),
        Err(_) => None,
    }
}

/// From the part `[Daemon]`, where a key may have a mark that forbids changing it.
fn kde_setting<'a>(settings: &'a str, key: &str) -> Option<&'a str> {
    let lines = settings.lines().map(str::trim);
    let daemon =
        lines.skip_while(|line| !line.starts_with("[Daemon]")).skip(1).take_while(|line| !line.starts_with('['));
    let mut pairs = daemon.filter_map(|line| line.split_once('='));
    pairs.find_map(|(name, value)| {
        let name = name.trim();
        let name = name.split_once('[').map_or(name, |(name, _)| name);
        (name == key).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    struct Tree(TempDir);

    impl Tree {
        fn new() -> Self {
            let tree = Self(tempfile::tempdir().unwrap());
            // The files in a home are whoever runs the test's.
            let uid = rustix::process::getuid().as_raw();
            tree.write(
                "/etc/passwd",
                &format!(
                    "odd line\nalice:x:{uid}:1000:Alice:/home/alice:/bin/sh\nbob:x:54321:1001::/home/bob:/bin/sh\n"
                ),
            );
            tree
        }

        fn write(&self, path: &str, text: &str) {
            let path = under(self.0.path(), path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn session(&self, name: &str, uid: u32, more: &str) {
            self.write(&format!("/run/systemd/sessions/{name}"), &format!("# private\nUID={uid}\nUSER=x\n{more}"));
        }

        fn locks(&self) -> Option<Vec<Lock>> {
            Some(seats(self.0.path())?.into_iter().map(|seat| seat.lock).collect())
        }
    }

    fn own() -> u32 {
        rustix::process::getuid().as_raw()
    }

    const KDE: &str = "TYPE=wayland\nCLASS=user\nSTATE=active\nDESKTOP=KDE\n";

    #[tokio::test]
    async fn without_a_graphical_session_nothing_is_known() {
        let tree = Tree::new();
        assert_eq!(tree.locks(), None);
        tree.session("1", own(), "TYPE=tty\nCLASS=user\nSTATE=active\n");
        tree.session("2", own(), "TYPE=wayland\nCLASS=greeter\nSTATE=active\nDESKTOP=gnome\n");
        tree.session("3", own(), "TYPE=x11\nCLASS=user\nSTATE=closing\nDESKTOP=gnome\n");
        tree.session("4.ref", own(), KDE);
        assert_eq!(tree.locks(), Some(vec![]));
        assert_eq!(lock_all(seats(tree.0.path()).unwrap()).await, None);
        tree.session("5", own(), "TYPE=x11\nCLASS=user\nSTATE=active\nDESKTOP=sway\n");
        assert_eq!(tree.locks(), Some(vec![Lock::Known(None)]));
        tree.session("6", 99_999, KDE);
        assert_eq!(tree.locks(), None, "a user that is not found");
    }

    #[test]
    fn gnome_is_asked_whatever_its_session_is_called() {
        for desktop in ["gnome", "GNOME", "gnome-xorg", "ubuntu", "ubuntu-wayland"] {
            let tree = Tree::new();
            tree.session("c1", own(), &format!("TYPE=wayland\nCLASS=user\nSTATE=online\nDESKTOP={desktop}\n"));
            assert_eq!(tree.locks(), Some(vec![Lock::AskGnome]), "{desktop}");
        }
        let is_right = |key: &str, value: &str| GNOME.iter().find(|it| it.1 == key).unwrap().2(value);
        assert!(
            is_right("idle-delay", "uint32 300") && !is_right("idle-delay", "uint32 0") && !is_right("idle-delay", "")
        );
        assert!(is_right("lock-enabled", "true") && !is_right("lock-enabled", "false"));
        assert!(is_right("disable-lock-screen", "false") && !is_right("disable-lock-screen", "true"));
    }

    #[tokio::test]
    async fn root_s_settings_are_not_asked_for() {
        let root = User { uid: 0, gid: 0, home: "/root".into() };
        assert_eq!(setting(&root, "org.gnome.desktop.screensaver", "lock-enabled").await, None);
    }

    #[test]
    fn kde_s_files_say_whether_it_locks() {
        let tree = Tree::new();
        tree.session("1", own(), KDE);
        assert_eq!(tree.locks(), Some(vec![Lock::Known(None)]), "a home that is not seen");
        tree.write("/home/alice/.config/other", "");
        let locks = |own: &str| {
            tree.write("/home/alice/.config/kscreenlockerrc", own);
            match tree.locks().unwrap()[..] {
                [Lock::Known(known)] => known,
                ref other => panic!("{other:?}"),
            }
        };
        assert_eq!(tree.locks(), Some(vec![Lock::Known(Some(true))]), "KDE's own setting");
        assert_eq!(locks("[Other]\nAutolock=false\n"), Some(true));
        assert_eq!(locks("[Daemon]\nAutolock=false\nTimeout=10\n"), Some(false));
        assert_eq!(locks("[Daemon]\nAutolock[$i]=true\nTimeout=0\n"), Some(false));
        assert_eq!(locks("[Daemon]\nTimeout=soon\n"), None);
        tree.write(KDE_ALL, "[Daemon]\nAutolock=false\n");
        assert_eq!(locks("[Daemon]\nTimeout=10\n"), Some(false), "for all users");
        assert_eq!(locks("[Daemon]\nAutolock=true\n"), Some(true), "but for this one");
    }

    #[test]
    fn every_screen_has_to_lock() {
        assert_eq!(together(&[Some(true), Some(true)]), Some(true));
        assert_eq!(together(&[Some(true), Some(false), None]), Some(false));
        assert_eq!(together(&[Some(true), None]), None);
        assert_eq!(together(&[]), None);
    }
}
