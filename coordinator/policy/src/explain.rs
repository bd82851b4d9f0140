//! [`explain`]: why access is allowed or denied, and what would change that.
//!
//! Each test of a condition is asked by the same Cedar under the same request as when it is decided. Whoever shows an
//! [`Explanation`] puts names in the place of ids; what a device's user may know of it is [`Explanation::for_device`].

use std::str::FromStr as _;

use cedar_policy::{Entities, EvalResult, Expression, Request, eval_expression};
use postern_model::{Decision, DenyReason, DeviceId, Effect, Filter, PolicyId, ResourceId};

use crate::{
    Case, Circumstances, CompiledPolicy, Counting, Facts,
    asking::Asking,
    compiled::Compiled,
    condition::{self, Expr, Test},
    hint::hint,
    may_know,
};

/// A decision and how it came about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// What [`decide`](crate::decide) says.
    pub decision: Decision,
    /// The policies that can concern this device and this resource, in the order in which they are looked at. None where
    /// access is denied whatever they say.
    pub policies: Vec<Explained>,
    /// Of a denial for want of a condition: the fewest tests that would have to be met for one of the policies to allow. Of
    /// one by policies that deny: those that would no more have to be met. Empty where that can't be told.
    pub fix: Vec<Answered>,
    /// Whether the device may know of the resource at all.
    is_visible: bool,
}

/// What one policy says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// Which one.
    pub id: PolicyId,
    /// Whether it allows or denies.
    pub effect: Effect,
    /// Whether it has not ended yet.
    pub is_current: bool,
    /// Whether it only would decide.
    pub is_shadow: bool,
    /// What it is about of what the resource opens.
    pub ports: Filter,
    /// Whether its condition is met.
    pub outcome: Outcome,
    /// What it asks.
    pub asks: Asks,
    /// Of the short form: the fewest tests that would have to be met for it to allow, or no more be met for it not to deny.
    pub lacks: Vec<Answered>,
}

/// Whether a policy's condition is met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is, or there is none.
    Met,
    /// It is not.
    NotMet,
    /// It can't be told, for this reason: it allows nothing, and denies where it denies.
    Fault(String),
}

/// What a policy asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asks {
    /// Nothing.
    Nothing,
    /// The tests of the short form, as they were written.
    Tests(Vec<Answered>),
    /// An expert's clauses, as they were written, or a condition that can't be understood any more.
    Clauses(String),
}

/// A test and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// As it was written, after a `!` where its opposite is asked.
    pub text: String,
    /// The answer.
    pub answer: Answer,
    /// What would help where it is not met, or where it is and denies. It speaks of nothing but the device and the time.
    pub hint: Option<String>,
}

impl Answered {
    /// The opposite of a test that is met, with the same hint.
    fn opposite(&self) -> Self {
        let text = match self.text.strip_prefix('!') {
            Some(text) => text.to_owned(),
            None if self.text.contains(' ') => format!("!({})", self.text),
            None => format!("!{}", self.text),
        };
        Self { text, answer: Answer::NotMet, hint: self.hint.clone() }
    }
}

/// What a test is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Answer {
    /// It is met.
    Met,
    /// Its opposite is.
    NotMet,
    /// Neither: what it asks for is not known.
    Unknown,
}

/// What the user of a device may know of an [`Explanation`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceExplanation {
    /// What is open, or why nothing is.
    pub decision: Result<Filter, DenyReason>,
    /// The ways to more access: of each the tests that are not met. Where a policy denies it, what would make it not do so.
    pub ways: Vec<Vec<Answered>>,
    /// Whether there may be other ways, under conditions that can't be told to users.
    pub has_untold: bool,
}

/// Explains what [`decide`](crate::decide) decides.
pub fn explain(
    facts: &impl Facts,
    device: DeviceId,
    resource: ResourceId,
    circumstances: Circumstances,
) -> Explanation {
    let case = match Case::new(facts, device, resource) {
        Ok(case) => case,
        Err(reason) => {
            let decision = Decision::Denied { reason };
            return Explanation { decision, policies: vec![], fix: vec![], is_visible: false };
        }
    };
    let decision = case.decide(circumstances);
    let asking = case.asking(circumstances);
    let explained = |policy: &CompiledPolicy| explained(&asking, policy);
    let policies: Vec<_> = case.slice.iter().map(|policy| explained(policy)).collect();
    let fix = match decision {
        Decision::Denied { reason: DenyReason::ConditionNotMet } => fix(&case, &asking, &policies),
        Decision::Denied { reason: DenyReason::Forbidden } => fix_of_denials(&policies),
        _ => vec![],
    };
    let is_visible = may_know(facts, device, resource);
    Explanation { decision, policies, fix, is_visible }
}

/// What the policy that is closest to be met lacks, of those that nothing denies.
fn fix(case: &Case<'_>, asking: &Asking<'_>, policies: &[Explained]) -> Vec<Answered> {
    let denials = case.counted(asking.circumstances.now, Counting::InForce, Effect::Deny);
    let in_force = denials.filter(|policy| asking.meets(policy) != Ok(false));
    let open = &case.resource.filter;
    let closed = in_force.fold(Filter::default(), |closed, policy| closed.union(&policy.ports_of(open)));
    let candidates = policies.iter().filter(|policy| policy.could_allow() && !policy.ports.minus(&closed).is_empty());
    let lacks = candidates.map(|policy| &policy.lacks).filter(|lacks| !lacks.is_empty());
    lacks.min_by_key(|lacks| lacks.len()).cloned().unwrap_or_default()
}

/// What all denials lack to deny no more, if there is such a thing for each.
fn fix_of_denials(policies: &[Explained]) -> Vec<Answered> {
    let mut fix: Vec<Answered> = Vec::new();
    for denial in policies.iter().filter(|policy| policy.denies()) {
        if denial.lacks.is_empty() {
            return vec![];
        }
        for lacks in &denial.lacks {
            if !fix.contains(lacks) {
                fix.push(lacks.clone());
            }
        }
    }
    fix
}

fn explained(asking: &Asking<'_>, compiled: &CompiledPolicy) -> Explained {
    let policy = compiled.policy();
    let outcome = match asking.meets(compiled) {
        Ok(true) => Outcome::Met,
        Ok(false) => Outcome::NotMet,
        Err(fault) => Outcome::Fault(fault),
    };
    let source = || Asks::Clauses(policy.condition.as_ref().map_or("", |condition| condition.source()).to_owned());
    let (asks, lacks) = match compiled.condition() {
        Compiled::Always => (Asks::Nothing, vec![]),
        Compiled::Broken(_) => (source(), vec![]),
        Compiled::When(when) => match (&when.expr, asking.request(&when.atoms)) {
            (Some(expr), Ok(request)) => {
                let asked = Asked { asking, request, effect: policy.effect };
                let tests = expr.tests().into_iter().map(|test| asked.answered(test)).collect();
                (Asks::Tests(tests), lacking(&asked, expr))
            }
            _ => (source(), vec![]),
        },
    };
    Explained {
        id: policy.id,
        effect: policy.effect,
        is_current: compiled.is_current(asking.circumstances.now),
        is_shadow: policy.shadow,
        ports: compiled.ports_of(&asking.resource.filter),
        outcome,
        asks,
        lacks,
    }
}

/// The fewest tests whose answer would have to change for all of it to be met, or where it denies, for it not to be.
fn lacking(asked: &Asked<'_>, expr: &Expr) -> Vec<Answered> {
    let (parts, is_joint) = match expr {
        Expr::Test(test) => {
            let answered = asked.answered(test);
            return if answered.hint.is_none() { vec![] } else { vec![answered] };
        }
        Expr::All(parts) => (parts, asked.effect == Effect::Allow),
        Expr::Any(parts) => (parts, asked.effect == Effect::Deny),
    };
    let mut parts = parts.iter().map(|part| lacking(asked, part));
    if !is_joint {
        return parts.min_by_key(Vec::len).unwrap_or_default();
    }
    let mut all: Vec<Answered> = Vec::new();
    for lacks in parts.by_ref().flatten() {
        if !all.contains(&lacks) {
            all.push(lacks);
        }
    }
    all
}

/// Whose tests are asked.
struct Asked<'a> {
    asking: &'a Asking<'a>,
    request: Request,
    effect: Effect,
}

impl Asked<'_> {
    fn answered(&self, test: &Test) -> Answered {
        let answer = answer(&self.request, test);
        let hint = match (self.effect, answer) {
            (Effect::Allow, Answer::NotMet | Answer::Unknown) => Some(hint(self.asking, test, answer)),
            // What helps against a denial is the opposite.
            (Effect::Deny, Answer::Met) => Some(hint(self.asking, &opposite(test), Answer::NotMet)),
            _ => None,
        };
        let not = if test.negated { "!" } else { "" };
        Answered { text: format!("{not}{}", test.text), answer, hint }
    }
}

fn opposite(test: &Test) -> Test {
    Test { negated: !test.negated, ..test.clone() }
}

/// Asks Cedar one test, and then its opposite.
pub(crate) fn answer(request: &Request, test: &Test) -> Answer {
    if is_true(request, test) {
        Answer::Met
    } else if is_true(request, &opposite(test)) {
        Answer::NotMet
    } else {
        Answer::Unknown
    }
}

fn is_true(request: &Request, test: &Test) -> bool {
    let Ok(expression) = Expression::from_str(&condition::test(test)) else { return false };
    matches!(eval_expression(request, &Entities::empty(), &expression), Ok(EvalResult::Bool(true)))
}

impl Explained {
    /// Whether it would allow something if its condition were met.
    fn could_allow(&self) -> bool {
        self.effect == Effect::Allow && self.is_current && !self.is_shadow && !self.ports.is_empty()
    }

    fn denies(&self) -> bool {
        let is_in_force = self.is_current && !self.is_shadow && !self.ports.is_empty();
        self.effect == Effect::Deny && is_in_force && self.outcome != Outcome::NotMet
    }
}

impl Explanation {
    /// What the device's user may know: their own posture and the time, and nothing of other policies, their ids, or groups.
    /// What the device may not know of does not exist.
    pub fn for_device(&self) -> DeviceExplanation {
        let decision = match &self.decision {
            Decision::Allowed { filter, .. } => Ok(filter.clone()),
            Decision::Denied { reason } => Err(*reason),
        };
        let is_barred =
            matches!(decision, Err(DenyReason::DeviceRevoked | DenyReason::UserSuspended | DenyReason::UserRemoved));
        if !self.is_visible {
            let decision = if is_barred { decision } else { Err(DenyReason::UnknownResource) };
            return DeviceExplanation { decision, ways: vec![], has_untold: false };
        }
        if decision == Err(DenyReason::Forbidden) {
            // Whatever else would allow it, this comes first. What is asked of the device is the opposite of what denies.
            let way: Vec<_> = self.fix.iter().map(Answered::opposite).collect();
            let has_untold = way.is_empty();
            return DeviceExplanation {
                decision,
                ways: Some(way).filter(|way| !way.is_empty()).into_iter().collect(),
                has_untold,
            };
        }
        let open = decision.as_ref().ok().cloned().unwrap_or_default();
        let mut ways: Vec<Vec<Answered>> = Vec::new();
        let mut has_untold = false;
        for policy in self.policies.iter().filter(|policy| policy.could_allow() && policy.outcome != Outcome::Met) {
            if policy.ports.minus(&open).is_empty() {
                continue;
            }
            if policy.lacks.is_empty() {
                has_untold = true;
            } else if !ways.contains(&policy.lacks) {
                ways.push(policy.lacks.clone());
            }
        }
        ways.sort_by_key(Vec::len);
        DeviceExplanation { decision, ways, has_untold }
    }
}
