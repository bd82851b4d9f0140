//! Policies in shadow: evaluated on live requests and grants, and recorded where they would decide otherwise.

use postern_model::{Decision, Effect, Filter, PolicyId};
use postern_policy::{Case, Circumstances, Counting};

use crate::{draft::Draft, state::State};

/// What is to be noted: action, object, details.
pub(crate) type Note = (String, String, Vec<(String, String)>);

/// What policies in shadow would make of a case, if that is not what is decided: `would_allow`, `would_deny`, `would_widen`
/// or `would_narrow`, or both of the latter.
pub(crate) fn otherwise(state: &State, case: &Case<'_>, circumstances: Circumstances) -> Vec<Note> {
    if !case.has_shadow() {
        return Vec::new();
    }
    let (decided, otherwise) = (case.decide(circumstances), case.weigh(circumstances, Counting::WithShadow));
    let (before, after) = (open(&decided), open(&otherwise));
    let (gained, lost) = (after.minus(&before), before.minus(&after));
    let mut notes = Vec::new();
    if !gained.is_empty() {
        let difference = if before.is_empty() { "would_allow" } else { "would_widen" };
        notes.push(note(state, (case, circumstances), &otherwise, (difference, Effect::Allow), &gained));
    }
    if !lost.is_empty() {
        let difference = if after.is_empty() { "would_deny" } else { "would_narrow" };
        notes.push(note(state, (case, circumstances), &otherwise, (difference, Effect::Deny), &lost));
    }
    notes
}

/// Whether one of these policies makes the difference that is noted.
pub(crate) fn names_any((_, _, details): &Note, policies: &[PolicyId]) -> bool {
    let named = details.iter().filter(|(name, _)| name == "policies").flat_map(|(_, ids)| ids.split(','));
    named.filter_map(|id| id.parse().ok()).any(|id: PolicyId| policies.contains(&id))
}

fn open(decision: &Decision) -> Filter {
    match decision {
        Decision::Allowed { filter, .. } => filter.clone(),
        Decision::Denied { .. } => Filter::default(),
    }
}

/// `moved` is what would be open besides, or closed besides.
fn note(
    state: &State,
    (case, circumstances): (&Case<'_>, Circumstances),
    otherwise: &Decision,
    (difference, effect): (&str, Effect),
    moved: &Filter,
) -> Note {
    // Those that make the difference.
    let shadows = case.shadows(circumstances).into_iter();
    let shadows = shadows.filter(|it| it.policy().effect == effect && !it.ports_of(moved).is_empty());
    let policies: Vec<_> = shadows.map(|it| it.policy().id.to_string()).collect();
    let mut details = vec![("policies", policies.join(",")), ("device", case.device().name.clone())];
    details.extend(state.user_of(case.device()).map(|user| ("user", user.name.to_string())));
    details.push(match otherwise {
        Decision::Allowed { filter, .. } => ("filter", filter.to_string()),
        Decision::Denied { reason } => ("why", reason.label().to_owned()),
    });
    let details = details.into_iter().map(|(name, value)| (name.to_owned(), value));
    (format!("shadow.{difference}"), format!("resource:{}", case.resource().name), details.collect())
}

impl Draft<'_> {
    /// Notes it.
    pub(crate) fn shadow(&mut self, case: &Case<'_>, circumstances: Circumstances) {
        self.note_shadows(&otherwise(self.state, case, circumstances), 1);
    }

    /// The same, so many times.
    pub(crate) fn note_shadows(&mut self, notes: &[Note], times: u64) {
        for (action, object, details) in notes {
            let mut details = details.clone();
            if times > 1 {
                details.push(("times".to_owned(), times.to_string()));
            }
            self.note_down((action.clone(), object.clone(), details));
        }
    }
}
