//! Conditions that several policies have in common are compiled once: networks have many policies and few conditions.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, PoisonError, Weak},
};

use postern_model::Condition;

use crate::compiled::When;

/// What is compiled, for as long as any policy has it.
#[derive(Default)]
struct Kept {
    conditions: HashMap<Condition, Weak<When>>,
    /// At so many, those that nobody has any more are looked for.
    full: usize,
}

static KEPT: LazyLock<Mutex<Kept>> = LazyLock::new(Mutex::default);

/// A condition compiled, by `compile` unless it is already.
///
/// # Errors
/// With what `compile` says.
pub(crate) fn compiled(
    condition: &Condition,
    compile: impl FnOnce(&Condition) -> Result<When, String>,
) -> Result<Arc<When>, String> {
    let lock = || KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(when) = lock().conditions.get(condition).and_then(Weak::upgrade) {
        return Ok(when);
    }
    // Not under the lock: compiling takes a while.
    let when = Arc::new(compile(condition)?);
    let mut kept = lock();
    kept.conditions.insert(condition.clone(), Arc::downgrade(&when));
    if kept.conditions.len() > kept.full {
        kept.conditions.retain(|_, when| when.strong_count() > 0);
        kept.full = (2 * kept.conditions.len()).max(64);
    }
    Ok(when)
}
