//! What admins are refused, with words that help; a refusal changes nothing.

use std::{collections::BTreeSet, time::Duration};

use postern_model::{ApiKeyId, DeviceId, Filter, PolicyId, ResourceName, Sha256, TokenId};

use super::{
    office::{Office, add_resource, office, ports},
    shell::Shell,
};
use crate::{Command, NewPolicy, Refusal, ResourceEdit, TokenOwner, Touched};

fn refused(shell: &mut Shell, command: &Command) -> Refusal {
    let before = shell.core.state().clone();
    let refusal = shell.run(command).expect_err("it should be refused");
    assert_eq!(*shell.core.state(), before);
    assert!(shell.audit.is_empty() && shell.told.is_empty());
    refusal
}

fn conflicts(shell: &mut Shell, command: &Command, mentions: &str) {
    match refused(shell, command) {
        Refusal::Conflict { what } => assert!(what.contains(mentions), "'{what}' should mention '{mentions}'"),
        other => panic!("{command:?}: {other:?}"),
    }
}

fn invalid(shell: &mut Shell, command: &Command, mentions: &str) {
    match refused(shell, command) {
        Refusal::Invalid { what } => assert!(what.contains(mentions), "'{what}' should mention '{mentions}'"),
        other => panic!("{command:?}: {other:?}"),
    }
}

fn wiki() -> ResourceName {
    "wiki".parse().unwrap()
}

#[test]
fn unknown_names_are_named_with_the_command_that_lists_them() {
    let Office { mut shell, .. } = office();
    shell.group("eng");
    shell.forget();
    let no = "nobody";
    let (user, group) = (|| no.parse().unwrap(), || no.parse().unwrap());
    let resource: ResourceName = no.parse().unwrap();
    let policy = PolicyId::from_bytes([0; 16]);
    let device = DeviceId::from_bytes([0; 16]);
    let (token, key) = (TokenId::from_bytes([0; 16]), ApiKeyId::from_bytes([0; 16]));
    let create = |owner| Command::CreateToken {
        owner,
        expires_in: Duration::from_secs(1),
        uses: 1,
        secret_hash: Sha256([0; 32]),
    };
    let unknown = [
        (Command::SuspendUser { name: user() }, "user"),
        (Command::ResumeUser { name: user() }, "user"),
        (Command::RemoveUser { name: user() }, "user"),
        (Command::AddUser { name: "bob".parse().unwrap(), groups: vec![group()] }, "group"),
        (Command::AddMember { group: group(), user: "alice".parse().unwrap() }, "group"),
        (Command::AddMember { group: "eng".parse().unwrap(), user: user() }, "user"),
        (Command::RemoveMember { group: group(), user: "alice".parse().unwrap() }, "group"),
        (Command::RemoveGroup { name: group() }, "group"),
        (add_resource("db", no, &[]), "site"),
        (Command::EditResource { name: resource.clone(), edit: ResourceEdit::default() }, "resource"),
        (Command::RemoveResource { name: resource.clone() }, "resource"),
        (Command::from(NewPolicy::allow("user:alice".parse().unwrap(), resource)), "resource"),
        (Command::from(NewPolicy::allow("user:nobody".parse().unwrap(), wiki())), "user"),
        (Command::from(NewPolicy::allow("group:nobody".parse().unwrap(), wiki())), "group"),
        (Command::from(NewPolicy::allow(format!("device:{device}").parse().unwrap(), wiki())), "device"),
        (Command::RemovePolicy { id: policy }, "policy"),
        (create(TokenOwner::User(user())), "user"),
        (create(TokenOwner::Site(no.parse().unwrap())), "site"),
        (Command::WithdrawToken { id: token }, "token"),
        (Command::RevokeDevice { id: device }, "device"),
        (Command::RemoveDevice { id: device }, "device"),
        (Command::DrainGateway { site: no.parse().unwrap(), id: device, is_forced: true }, "site"),
        (Command::DrainGateway { site: "hq".parse().unwrap(), id: device, is_forced: true }, "device"),
        (Command::RevokeApiKey { id: key }, "API key"),
    ];
    for (command, expected) in unknown {
        match refused(&mut shell, &command) {
            Refusal::NotFound { kind, list, .. } => {
                assert_eq!(kind, expected, "{command:?}");
                assert!(list.ends_with("list"), "{command:?}: {list}");
            }
            other => panic!("{command:?}: {other:?}"),
        }
    }
}

#[test]
fn what_is_there_already_is_not_added_again() {
    let Office { mut shell, policy, .. } = office();
    shell.group("eng");
    shell.add_member("eng", "alice");
    let key = Command::CreateApiKey { name: "ci".parse().unwrap(), secret_hash: Sha256([1; 32]) };
    shell.run(&key).unwrap();
    shell.forget();
    let (eng, alice) = (|| "eng".parse().unwrap(), || "alice".parse().unwrap());
    conflicts(&mut shell, &Command::AddUser { name: alice(), groups: vec![] }, "alice");
    conflicts(&mut shell, &Command::AddGroup { name: eng() }, "eng");
    conflicts(&mut shell, &Command::AddMember { group: eng(), user: alice() }, "alice");
    conflicts(&mut shell, &Command::AddSite { name: "hq".parse().unwrap() }, "hq");
    conflicts(&mut shell, &add_resource("wiki", "hq", &[]), "wiki");
    let allow = Command::from(NewPolicy::allow("user:alice".parse().unwrap(), wiki()));
    conflicts(&mut shell, &allow, &policy.to_string());
    conflicts(&mut shell, &key, "ci");
    conflicts(&mut shell, &Command::ResumeUser { name: alice() }, "not suspended");
    shell.suspend("alice");
    shell.forget();
    conflicts(&mut shell, &Command::SuspendUser { name: alice() }, "suspended already");
    let token = Command::CreateToken {
        owner: TokenOwner::User(alice()),
        expires_in: Duration::from_secs(1),
        uses: 1,
        secret_hash: Sha256([0; 32]),
    };
    conflicts(&mut shell, &token, "suspended");
    shell.remove_member("eng", "alice");
    shell.forget();
    conflicts(&mut shell, &Command::RemoveMember { group: eng(), user: alice() }, "not in group");
}

#[test]
fn a_name_leads_to_one_resource() {
    let Office { mut shell, .. } = office();
    shell.run(&add_resource("db", "hq", &["db.example.com", "store.postern.internal"])).unwrap();
    shell.forget();
    let aliases = |text: &str| Some(vec![text.parse().unwrap()]);
    for (alias, mentions) in [
        ("db.example.com", "'db'"),
        ("store.postern.internal", "'db'"),
        ("db.postern.internal", "'db'"),
        ("DB.Postern.Internal.", "'db'"),
        ("postern.internal", "zone"),
        ("new.postern.internal", "own name"),
    ] {
        conflicts(&mut shell, &add_resource("new", "hq", &[alias]), mentions);
    }
    for (alias, mentions) in
        [("db.example.com", "'db'"), ("db.postern.internal", "'db'"), ("wiki.postern.internal", "own name")]
    {
        let edit = ResourceEdit { aliases: aliases(alias), ..ResourceEdit::default() };
        conflicts(&mut shell, &Command::EditResource { name: wiki(), edit }, mentions);
    }
    conflicts(&mut shell, &add_resource("store", "hq", &[]), "'db'");
    invalid(&mut shell, &add_resource("new", "hq", &["a.example.com", "a.example.com"]), "twice");
    let many: Vec<_> = (0..17).map(|n| format!("a{n}.example.com")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    invalid(&mut shell, &add_resource("new", "hq", &many), "16");
}

#[test]
fn an_alias_is_free_again_once_it_is_given_up() {
    let Office { mut shell, .. } = office();
    shell.run(&add_resource("db", "hq", &["db.example.com"])).unwrap();
    shell.edit("db", ResourceEdit { aliases: Some(vec![]), ..ResourceEdit::default() });
    shell.run(&add_resource("other", "hq", &["db.example.com"])).unwrap();
    super::removal::assert_whole(&shell.core);
    // A resource may keep its own alias while something else of it changes.
    shell.edit("other", ports("1"));
}

#[test]
fn a_resource_that_lets_nothing_through_is_refused() {
    let Office { mut shell, .. } = office();
    let Command::AddResource { site, target, aliases, .. } = add_resource("db", "hq", &[]) else { panic!() };
    let name = "db".parse().unwrap();
    let empty = Command::AddResource { name, site, target, aliases, tags: BTreeSet::new(), filter: Filter::default() };
    invalid(&mut shell, &empty, "--tcp");
    let edit = ports("none");
    invalid(&mut shell, &Command::EditResource { name: wiki(), edit }, "--tcp");
}

#[test]
fn an_edit_that_changes_nothing_is_refused() {
    let Office { mut shell, .. } = office();
    let same = ResourceEdit { target: Some("10.0.0.5".parse().unwrap()), ..ports("443") };
    for edit in [ResourceEdit::default(), same] {
        invalid(&mut shell, &Command::EditResource { name: wiki(), edit }, "nothing would change");
    }
}

#[test]
fn a_token_has_bounds() {
    let Office { mut shell, .. } = office();
    let year = Duration::from_secs(366 * 24 * 3600);
    let hour = Duration::from_secs(3600);
    let create = |expires_in, uses| Command::CreateToken {
        owner: TokenOwner::User("alice".parse().unwrap()),
        expires_in,
        uses,
        secret_hash: Sha256([0; 32]),
    };
    for (expires_in, uses, mentions) in [
        (Duration::ZERO, 1, "--expires"),
        (Duration::from_micros(1), 1, "--expires"),
        (year + Duration::from_millis(1), 1, "--expires"),
        (Duration::MAX, 1, "--expires"),
        (hour, 0, "--uses"),
        (hour, 1001, "--uses"),
        (hour, u32::MAX, "--uses"),
    ] {
        invalid(&mut shell, &create(expires_in, uses), mentions);
    }
    shell.run(&create(year, 1000)).unwrap();
}

#[test]
fn groups_named_twice_are_joined_once() {
    let mut shell = Shell::new();
    shell.group("eng");
    let Touched::User(user) = shell.add_user("alice", &["eng", "eng"]) else { panic!() };
    let state = shell.core.state();
    let eng = state.group_named(&"eng".parse().unwrap()).unwrap().id;
    assert_eq!(state.members_of(eng).collect::<Vec<_>>(), [user]);
}

#[test]
fn each_command_makes_one_revision_and_an_audit_entry_by_its_actor() {
    let Office { mut shell, .. } = office();
    let before = shell.core.state().revision;
    shell.user("bob");
    assert_eq!(shell.core.state().revision, before.next());
    let [event] = &shell.audit[..] else { panic!("{:?}", shell.audit) };
    assert_eq!((event.action.as_str(), event.object.as_str()), ("user.add", "user:bob"));
    assert_eq!((event.at, &event.actor), (shell.now, &postern_model::audit::Actor::AdminSocket));
}

#[test]
fn no_secret_is_in_the_audit_log() {
    let mut shell = Shell::new();
    shell.user("alice");
    let (_, secret_hash) = shell.token(TokenOwner::User("alice".parse().unwrap()));
    shell.run(&Command::CreateApiKey { name: "ci".parse().unwrap(), secret_hash }).unwrap();
    let log = format!("{:?}", shell.audit);
    assert!(!log.contains(&secret_hash.to_string()));
}

#[test]
fn a_target_inside_the_overlay_is_refused() {
    let Office { mut shell, wiki, .. } = office();
    let addr = shell.core.state().resources[&wiki].addr;
    let inside = [addr.v4.to_string(), addr.v6.to_string(), "100.64.0.1".into(), "::ffff:100.64.0.1".into()];
    for target in inside.iter().map(|target| target.parse().unwrap()) {
        let edit = ResourceEdit { target: Some(target), ..ResourceEdit::default() };
        invalid(&mut shell, &Command::EditResource { name: self::wiki(), edit: edit.clone() }, "overlay");
        let Command::AddResource { name, site, filter, aliases, .. } = add_resource("db", "hq", &[]) else { panic!() };
        let target = edit.target.unwrap();
        invalid(
            &mut shell,
            &Command::AddResource { name, site, target, filter, aliases, tags: BTreeSet::new() },
            "overlay",
        );
    }
}

#[test]
fn a_resources_aliases_are_in_the_audit_log_from_the_start() {
    let Office { mut shell, .. } = office();
    shell.run(&add_resource("db", "hq", &["db.example.com", "sql.example.com"])).unwrap();
    let details = &shell.audit.last().unwrap().details;
    assert!(details.contains(&("aliases".into(), "db.example.com,sql.example.com".into())), "{details:?}");
}
