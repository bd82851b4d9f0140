//! What files mean, and what is said of wrong ones.

use std::fs;

use postern_core::{Declaration, declaration::assertion::Verdict};

use super::*;

const EXAMPLE: &str = include_str!("../../../../../docs/examples/policy.toml");

fn read_all(files: &[(&str, &str)]) -> Result<File> {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    read::read(dir.path())
}

#[test]
fn the_example_reads_and_its_assertions_hold() {
    let declaration: Declaration = read_all(&[("a.toml", EXAMPLE)]).unwrap().into();
    assert!(declaration.groups.is_some() && declaration.policies.is_some() && declaration.assertions.len() > 2);
    let mut env = Env { now: clock::now(), moment: clock::moment(), random: &mut coordinator::random };
    let checked = check_offline(&declaration, &mut env).unwrap();
    assert!(checked.iter().all(|checked| checked.verdict == Verdict::Holds), "{checked:?}");
}

#[test]
fn what_is_written_reads_back() {
    let file = read_all(&[("a.toml", EXAMPLE)]).unwrap();
    let text = to_toml(&file).unwrap();
    assert_eq!(read_all(&[("a.toml", &text)]).unwrap(), file, "{text}");
    let json = serde_json::to_string(&file).unwrap();
    assert_eq!(serde_json::from_str::<File>(&json).unwrap(), file);
    // Empty sections are not absent ones.
    let none = "policies = []\n[groups]\n[sites]\n[resources]\n";
    let file = read_all(&[("a.toml", none)]).unwrap();
    assert!(file.policies.is_some() && file.groups.is_some() && file.sites.is_some() && file.resources.is_some());
    assert_eq!(read_all(&[("a.toml", &to_toml(&file).unwrap())]).unwrap(), file);
    let absent = read_all(&[("a.toml", "")]).unwrap();
    assert_eq!(absent, File::default());
}

#[test]
fn a_folder_is_one_declaration() {
    let file = read_all(&[
        ("b.toml", "[groups.ops]\n[[policies]]\nsubject = \"everyone\"\nresource = \"wiki\"\n"),
        ("a.toml", "[groups.eng]\n[[policies]]\nsubject = \"group:eng\"\nresource = \"wiki\"\n"),
        (".hidden.toml", "nonsense"),
        ("readme.txt", "nonsense"),
    ]);
    let declaration: Declaration = file.unwrap().into();
    assert_eq!(declaration.groups.unwrap().len(), 2);
    assert_eq!(declaration.policies.unwrap().len(), 2);
    assert_eq!((declaration.sites, declaration.resources), (None, None));
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let policy = "[[policies]]\nsubject = \"everyone\"\nresource = \"wiki\"\n";
    let broken = |line: &str| format!("{policy}{line}\n");
    for (text, why) in [
        ("[group.eng]", &["a.toml", "line 1", "unknown field `group`", "`groups`"][..]),
        ("[groups.eng]\nmember = []", &["line 2", "unknown field `member`", "`members`"]),
        ("[groups.Eng]", &["line 1", "lower-case"]),
        ("[resources.wiki]\nsite = \"office\"\ntarget = \"10.0.0.5\"", &["line 1", "missing field `open`"]),
        (
            "[resources.wiki]\nsite = \"office\"\ntarget = \"10.0.0.5\"\nopen = \"443\"",
            &["line 4", "not a list of ports"],
        ),
        ("[[policies]]\nsubject = \"everyone\"", &["line 1", "a 'subject' and a 'resource'"]),
        (&broken("cedar = \"\""), &["line 1", "no other field"]),
        (&broken("when = \"posture.disk\""), &["line 4", "'posture.disk' is not known"]),
        (&broken("until = \"tomorrow\""), &["line 4", "2026-12-31"]),
        (&broken("effect = \"forbid\""), &["line 4", "allow"]),
        (&format!("{policy}{policy}"), &["a.toml", "twice"]),
        (
            "[[assertions]]\nname = \"x\"\nexpect = \"deny\"\nresource = \"wiki\"",
            &["line 1", "one 'user' or one 'device'"],
        ),
        ("[groups", &["a.toml", "line 1"]),
    ] {
        let error = format!("{:#}", read_all(&[("a.toml", text)]).unwrap_err());
        for why in why {
            assert!(error.contains(why), "'{why}' is not in: {error}");
        }
    }
    for twice in ["[users.carol]", "[groups.eng]", "[sites.office]", policy] {
        let error = format!("{:#}", read_all(&[("a.toml", twice), ("b.toml", twice)]).unwrap_err());
        assert!(error.contains("a.toml") && error.contains("b.toml") && error.contains("both"), "{error}");
    }
    assert!(read_all(&[]).unwrap_err().to_string().contains(".toml"));
    assert!(format!("{:#}", read::read(Path::new("/nowhere.toml")).unwrap_err()).contains("/nowhere.toml"));
}
