//! Decisions, re-decisions and plans: how long they take, and how that grows with the number of policies.

use std::time::Duration;

use anyhow::{Context as _, Result};
use postern_core::{Command, Core, CoreConfig, Env, NewPolicy, State, declaration::DeclaredPolicy};
use postern_model::{Decision, Moment, SecretBytes, Subject, Timestamp, audit::Actor, record::Owner};
use postern_policy::{Circumstances, PolicySet, decide};
use serde_json::json;

use crate::{
    figures::{Times, micros, millis, now, table},
    network::{DEVICES, NOW, RESOURCES, USERS, device, grant, pick, policies, resource, world},
};

/// So many decisions are measured at each size.
const DECISIONS: u32 = 100_000;
/// So many grants are in force when a membership changes.
const GRANTS: u32 = 20_000;

const SIZES: [u32; 3] = [100, 1_000, 10_000];

fn circumstances() -> Circumstances {
    let posture_until = Some(NOW.plus(Duration::from_secs(900)));
    Circumstances { now: NOW, posture_until, source: Some([192, 0, 2, 7].into()) }
}

pub(crate) fn run(json: bool) -> Result<()> {
    let mut rows = Vec::new();
    let mut all = Vec::new();
    for size in SIZES {
        let figures = measure(size)?;
        rows.push(figures.row());
        all.push(figures.json());
    }
    println!("{USERS} users, {DEVICES} devices, {RESOURCES} resources:");
    table(
        &[
            "policies",
            "decide p50",
            "p99",
            "of one policy p50 / p99",
            "allowed",
            "in a slice",
            "compiled set",
            "compiling",
            "member removed",
            "re-decided",
            "plan",
            "widest plan",
        ],
        &rows,
    );
    println!(
        "decide: one whole decision, indexed, with posture, time, source and checks. Member removed: one user leaves a group \
         while {GRANTS} grants are in force; re-decided: the grants looked at for that. Plan: of the whole network as a \
         declaration in which one line was added, for a group and a resource, or, the widest, for everyone and everything."
    );
    if json {
        println!("{}", serde_json::to_string_pretty(&all)?);
    }
    Ok(())
}

struct Figures {
    policies: u32,
    p50: Duration,
    p99: Duration,
    /// Of decisions with exactly one policy to look at.
    one: (Duration, Duration),
    allowed: u32,
    /// Policies that a decision looks at, on average.
    slice: f64,
    memory: u64,
    compiling: Duration,
    member_removed: Duration,
    redecided: usize,
    plan: Duration,
    widest_plan: Duration,
}

impl Figures {
    fn row(&self) -> Vec<String> {
        vec![
            self.policies.to_string(),
            micros(self.p50),
            micros(self.p99),
            format!("{} / {}", micros(self.one.0), micros(self.one.1)),
            format!("{:.1} %", f64::from(self.allowed) * 100.0 / f64::from(DECISIONS)),
            format!("{:.2}", self.slice),
            format!("{:.1} MiB", f64::from(u32::try_from(self.memory >> 10).unwrap_or(u32::MAX)) / 1024.0),
            millis(self.compiling),
            millis(self.member_removed),
            self.redecided.to_string(),
            millis(self.plan),
            millis(self.widest_plan),
        ]
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "policies": self.policies, "decide_p50_us": self.p50.as_secs_f64() * 1e6,
            "decide_p99_us": self.p99.as_secs_f64() * 1e6,
            "decide_one_p50_us": self.one.0.as_secs_f64() * 1e6, "decide_one_p99_us": self.one.1.as_secs_f64() * 1e6, "slice": self.slice, "memory_bytes": self.memory,
            "compile_ms": self.compiling.as_secs_f64() * 1e3,
            "member_removed_ms": self.member_removed.as_secs_f64() * 1e3, "redecided": self.redecided,
            "plan_ms": self.plan.as_secs_f64() * 1e3, "widest_plan_ms": self.widest_plan.as_secs_f64() * 1e3,
        })
    }
}

fn measure(size: u32) -> Result<Figures> {
    let (memory, compiling) = compile(size)?;
    let mut core = Core::new(world(size), config());
    let state = core.state();
    let (mut times, mut one, mut allowed, mut looked_at) = (Times::default(), Times::default(), 0, 0_usize);
    let mut grants = Vec::new();
    for n in 0..DECISIONS {
        let (from, to) = pair(state, n);
        let start = now();
        let decision = decide(state, from, to, circumstances());
        let took = start.elapsed();
        times.push(took);
        let policies = postern_policy::Case::new(state, from, to).map_or(0, |case| case.policies());
        looked_at += policies;
        if policies == 1 {
            one.push(took);
        }
        if let Decision::Allowed { filter, policy } = decision {
            allowed += 1;
            if grants.len() < usize::try_from(GRANTS)? && state.grant_of(from, to).is_none() {
                let n = u32::try_from(grants.len())?;
                grants.push(grant(n, from, to, filter, policy));
            }
        }
    }
    let mut world = core.state().world();
    let mut pairs = std::collections::BTreeSet::new();
    grants.retain(|grant| pairs.insert((grant.device, grant.resource)));
    world.grants = grants;
    core = Core::new(world, config());
    let (member_removed, redecided) = remove_member(&core)?;
    let group = core.state().groups.values().next().context("there is no group")?.name.clone();
    let plan = plan(&core, Subject::Group(group), "resource-1")?;
    let widest_plan = self::plan(&core, Subject::Everyone, "everything")?;
    Ok(Figures {
        policies: size,
        p50: times.percentile(0.5),
        p99: times.percentile(0.99),
        one: (one.percentile(0.5), one.percentile(0.99)),
        allowed,
        slice: f64::from(u32::try_from(looked_at)?) / f64::from(DECISIONS),
        memory,
        compiling,
        member_removed,
        redecided,
        plan,
        widest_plan,
    })
}

/// Plans the network as it is and one more policy.
fn plan(core: &Core, subject: Subject, scope: &str) -> Result<Duration> {
    let mut random = |bytes: &mut [u8]| bytes.fill(7);
    let mut env = Env { now: after(NOW), moment: Moment::default(), random: &mut random };
    let mut declaration = core.export(&mut env)?;
    let (effect, scope) = (postern_model::Effect::Allow, scope.parse()?);
    // What no other policy says.
    let until = Some(NOW.plus(Duration::from_secs(1_000_000_007)));
    let policy = NewPolicy { effect, subject, scope, ports: None, when: None, until, shadow: false };
    declaration.policies.get_or_insert_default().push(DeclaredPolicy::Short(Box::new(policy)));
    let start = now();
    let plan = core.plan(&declaration, &mut env)?;
    let took = start.elapsed();
    anyhow::ensure!(plan.steps.len() == 1, "one line is one step");
    Ok(took)
}

/// A device and a resource. Half of the time one of which some policy speaks, since nobody asks for what they can't see.
fn pair(state: &State, n: u32) -> (postern_model::DeviceId, postern_model::ResourceId) {
    let from = device(1 + pick(u64::from(n) * 2, DEVICES - 1));
    if n.is_multiple_of(2) {
        return (from, resource(pick(u64::from(n) * 2 + 1, RESOURCES)));
    }
    let visible = postern_policy::visible(state, from);
    let at = usize::try_from(pick(u64::from(n) * 2 + 1, 1 << 30)).unwrap_or_default();
    let to = visible.iter().nth(at.checked_rem(visible.len()).unwrap_or_default());
    (from, to.copied().unwrap_or(resource(0)))
}

/// How much memory compiled policies take, by a process that does nothing else, and how long compiling them does.
fn compile(size: u32) -> Result<(u64, Duration)> {
    let program = std::env::current_exe()?;
    let output = std::process::Command::new(program).args(["memory", &size.to_string()]).output()?;
    let memory = String::from_utf8(output.stdout)?.trim().parse().context("the other process told no number")?;
    let policies = policies(size);
    let start = now();
    let set = PolicySet::compile(&policies);
    let compiling = start.elapsed();
    drop(set);
    Ok((memory, compiling))
}

/// Prints how much memory so many compiled policies take, in bytes.
pub(crate) fn memory(size: u32) -> Result<()> {
    // What Cedar sets up once is not theirs.
    drop(PolicySet::compile(&policies(1000).split_off(990)));
    let policies = policies(size);
    let before = resident()?;
    let set = PolicySet::compile(&policies);
    println!("{}", resident()?.saturating_sub(before));
    drop(set);
    Ok(())
}

/// The memory that this process has in use, in bytes (proc(5)).
fn resident() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS in /proc/self/status")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}

/// A user leaves a group: how long that takes to decide, and how many grants are looked at.
fn remove_member(core: &Core) -> Result<(Duration, usize)> {
    let state = core.state();
    let holder = state.grants.values().find_map(|grant| match state.devices.get(&grant.device)?.owner {
        Owner::User(user) => postern_policy::Facts::groups_of(state, user).first().map(|group| (user, *group)),
        Owner::Site(_) => None,
    });
    let (user, group) = holder.context("nobody holds a grant")?;
    let command = Command::RemoveMember {
        group: state.groups.get(&group).context("the group is gone")?.name.clone(),
        user: state.users.get(&user).context("the user is gone")?.name.clone(),
    };
    let mut random = |bytes: &mut [u8]| bytes.fill(7);
    let mut env = Env { now: after(NOW), moment: Moment::default(), random: &mut random };
    let start = now();
    let proposal = core.propose_command(&Actor::AdminSocket, &command, &mut env)?;
    Ok((start.elapsed(), proposal.redecided()))
}

fn after(time: Timestamp) -> Timestamp {
    time.plus(Duration::from_secs(1))
}

fn config() -> CoreConfig {
    CoreConfig {
        lease: Duration::from_secs(600),
        ack_timeout: Duration::from_secs(5),
        requests_per_device: 64,
        psk_master: SecretBytes::new([0; 32]),
        relays: None,
    }
}
