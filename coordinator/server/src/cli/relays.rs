//! `relay …`: running one on its own, and telling the network of it.

use std::net::SocketAddr;

use clap::{Args, Subcommand};
use postern_model::{RelayName, Sha256, TrustKey, token::HostPort};
use serde_json::json;

use super::{
    plan::{Plan, get, post, remove, said, told},
    render::columns,
};
use crate::api::relays::RelayRows;

#[derive(Debug, Subcommand)]
pub(super) enum RelayWords {
    /// Run a relay on its own, in the foreground.
    Serve(RelayServeWords),
    /// Tell the network of a relay that runs on its own.
    Add {
        /// Like frankfurt.
        name: RelayName,
        /// Where nodes reach it.
        #[arg(long, value_name = "HOST:PORT")]
        address: HostPort,
        /// The digest of its key, as 'relay serve' says it when it starts.
        #[arg(long)]
        pin: Sha256,
    },
    /// List all relays, and what a relay on its own is to trust.
    List,
    /// Take a relay out of the network; nodes leave it at once.
    Remove {
        /// The relay's name.
        name: RelayName,
    },
}

#[derive(Debug, Args)]
pub(super) struct RelayServeWords {
    /// Where to listen for nodes.
    #[arg(long, value_name = "ADDR:PORT", value_parser = super::words::listen_address)]
    pub(super) listen: Option<SocketAddr>,
    /// The coordinator's key for passes, as 'relay list' shows it; may be repeated while one takes another's place.
    #[arg(long, value_name = "KEY", required = true)]
    pub(super) trust: Vec<TrustKey>,
    /// How much one node may send, in megabits per second.
    #[arg(long, value_name = "MBIT", default_value_t = 1000, allow_negative_numbers = true,
        value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(super) rate: u64,
}

/// The plan for any command but the one that asks nobody.
pub(super) fn plan(words: RelayWords) -> Option<Plan> {
    Some(match words {
        RelayWords::Serve(_) => return None,
        RelayWords::Add { name, address, pin } => {
            let sentence = format!("Added relay {name}: all nodes that are connected are told.");
            post("/relays", json!({ "name": name, "address": address, "pin": pin }), said(sentence))
        }
        RelayWords::List => get("/relays", told(|rows: RelayRows| table(&rows))),
        RelayWords::Remove { name } => {
            remove(&["relays", name.as_str()], said(format!("Removed relay {name}: nodes leave it.")))
        }
    })
}

fn table(rows: &RelayRows) -> String {
    let head = ["NAME", "ADDRESS", "NODES", "PIN", "ID"];
    let table = columns(&rows.relays, "There are no relays.", &head, |row| {
        vec![row.name.clone(), row.address.to_string(), row.nodes.to_string(), row.pin.to_string(), row.id.to_string()]
    });
    match rows.trust {
        Some(trust) => format!("{table}\n\nA relay on its own trusts this coordinator with: --trust {trust}"),
        None => table,
    }
}
