//! A site with its gateway, a resource, and alice's laptop that has a grant: what activity is about.

use postern_model::{
    DeviceId, GrantId, Protocol, ResourceId, Timestamp,
    activity::{FlowEnd, FlowEntry, FlowEvent, SpoolId},
};
use postern_wire::{AccessReply, AccessRequest, CoordinatorMessage, NodeMessage, Opening};
use quinn::Connection;
use serde_json::Value;

use super::{
    client::{Device, Stream, connect, enrolled, session},
    program::{Running, text},
};

pub(crate) const SPOOL: SpoolId = SpoolId([8; 16]);

/// One site, played by the test.
pub(crate) struct Office {
    pub(crate) gateway: Device,
    pub(crate) told: Stream,
    pub(crate) laptop: Device,
    pub(crate) connection: Connection,
    pub(crate) session: Stream,
    pub(crate) resource: ResourceId,
    _gateway_connection: Connection,
}

impl Office {
    /// Site `NAME` with a resource `NAME-wiki` for user `NAME-alice`; `key` tells its devices from others.
    pub(crate) async fn open(program: &Running, name: &str, key: u8) -> Self {
        program.done(&format!("site add {name}"));
        program.done(&format!("user add {name}-alice"));
        program.done(&format!("resource add {name}-wiki --site {name} --target 10.0.0.5 --tcp 443"));
        program.done(&format!("policy allow user:{name}-alice {name}-wiki"));
        let rows = program.json("resource list");
        let row = rows.as_array().unwrap().iter().find(|row| row["name"] == format!("{name}-wiki")).unwrap();
        let resource = text(row, "id").parse().unwrap();
        let gateway = enrolled(program.address(), &program.token(&format!("--site {name}")), key).await;
        let laptop = enrolled(program.address(), &program.token(&format!("--user {name}-alice")), key + 1).await;
        let gateway_connection = connect(program.address(), Some(&gateway.credential)).await.unwrap();
        let told = session(&gateway_connection).await;
        let connection = connect(program.address(), Some(&laptop.credential)).await.unwrap();
        let session = session(&connection).await;
        Self { gateway, told, laptop, connection, session, resource, _gateway_connection: gateway_connection }
    }

    /// Both ends connect anew.
    pub(crate) async fn reopen(self, program: &Running) -> Self {
        let gateway_connection = connect(program.address(), Some(&self.gateway.credential)).await.unwrap();
        let connection = connect(program.address(), Some(&self.laptop.credential)).await.unwrap();
        let (told, session) = (session(&gateway_connection).await, session(&connection).await);
        Self { told, session, connection, _gateway_connection: gateway_connection, ..self }
    }

    /// The laptop asks for a resource.
    pub(crate) async fn ask(&self, resource: ResourceId) -> Stream {
        Stream::with(&self.connection, &Opening::AccessRequest(AccessRequest { resource, queried: None })).await
    }

    /// The laptop gets, or renews, its grant.
    pub(crate) async fn grant(&mut self) -> GrantId {
        let mut answer = self.ask(self.resource).await;
        let CoordinatorMessage::InstallGrant(install) = self.told.hear().await else { panic!("no grant to install") };
        self.told.say(&NodeMessage::GrantInstalled { grant: install.grant, cut: 0 }).await;
        let AccessReply::Granted(granted) = answer.hear().await else { panic!("denied") };
        granted.grant
    }

    /// A denial, which is another for each `n`.
    pub(crate) async fn denial(&self, n: u8) {
        let reply = self.ask(ResourceId::from_bytes([n; 16])).await.hear::<AccessReply>().await;
        assert!(matches!(reply, AccessReply::Denied { .. }), "{reply:?}");
    }

    /// The gateway tells, and hears up to where that is recorded.
    pub(crate) async fn tell(&mut self, entries: Vec<FlowEntry>) -> u64 {
        self.told.say(&NodeMessage::Activity { spool: SPOOL, entries }).await;
        loop {
            // Among what else it hears.
            if let CoordinatorMessage::ActivityRecorded { spool: SPOOL, up_to } = self.told.hear().await {
                return up_to;
            }
        }
    }

    /// A flow under this grant that opened.
    pub(crate) fn opened(&self, grant: GrantId, number: u64) -> FlowEntry {
        entry(grant, self.laptop.id, self.resource, number)
    }

    /// One that is over.
    pub(crate) fn closed(&self, grant: GrantId, number: u64) -> FlowEntry {
        let opened_at = Timestamp::from_unix_millis(1_700_000_000_000);
        let event = FlowEvent::Closed { opened_at, up: number, down: 2000, end: FlowEnd::Finished };
        FlowEntry { event, ..self.opened(grant, number) }
    }
}

pub(crate) fn entry(grant: GrantId, device: DeviceId, resource: ResourceId, number: u64) -> FlowEntry {
    FlowEntry {
        number,
        at: Timestamp::from_unix_millis(1_700_000_060_000),
        flow: 1,
        grant,
        device,
        resource,
        protocol: Protocol::Tcp,
        port: 443,
        queried: Some("wiki.postern.internal".parse().unwrap()),
        event: FlowEvent::Opened,
    }
}

/// The rows that there are, by these words of `activity list`.
pub(crate) fn rows(program: &Running, words: &str) -> Vec<Value> {
    program.json(&format!("activity list --limit 10000 {words}")).as_array().unwrap().clone()
}

/// The rows, once there are so many: decisions are written right after they are told.
pub(crate) async fn rows_once(program: &Running, words: &str, count: usize) -> Vec<Value> {
    for _ in 0..1000 {
        let rows = rows(program, words);
        if rows.len() >= count {
            return rows;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{count} rows of '{words}' never come: {:?}", rows(program, words));
}
