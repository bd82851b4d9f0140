//! What each command asks the coordinator, and how its answer is told.

use hyper::Method;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::{
    activity,
    client::Call,
    inquiry, policies, relays, render,
    words::{
        ApiKeyWords, AuditWords, DeviceWords, GrantWords, GroupWords, MemberWords, NewResource, NewToken, ResourceEdit,
        ResourceWords, SiteWords, TokenWords, UserWords, Words,
    },
};

/// Tells an answer to a person; `Err` when it is not what was expected.
pub(super) type Tell = Box<dyn FnOnce(Value) -> serde_json::Result<String>>;

/// One call, and what is told of its answer.
pub(super) struct Plan {
    pub(super) call: Call,
    pub(super) tell: Tell,
}

/// The plan for any command but those that ask nobody.
pub(super) fn plan(words: Words) -> Option<Plan> {
    Some(match words {
        Words::Serve(_) => return None,
        Words::User(words) => user(words),
        Words::Group(words) => group(words),
        Words::Site(words) => site(words),
        Words::Relay(words) => return relays::plan(words),
        Words::Resource(words) => resource(words),
        Words::Policy(words) => return policies::plan(words),
        Words::Explain(words) => inquiry::explain(words),
        Words::WhoCan(words) => inquiry::who_can(words),
        Words::Change(words) => inquiry::change(words),
        Words::Token(words) => token(words),
        Words::Device(words) => device(words),
        Words::Grant(GrantWords::List) => get("/grants", table(render::grants)),
        Words::Activity(words) => return activity::plan(&words),
        Words::Audit(AuditWords::List { after, limit }) => {
            let after = after.map(|after| format!("&after={after}")).unwrap_or_default();
            get(&format!("/audit?limit={limit}{after}"), table(render::audit))
        }
        Words::Audit(AuditWords::Verify) => get("/audit/verify", told(|report| render::audit_report(&report))),
        Words::ApiKey(words) => api_key(words),
    })
}

fn user(words: UserWords) -> Plan {
    match words {
        UserWords::Add { name, groups } => {
            let sentence = match groups.as_slice() {
                [] => format!("Added user {name}."),
                groups => format!("Added user {name}, in {}.", render::list(groups)),
            };
            post("/users", json!({ "name": name, "groups": groups }), said(sentence))
        }
        UserWords::List => get("/users", table(render::users)),
        UserWords::Suspend { name } => {
            let sentence = format!("Suspended user {name}: their open connections are cut.");
            act(&["users", name.as_str(), "suspend"], said(sentence))
        }
        UserWords::Resume { name } => act(&["users", name.as_str(), "resume"], said(format!("Resumed user {name}."))),
        UserWords::Remove { name } => remove(
            &["users", name.as_str()],
            said(format!("Removed user {name}, with all their devices, tokens and policies.")),
        ),
    }
}

fn group(words: GroupWords) -> Plan {
    match words {
        GroupWords::Add { name } => post("/groups", json!({ "name": name }), said(format!("Added group {name}."))),
        GroupWords::Member(MemberWords::Add { group, user }) => {
            let path = path(&["groups", group.as_str(), "members", user.as_str()]);
            let tell = said(format!("Added user {user} to group {group}."));
            Plan { call: Call { method: Method::PUT, path, body: None }, tell }
        }
        GroupWords::Member(MemberWords::Remove { group, user }) => {
            let tell = said(format!("Removed user {user} from group {group}."));
            remove(&["groups", group.as_str(), "members", user.as_str()], tell)
        }
        GroupWords::List => get("/groups", table(render::groups)),
        GroupWords::Remove { name } => {
            remove(&["groups", name.as_str()], said(format!("Removed group {name}, with its policies.")))
        }
    }
}

fn site(words: SiteWords) -> Plan {
    match words {
        SiteWords::Add { name } => post("/sites", json!({ "name": name }), said(format!("Added site {name}."))),
        SiteWords::List => get("/sites", table(render::sites)),
        SiteWords::Drain { site, gateway, force } => {
            let sentence =
                format!("Drained gateway {gateway}: what it carries moves to the other gateways of site {site}.");
            let mut plan = act(&["sites", site.as_str(), "gateways", &gateway, "drain"], said(sentence));
            if force {
                plan.call.path.push_str("?force=true");
            }
            plan
        }
        SiteWords::Undrain { site, gateway } => {
            let sentence = format!("Gateway {gateway} carries for site {site} again.");
            act(&["sites", site.as_str(), "gateways", &gateway, "undrain"], said(sentence))
        }
    }
}

fn resource(words: ResourceWords) -> Plan {
    match words {
        ResourceWords::Add(NewResource { name, site, target, tcp, udp, icmp, aliases, tags }) => {
            let body = json!({
                "name": name, "site": site, "target": target,
                "tcp": tcp.unwrap_or_default(), "udp": udp.unwrap_or_default(), "icmp": icmp, "aliases": aliases,
                "tags": tags,
            });
            post("/resources", body, told(|row| render::added_resource(&row)))
        }
        ResourceWords::List => get("/resources", table(render::resources)),
        ResourceWords::Edit(ResourceEdit { name, target, tcp, udp, icmp, aliases, no_alias, tags, no_tag }) => {
            let aliases = (no_alias || !aliases.is_empty()).then_some(aliases);
            let tags = (no_tag || !tags.is_empty()).then_some(tags);
            let fields = [
                ("target", target.map(|it| json!(it))),
                ("tcp", tcp.map(|it| json!(it))),
                ("udp", udp.map(|it| json!(it))),
                ("icmp", icmp.map(|it| json!(it))),
                ("aliases", aliases.map(|it| json!(it))),
                ("tags", tags.map(|it| json!(it))),
            ];
            let given = fields.into_iter().filter_map(|(field, value)| Some((field.to_owned(), value?)));
            let body = Some(Value::Object(given.collect::<Map<_, _>>()));
            let path = path(&["resources", name.as_str()]);
            let tell = told(|row| render::edited_resource(&row));
            Plan { call: Call { method: Method::PATCH, path, body }, tell }
        }
        ResourceWords::Remove { name } => {
            remove(&["resources", name.as_str()], said(format!("Removed resource {name}, with its policies.")))
        }
    }
}

fn token(words: TokenWords) -> Plan {
    match words {
        TokenWords::Create(NewToken { user, site, expires, uses }) => {
            let expires = humantime::format_duration(expires).to_string();
            let mut body = json!({ "expires_in": expires, "uses": uses });
            match (user, site) {
                (Some(user), _) => body["user"] = json!(user),
                (None, site) => body["site"] = json!(site),
            }
            post("/tokens", body, Box::new(move |made| render::made_token(&made, &expires)))
        }
        TokenWords::List => get("/tokens", table(render::tokens)),
        TokenWords::Withdraw { id } => {
            let sentence = format!("Withdrew token {id}: no device can enrol with it any more.");
            act(&["tokens", &id.to_string(), "withdraw"], said(sentence))
        }
    }
}

fn device(words: DeviceWords) -> Plan {
    match words {
        DeviceWords::List => get("/devices", table(render::devices)),
        DeviceWords::Revoke { device } => {
            let sentence = format!("Revoked device {device}: it is shut out, and its open connections are cut.");
            act(&["devices", &device, "revoke"], said(sentence))
        }
        DeviceWords::Remove { device } => {
            let sentence = format!("Removed device {device}: it is shut out and forgotten.");
            remove(&["devices", &device], said(sentence))
        }
    }
}

fn api_key(words: ApiKeyWords) -> Plan {
    match words {
        ApiKeyWords::Create { name } => {
            post("/api-keys", json!({ "name": name }), Box::new(|made| render::made_api_key(&made)))
        }
        ApiKeyWords::List => get("/api-keys", table(render::api_keys)),
        ApiKeyWords::Revoke { id } => remove(&["api-keys", &id.to_string()], said(format!("Revoked API key {id}."))),
    }
}

pub(super) fn get(path: &str, tell: Tell) -> Plan {
    Plan { call: Call { method: Method::GET, path: path.to_owned(), body: None }, tell }
}

pub(super) fn post(path: &str, body: Value, tell: Tell) -> Plan {
    Plan { call: Call { method: Method::POST, path: path.to_owned(), body: Some(body) }, tell }
}

pub(super) fn act(segments: &[&str], tell: Tell) -> Plan {
    Plan { call: Call { method: Method::POST, path: path(segments), body: None }, tell }
}

pub(super) fn remove(segments: &[&str], tell: Tell) -> Plan {
    Plan { call: Call { method: Method::DELETE, path: path(segments), body: None }, tell }
}

pub(super) fn said(sentence: String) -> Tell {
    Box::new(|_| Ok(sentence))
}

pub(super) fn told<T: DeserializeOwned>(tell: impl FnOnce(T) -> String + 'static) -> Tell {
    Box::new(|value| serde_json::from_value(value).map(tell))
}

pub(super) fn table<T: DeserializeOwned>(tell: impl FnOnce(&[T]) -> String + 'static) -> Tell {
    told(move |rows: Vec<T>| tell(&rows))
}

/// Segments may hold anything; only what is plainly harmless goes in as it is.
pub(super) fn path(segments: &[&str]) -> String {
    let mut path = String::new();
    for segment in segments {
        path.push('/');
        for byte in segment.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => path.push(byte.into()),
                // A segment of dots alone would be taken for a way upwards.
                b'.' if segment.bytes().any(|byte| byte != b'.') => path.push('.'),
                _ => path.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_escapes_its_segment() {
        assert_eq!(path(&["users", "alice@example.com"]), "/users/alice%40example.com");
        assert_eq!(path(&["devices", "../users/alice?x#y", "revoke"]), "/devices/..%2Fusers%2Falice%3Fx%23y/revoke");
        assert_eq!(path(&["devices", "..", "revoke"]), "/devices/%2E%2E/revoke");
    }
}
