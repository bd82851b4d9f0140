//! Policies in shadow: evaluated on live requests and grants, and recorded where they would decide otherwise.

use postern_model::{Decision, Effect};
use postern_policy::{Case, Circumstances, Counting};

use crate::{draft::Draft, state::State};

/// What would be otherwise if policies in shadow counted: `would_allow`, `would_deny`, `would_widen` or `would_narrow`.
fn difference(decided: &Decision, otherwise: &Decision) -> Option<&'static str> {
    match (decided, otherwise) {
        (Decision::Denied { .. }, Decision::Allowed { .. }) => Some("would_allow"),
        (Decision::Allowed { .. }, Decision::Denied { .. }) => Some("would_deny"),
        (Decision::Allowed { filter, .. }, Decision::Allowed { filter: other, .. }) if filter != other => {
            Some(if filter.minus(other).is_empty() { "would_widen" } else { "would_narrow" })
        }
        _ => None,
    }
}

/// What is to be noted: action, object, details.
pub(crate) type Note = (String, String, Vec<(String, String)>);

/// What policies in shadow would make of a case, if that is not what is decided.
pub(crate) fn otherwise(state: &State, case: &Case<'_>, circumstances: Circumstances) -> Option<Note> {
    if !case.has_shadow() {
        return None;
    }
    let otherwise = case.weigh(circumstances, Counting::WithShadow);
    let difference = difference(&case.decide(circumstances), &otherwise)?;
    // Those that make the difference.
    let effect = if matches!(difference, "would_allow" | "would_widen") { Effect::Allow } else { Effect::Deny };
    let policies = case.shadows(circumstances).into_iter().map(|it| it.policy()).filter(|it| it.effect == effect);
    let policies: Vec<_> = policies.map(|it| it.id.to_string()).collect();
    let mut details = vec![("policies", policies.join(",")), ("device", case.device().name.clone())];
    details.extend(state.user_of(case.device()).map(|user| ("user", user.name.to_string())));
    details.push(match &otherwise {
        Decision::Allowed { filter, .. } => ("filter", filter.to_string()),
        Decision::Denied { reason } => ("why", reason.label().to_owned()),
    });
    let details = details.into_iter().map(|(name, value)| (name.to_owned(), value));
    Some((format!("shadow.{difference}"), format!("resource:{}", case.resource().name), details.collect()))
}

impl Draft<'_> {
    /// Notes it.
    pub(crate) fn shadow(&mut self, case: &Case<'_>, circumstances: Circumstances) {
        if let Some(note) = otherwise(self.state, case, circumstances) {
            self.note_down(note);
        }
    }
}
