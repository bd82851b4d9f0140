//! Declarations: each kind of difference, what is refused, and what a plan says beforehand.

use std::collections::{BTreeMap, BTreeSet};

use postern_model::{DenyReason, Effect, Revision, audit::Actor};

use super::{
    office::{Office, office, office_with_grant, tcp},
    removal::assert_whole,
    shell::Shell,
};
use crate::{
    Command, Declaration, NewPolicy, Refusal, Touched,
    declaration::{
        DeclaredGroup, DeclaredPolicy, DeclaredResource,
        plan::{Direction, Plan},
    },
};

fn names<T: std::str::FromStr<Err: std::fmt::Debug> + Ord>(names: &[&str]) -> BTreeSet<T> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

pub(super) fn short(effect: Effect, subject: &str, scope: &str) -> NewPolicy {
    let (subject, scope) = (subject.parse().unwrap(), scope.parse().unwrap());
    NewPolicy { effect, subject, scope, ports: None, when: None, until: None, shadow: false }
}

pub(super) fn declared(policy: NewPolicy) -> DeclaredPolicy {
    DeclaredPolicy::Short(Box::new(policy))
}

pub(super) fn resource(site: &str, target: &str) -> DeclaredResource {
    DeclaredResource {
        site: site.parse().unwrap(),
        target: target.parse().unwrap(),
        open: tcp("443"),
        aliases: vec![],
        tags: BTreeSet::new(),
    }
}

impl Shell {
    pub(super) fn plan(&mut self, declaration: &Declaration) -> Result<Plan, Refusal> {
        let before = self.core.state().clone();
        let mut plan = None;
        let done = self.try_transact(|core, env| {
            plan = Some(core.plan(declaration, env)?);
            // A plan proposes nothing: what is proposed here is that nothing happens.
            core.propose_command(&Actor::AdminSocket, &declare(&Declaration::default(), None), env)
        });
        done?;
        assert_eq!(*self.core.state(), before, "a plan changes nothing");
        Ok(plan.unwrap())
    }

    pub(super) fn export(&mut self) -> Result<Declaration, Refusal> {
        let (now, moment) = (self.now, self.moment);
        self.core.export(&mut crate::Env { now, moment, random: &mut |_| () })
    }

    pub(super) fn apply(&mut self, declaration: &Declaration) -> Result<usize, Refusal> {
        self.apply_at(declaration, None)
    }

    fn apply_at(&mut self, declaration: &Declaration, revision: Option<Revision>) -> Result<usize, Refusal> {
        match self.run(&declare(declaration, revision))? {
            Touched::Declared(steps) => Ok(steps.len()),
            other => panic!("{other:?}"),
        }
    }

    /// Refused with these words, and nothing changed.
    #[track_caller]
    pub(super) fn refuses(&mut self, declaration: &Declaration, why: &str) {
        let before = self.core.state().clone();
        let refusal = self.apply(declaration).unwrap_err().to_string();
        assert!(refusal.contains(why), "'{why}' is not in: {refusal}");
        assert_eq!(*self.core.state(), before, "a refusal changes nothing");
    }
}

pub(super) fn declare(declaration: &Declaration, revision: Option<Revision>) -> Command {
    Command::Declare { declaration: Box::new(declaration.clone()), revision }
}

/// The plan's steps as one line each.
fn steps(plan: &Plan) -> Vec<String> {
    let line = |step: &crate::declaration::plan::Step| format!("{} {} {}", step.verb, step.thing, step.name);
    plan.steps.iter().map(|step| line(step).trim_end().to_owned()).collect()
}

pub(super) fn whole() -> Declaration {
    let wiki = DeclaredResource {
        aliases: vec!["wiki.example.com".parse().unwrap()],
        tags: names(&["prod"]),
        ..resource("office", "10.0.0.5")
    };
    Declaration {
        users: names(&["alice", "bob"]),
        groups: Some(BTreeMap::from([
            ("eng".parse().unwrap(), DeclaredGroup { members: Some(names(&["alice", "bob"])) }),
            ("ops".parse().unwrap(), DeclaredGroup::default()),
        ])),
        sites: Some(names(&["office"])),
        resources: Some(BTreeMap::from([("wiki".parse().unwrap(), wiki)])),
        policies: Some(vec![
            declared(NewPolicy {
                ports: Some(tcp("443")),
                when: Some("posture.disk_encrypted".into()),
                ..short(Effect::Allow, "group:eng", "tag:prod")
            }),
            declared(short(Effect::Deny, "group:ops", "wiki")),
            DeclaredPolicy::Cedar(
                "permit (principal in Group::\"ops\", action, resource) when { context.time.hour < 8 };".into(),
            ),
        ]),
        assertions: vec![],
    }
}

#[test]
fn from_nothing_to_all_that_is_declared_and_then_there_is_nothing_to_do() {
    let mut shell = Shell::new();
    let plan = shell.plan(&whole()).unwrap();
    let expected = [
        "add user alice",
        "add user bob",
        "add group eng",
        "add group ops",
        "add site office",
        "add resource wiki",
        "add group.member eng",
        "add group.member eng",
        "add policy",
        "add policy",
        "add policy",
    ];
    assert_eq!(steps(&plan), expected);
    let revision = shell.core.state().revision;
    assert_eq!(shell.apply_at(&whole(), Some(plan.revision)).unwrap(), expected.len());
    assert_eq!(shell.core.state().revision, revision.next(), "all in one commit");
    assert_whole(&shell.core);
    assert_eq!(shell.core.state().policies.len(), 3);

    let plan = shell.plan(&whole()).unwrap();
    assert!(!plan.has_changes() && plan.reach.is_empty() && plan.cuts.is_empty(), "{plan:?}");
    let revision = shell.core.state().revision;
    assert_eq!(shell.apply(&whole()).unwrap(), 0);
    assert_eq!(shell.core.state().revision, revision, "nothing to do, nothing committed");
    let exported = shell.export().unwrap();
    assert!(!shell.plan(&exported).unwrap().has_changes());
}

#[test]
fn what_has_no_section_stays_and_what_is_left_out_of_one_goes() {
    let mut shell = Shell::new();
    shell.apply(&whole()).unwrap();
    let nothing = Declaration::default();
    assert!(!shell.plan(&nothing).unwrap().has_changes());
    // Only policies: one goes, the others stay as they are.
    let before: BTreeSet<_> = shell.core.state().policies.keys().copied().collect();
    let policies = whole().policies.map(|policies| policies[..2].to_vec());
    let plan = shell.plan(&Declaration { policies: policies.clone(), ..Declaration::default() }).unwrap();
    assert_eq!((plan.steps.len(), plan.steps[0].verb.as_str()), (1, "remove"));
    shell.apply(&Declaration { policies, ..Declaration::default() }).unwrap();
    let after: BTreeSet<_> = shell.core.state().policies.keys().copied().collect();
    assert!(after.is_subset(&before) && after.len() == 2);
    // A group without members keeps them; one that is left out goes with its policies.
    let groups = Some(BTreeMap::from([("eng".parse().unwrap(), DeclaredGroup::default())]));
    let plan = shell.plan(&Declaration { groups: groups.clone(), ..Declaration::default() }).unwrap();
    assert_eq!(steps(&plan)[0], "remove group ops");
    shell.apply(&Declaration { groups, ..Declaration::default() }).unwrap();
    let eng = shell.core.state().group_named(&"eng".parse().unwrap()).unwrap().id;
    assert_eq!((shell.core.state().members_of(eng).count(), shell.core.state().policies.len()), (2, 1));
    // Users are never removed.
    let all = Declaration {
        groups: Some(BTreeMap::new()),
        sites: Some(BTreeSet::new()),
        resources: Some(BTreeMap::new()),
        policies: Some(vec![]),
        ..Declaration::default()
    };
    shell.apply(&all).unwrap();
    let state = shell.core.state();
    assert_eq!((state.users.len(), state.groups.len(), state.sites.len(), state.resources.len()), (2, 0, 0, 0));
    assert_whole(&shell.core);
}

#[test]
fn members_join_and_leave() {
    let mut shell = Shell::new();
    shell.apply(&whole()).unwrap();
    let members = |members: &[&str]| Declaration {
        users: names(&["carol"]),
        groups: Some(BTreeMap::from([
            ("eng".parse().unwrap(), DeclaredGroup { members: Some(names(members)) }),
            ("ops".parse().unwrap(), DeclaredGroup::default()),
        ])),
        ..Declaration::default()
    };
    let plan = shell.plan(&members(&["bob", "carol"])).unwrap();
    assert_eq!(steps(&plan), ["add user carol", "remove group.member eng", "add group.member eng"]);
    assert_eq!(plan.steps[1].details[0].value, "alice");
    let who = |row: &crate::declaration::plan::Reach| {
        (row.who.names[0].to_string(), row.differences[0].direction, row.differences[0].term.ports.to_string())
    };
    let rows: BTreeSet<_> = plan.reach.iter().map(who).collect();
    let expected = [("alice", Direction::Lost), ("carol", Direction::Gained)];
    assert_eq!(rows, expected.map(|(who, which)| (who.to_owned(), which, "tcp/443".to_owned())).into());
    shell.refuses(&members(&["dave"]), "no user 'dave'");
}

#[test]
fn an_edit_says_what_it_was_and_cuts_what_leads_elsewhere() {
    let Office { mut shell, laptop, .. } = office_with_grant();
    shell.site("branch");
    let wiki = DeclaredResource { tags: names(&["prod"]), ..resource("branch", "10.0.0.5") };
    let moved =
        Declaration { resources: Some(BTreeMap::from([("wiki".parse().unwrap(), wiki)])), ..Declaration::default() };
    let plan = shell.plan(&moved).unwrap();
    let detail = |it: &crate::declaration::plan::Detail| (it.name.clone(), it.was.clone().unwrap(), it.value.clone());
    let details: Vec<_> = plan.steps[0].details.iter().map(detail).collect();
    let expected = [("site", "hq", "branch"), ("tags", "", "prod")];
    assert_eq!(details, expected.map(|(name, was, is)| (name.to_owned(), was.to_owned(), is.to_owned())));
    assert!(plan.reach.is_empty(), "the same may be reached by the same");
    assert_eq!((plan.cuts.len(), plan.cuts[0].device, plan.cuts[0].end), (1, laptop, Some(DenyReason::Replaced)));
    shell.apply(&moved).unwrap();
    assert!(shell.core.state().grants.is_empty() && shell.nodes[&laptop].held.is_empty());
}

#[test]
fn a_plan_names_the_grants_that_end_or_narrow_and_apply_does_just_that() {
    let Office { mut shell, laptop, .. } = office_with_grant();
    let alice = Some("alice".parse().unwrap());
    let policies = |policies: Vec<NewPolicy>| Declaration {
        policies: Some(policies.into_iter().map(declared).collect()),
        ..Declaration::default()
    };
    // Another policy allows the same: nothing is cut, though the one by which it was granted goes.
    let same = policies(vec![short(Effect::Allow, "everyone", "everything")]);
    let plan = shell.plan(&same).unwrap();
    assert!(plan.cuts.is_empty() && !plan.reach.is_empty());
    assert!(plan.reach.iter().all(|row| row.who.names.iter().all(|name| name.as_str() != "alice")), "{plan:?}");

    let none = policies(vec![]);
    let plan = shell.plan(&none).unwrap();
    let cut = &plan.cuts[0];
    assert_eq!((cut.device, &cut.user, cut.resource.as_str()), (laptop, &alice, "wiki"));
    assert_eq!(
        (cut.end, cut.before.to_string(), cut.after.is_empty()),
        (Some(DenyReason::NoPolicy), "tcp/443".into(), true)
    );
    let row = &plan.reach[0];
    assert_eq!((row.who.names[0].as_str(), row.resources[0].as_str()), ("alice", "wiki"));
    assert_eq!(row.differences[0].direction, Direction::Lost);
    shell.apply(&same).unwrap();
    assert_eq!(shell.core.state().grants.len(), 1);
    assert!(!shell.actions().contains(&"grant.end"));
    shell.apply(&none).unwrap();
    assert!(shell.core.state().grants.is_empty() && shell.nodes[&laptop].held.is_empty());
}

#[test]
fn a_revision_that_moved_is_refused_but_grants_do_not_move_it() {
    let Office { mut shell, laptop, wiki, gateway, .. } = office();
    let none = Declaration { policies: Some(vec![]), ..Declaration::default() };
    let planned = shell.plan(&none).unwrap().revision;
    shell.access(laptop, wiki, gateway);
    assert!(shell.core.state().revision > planned, "a grant was recorded");
    let later = shell.core.state().revision.next();
    let refusal = shell.apply_at(&none, Some(later)).unwrap_err().to_string();
    assert!(refusal.contains("plan again"), "{refusal}");
    let stale = shell.plan(&none).unwrap().revision;
    shell.user("mallory");
    for planned in [planned, stale] {
        let refusal = shell.apply_at(&none, Some(planned)).unwrap_err().to_string();
        assert!(refusal.contains("plan again"), "{refusal}");
        assert_eq!(shell.core.state().policies.len(), 1);
    }
    let planned = shell.plan(&none).unwrap().revision;
    assert_eq!(shell.apply_at(&none, Some(planned)).unwrap(), 1);
}

#[test]
fn all_or_nothing() {
    let mut shell = Shell::new();
    let with = |change: &dyn Fn(&mut Declaration)| {
        let mut declaration = whole();
        change(&mut declaration);
        declaration
    };
    let policy =
        |policy: NewPolicy| with(&|it: &mut Declaration| it.policies.as_mut().unwrap().push(declared(policy.clone())));
    shell.refuses(&policy(short(Effect::Allow, "user:mallory", "wiki")), "no user 'mallory'");
    shell.refuses(&policy(short(Effect::Allow, "group:moon", "wiki")), "no group 'moon'");
    shell.refuses(&policy(short(Effect::Allow, "everyone", "moon")), "no resource 'moon'");
    let when = NewPolicy { when: Some("posture.disk".into()), ..short(Effect::Allow, "everyone", "wiki") };
    shell.refuses(&policy(when), "'posture.disk' is not known");
    let cedar = |text: &str| {
        let text = text.to_owned();
        with(&move |it| it.policies.as_mut().unwrap().push(DeclaredPolicy::Cedar(text.clone())))
    };
    shell.refuses(&cedar("permit (principal, action, resource) when { context.moon };"), "moon");
    shell.refuses(&with(&|it| it.sites = Some(BTreeSet::new())), "no site 'office'");
    shell.refuses(
        &with(&|it| {
            let resources = it.resources.as_mut().unwrap();
            let wiki = resources.values().next().unwrap().clone();
            resources.insert("files".parse().unwrap(), wiki);
        }),
        "is an alias of resource",
    );
    // With the disk full, too.
    shell.disk_is_full = true;
    let before = shell.core.state().clone();
    let done = shell.try_transact(|core, env| core.propose_command(&Actor::AdminSocket, &declare(&whole(), None), env));
    assert!(done.unwrap().is_none());
    assert_eq!(*shell.core.state(), before);
}

#[test]
fn sites_go_only_when_nothing_is_left_of_them() {
    let Office { mut shell, .. } = office();
    let gone = Declaration { sites: Some(BTreeSet::new()), resources: Some(BTreeMap::new()), ..Declaration::default() };
    shell.refuses(&gone, "still has the gateway");
    let mut shell = Shell::new();
    shell.apply(&whole()).unwrap();
    shell.token(crate::TokenOwner::Site("office".parse().unwrap()));
    shell.refuses(
        &Declaration { sites: Some(BTreeSet::new()), ..Declaration::default() },
        "still has the resource 'wiki'",
    );
    shell.apply(&gone).unwrap();
    assert!(shell.core.state().sites.is_empty() && shell.core.state().tokens.is_empty());
    assert_whole(&shell.core);
}

#[test]
fn a_policy_that_speaks_of_what_the_file_removes_is_refused() {
    let mut shell = Shell::new();
    shell.apply(&whole()).unwrap();
    let without_ops =
        Declaration { groups: Some(BTreeMap::from([("eng".parse().unwrap(), DeclaredGroup::default())])), ..whole() };
    shell.refuses(&without_ops, "no group 'ops'");
    // In a clause as well.
    let clause = "permit (principal, action, resource) when { principal in Group::\"ops\" };";
    let policies = Some(vec![DeclaredPolicy::Cedar(clause.into())]);
    shell.apply(&Declaration { policies: policies.clone(), ..Declaration::default() }).unwrap();
    shell.refuses(&Declaration { policies, ..without_ops.clone() }, "no group 'ops'");
    // Left where it is by a file without policies, it can't be exported: no file could say it any more.
    shell.apply(&Declaration { policies: None, ..without_ops }).unwrap();
    let refusal = shell.export().unwrap_err().to_string();
    assert!(refusal.contains("speak of what was removed"), "{refusal}");
}

#[test]
fn aliases_and_names_change_hands_in_one_go() {
    let mut shell = Shell::new();
    let of = |aliases: &[&str]| DeclaredResource {
        aliases: aliases.iter().map(|alias| alias.parse().unwrap()).collect(),
        ..resource("hq", "10.0.0.5")
    };
    let resources = |resources: &[(&str, &[&str])]| Declaration {
        sites: Some(names(&["hq"])),
        resources: Some(resources.iter().map(|(name, aliases)| (name.parse().unwrap(), of(aliases))).collect()),
        ..Declaration::default()
    };
    shell.apply(&resources(&[("a", &["x.example.com", "c.postern.internal"]), ("b", &["y.example.com"])])).unwrap();
    let swapped = resources(&[("a", &["y.example.com"]), ("b", &["x.example.com"]), ("c", &[])]);
    shell.apply(&swapped).unwrap();
    assert!(!shell.plan(&swapped).unwrap().has_changes());
    assert_whole(&shell.core);
    let at = |alias: &str| {
        shell.core.state().resource_with_alias(&alias.parse().unwrap()).map(|resource| resource.name.to_string())
    };
    assert_eq!((at("x.example.com"), at("y.example.com")), (Some("b".into()), Some("a".into())));
}

#[test]
fn a_policy_whose_time_is_over_is_left_out_and_said_so() {
    let mut shell = Shell::new();
    let until = Some(shell.now.plus(std::time::Duration::from_secs(60)));
    let policy = NewPolicy { until, ..short(Effect::Allow, "everyone", "everything") };
    let file = Declaration { policies: Some(vec![declared(policy)]), ..Declaration::default() };
    shell.apply(&file).unwrap();
    assert!(shell.plan(&file).unwrap().notes.is_empty());
    shell.wait(std::time::Duration::from_secs(61));
    assert!(shell.core.state().policies.is_empty());
    let plan = shell.plan(&file).unwrap();
    assert!(!plan.has_changes());
    assert!(plan.notes[0].contains("has ended"), "{:?}", plan.notes);
    assert_eq!(shell.apply(&file).unwrap(), 0);
}
