//! Decisions and what is said of them: by example, and against other ways to come to the same answer.
//!
//! - `world`: facts, made by hand or at random; `circumstances`: postures and moments at random
//! - `conditions`: conditions of the short form at random, and what they mean, written directly from the rules
//! - `examples`: decisions; `plain_cedar`: against Cedar over all policies at once; `holding`: how long, and what is visible
//! - `experts`: policies in Cedar; `explaining`: what is said of a decision; `planning`: access
//!   without circumstances; `speed`: a figure

pub(crate) mod circumstances;
pub(crate) mod conditions;
mod examples;
mod experts;
mod explaining;
mod holding;
mod plain_cedar;
mod planning;
mod speed;
pub(crate) mod world;
