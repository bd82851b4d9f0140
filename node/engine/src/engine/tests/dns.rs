//! Names: those of the catalogue answer, the zone's others don't exist, all else is not ours.

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, RecordType},
};
use postern_model::DenyReason;
use postern_wire::CatalogueEntry;
use proptest::prelude::*;

use super::{
    node::Node,
    setting::{DB, WIKI, catalogue, entry, granted, resource_addr},
};
use crate::DnsVerdict;

const ID: u16 = 0x1234;

fn query(name: &str, kind: RecordType) -> Message {
    let mut query = Message::new(ID, MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    query
}

fn ask(node: &mut Node, query: &Message) -> DnsVerdict {
    node.engine.handle_dns_query(&query.to_vec().unwrap(), node.now)
}

/// The answer, which is one to this query.
fn answer_to(node: &mut Node, query: &Message) -> Message {
    let DnsVerdict::Answer(answer) = ask(node, query) else { panic!("no answer to {query:?}") };
    assert!(answer.len() <= 512, "it fits without extensions");
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!((answer.metadata.id, answer.metadata.message_type), (ID, MessageType::Response));
    assert_eq!(answer.queries, query.queries);
    answer
}

fn answer(node: &mut Node, name: &str, kind: RecordType) -> Message {
    answer_to(node, &query(name, kind))
}

/// The addresses in an answer that has nothing else.
fn addresses(node: &mut Node, name: &str, kind: RecordType) -> Vec<String> {
    let answer = answer(node, name, kind);
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    assert!(answer.metadata.authoritative && answer.metadata.recursion_available && answer.metadata.recursion_desired);
    assert!(answer.answers.iter().all(|record| record.name == answer.queries[0].name && record.ttl == 30));
    answer.answers.iter().map(|record| record.data.to_string()).collect()
}

/// Asserts that an answer says that there is nothing, and for how long that is so.
fn assert_nothing(answer: &Message, code: ResponseCode, owner: &str) {
    assert_eq!(answer.metadata.response_code, code);
    assert!(answer.answers.is_empty());
    let [record] = answer.authorities.as_slice() else { panic!("one SOA: {:?}", answer.authorities) };
    let RData::SOA(soa) = &record.data else { panic!("{record:?}") };
    assert_eq!((record.name.to_ascii().as_str(), record.ttl, soa.minimum), (owner, 2, 2));
}

/// WIKI also answers as `wiki.example.com`.
fn node() -> Node {
    let mut node = Node::connected(&[WIKI, DB]);
    node.message(catalogue(&[aliased(&["wiki.example.com"])], &[]));
    node.events();
    node
}

fn aliased(aliases: &[&str]) -> CatalogueEntry {
    CatalogueEntry { aliases: aliases.iter().map(|alias| alias.parse().unwrap()).collect(), ..entry(WIKI) }
}

#[test]
fn a_resource_answers_with_its_addresses_by_every_name() {
    let mut node = node();
    let addr = resource_addr(WIKI);
    for name in ["wiki.postern.internal.", "wiki.example.com.", "WiKi.Postern.INTERNAL.", "Wiki.Example.Com."] {
        assert_eq!(addresses(&mut node, name, RecordType::A), [addr.v4.to_string()]);
        assert_eq!(addresses(&mut node, name, RecordType::AAAA), [addr.v6.to_string()]);
    }
    assert_eq!(addresses(&mut node, "db.postern.internal.", RecordType::A), [resource_addr(DB).v4.to_string()]);
}

#[test]
fn other_types_of_a_resource_have_no_data() {
    let mut node = node();
    for kind in [RecordType::HTTPS, RecordType::MX, RecordType::TXT, RecordType::SOA, RecordType::ANY] {
        let answer = answer(&mut node, "wiki.postern.internal.", kind);
        assert_nothing(&answer, ResponseCode::NoError, "postern.internal.");
    }
    let answer = answer(&mut node, "wiki.example.com.", RecordType::HTTPS);
    assert_nothing(&answer, ResponseCode::NoError, "wiki.example.com.");
}

#[test]
fn other_names_in_the_zone_do_not_exist() {
    let mut node = node();
    for name in ["git.postern.internal.", "x.wiki.postern.internal.", "WIKI2.POSTERN.INTERNAL."] {
        for kind in [RecordType::A, RecordType::AAAA, RecordType::HTTPS] {
            assert_nothing(&answer(&mut node, name, kind), ResponseCode::NXDomain, "postern.internal.");
        }
    }
    assert!(node.events().is_empty(), "nobody is asked for them");
}

#[test]
fn names_that_can_be_nobodys_do_not_leave_the_machine() {
    let mut node = node();
    let of = |labels: &[&str]| {
        let mut query = query(".", RecordType::A);
        query.queries[0].set_name(Name::from_labels(labels.iter().map(|label| label.as_bytes())).unwrap());
        query
    };
    let first_labels = ["a b", "*", "wiki.", ".wiki", "a\0", "\u{e9}", "-"];
    for first in first_labels {
        let answer = answer_to(&mut node, &of(&[first, "Postern", "internal"]));
        assert_nothing(&answer, ResponseCode::NXDomain, "postern.internal.");
        assert_eq!(ask(&mut node, &of(&[first, "example", "com"])), DnsVerdict::Forward, "{first}");
    }
    // Dots inside a label do not make it two.
    assert_eq!(ask(&mut node, &of(&["wiki.postern", "internal"])), DnsVerdict::Forward);
    assert_eq!(ask(&mut node, &of(&[])), DnsVerdict::Forward);
}

#[test]
fn the_zone_itself_exists_and_has_nothing() {
    let mut node = node();
    for kind in [RecordType::A, RecordType::AAAA, RecordType::NS] {
        assert_nothing(&answer(&mut node, "postern.internal.", kind), ResponseCode::NoError, "postern.internal.");
    }
}

#[test]
fn other_names_are_not_ours() {
    let mut node = node();
    for name in ["example.com.", "www.wiki.example.com.", "evilpostern.internal.", "internal.", "1.0.96.100."] {
        assert_eq!(ask(&mut node, &query(name, RecordType::A)), DnsVerdict::Forward, "{name}");
    }
    assert!(node.events().is_empty());
}

#[test]
fn without_a_welcome_every_name_is_somebody_elses() {
    let mut node = Node::new();
    assert_eq!(ask(&mut node, &query("wiki.postern.internal.", RecordType::A)), DnsVerdict::Forward);
    let mut node = self::node();
    node.engine.handle_evicted();
    assert_eq!(ask(&mut node, &query("wiki.postern.internal.", RecordType::A)), DnsVerdict::Forward);
}

#[test]
fn names_follow_the_catalogue() {
    let mut node = node();
    node.message(catalogue(&[aliased(&["docs.example.com"])], &[]));
    assert_eq!(ask(&mut node, &query("wiki.example.com.", RecordType::A)), DnsVerdict::Forward);
    assert_eq!(addresses(&mut node, "docs.example.com.", RecordType::A).len(), 1);
    node.message(catalogue(&[], &[WIKI]));
    assert_eq!(ask(&mut node, &query("docs.example.com.", RecordType::A)), DnsVerdict::Forward);
    let answer = answer(&mut node, "wiki.postern.internal.", RecordType::A);
    assert_nothing(&answer, ResponseCode::NXDomain, "postern.internal.");
    node.engine.handle_disconnected();
    assert_eq!(addresses(&mut node, "db.postern.internal.", RecordType::A).len(), 1, "also without a session");
}

#[test]
fn a_query_asks_for_access_ahead_of_the_first_packet() {
    let mut node = node();
    addresses(&mut node, "wiki.postern.internal.", RecordType::A);
    addresses(&mut node, "wiki.example.com.", RecordType::AAAA);
    assert_eq!(node.events(), ["ask 0 as wiki.postern.internal"]);
    node.granted(granted(1, WIKI));
    addresses(&mut node, "wiki.postern.internal.", RecordType::A);
    assert_eq!(node.events(), ["table held 1"]);
    node.engine.handle_disconnected();
    addresses(&mut node, "db.postern.internal.", RecordType::A);
    assert!(node.events().is_empty());
}

#[test]
fn an_extended_query_gets_an_extended_answer() {
    let mut node = node();
    assert_eq!(answer(&mut node, "wiki.postern.internal.", RecordType::A).edns, None);
    for (dnssec_ok, name) in [(false, "wiki.postern.internal."), (true, "git.postern.internal.")] {
        let mut query = query(name, RecordType::A);
        let mut edns = Edns::new();
        edns.set_max_payload(4096).set_dnssec_ok(dnssec_ok);
        query.set_edns(edns);
        let edns = answer_to(&mut node, &query).edns.expect("RFC 6891 section 6.1.1 wants one");
        assert_eq!((edns.version(), edns.max_payload()), (0, 1232));
        assert_eq!(edns.flags().dnssec_ok, dnssec_ok, "RFC 3225 section 3 wants it copied");
        assert!(edns.options().as_ref().is_empty());
    }
}

#[test]
fn what_is_no_plain_question_is_left_to_others() {
    let mut node = node();
    let plain = query("wiki.postern.internal.", RecordType::A);
    let mut two = plain.clone();
    two.add_query(Query::query(Name::from_ascii("db.postern.internal.").unwrap(), RecordType::A));
    let mut none = plain.clone();
    none.queries.clear();
    let mut chaos = plain.clone();
    chaos.queries[0].set_query_class(DNSClass::CH);
    let mut notify = plain.clone();
    notify.metadata.op_code = OpCode::Notify;
    for query in [two, none, chaos, notify] {
        assert_eq!(ask(&mut node, &query), DnsVerdict::Forward, "{query:?}");
    }
    assert!(node.events().is_empty());
}

#[test]
fn what_is_no_query_is_dropped() {
    let mut node = node();
    let whole = query("wiki.postern.internal.", RecordType::A).to_vec().unwrap();
    for length in 0..whole.len() {
        assert_eq!(node.engine.handle_dns_query(&whole[..length], node.now), DnsVerdict::Drop, "{length} bytes");
    }
    let mut response = query("wiki.postern.internal.", RecordType::A);
    response.metadata.message_type = MessageType::Response;
    assert_eq!(ask(&mut node, &response), DnsVerdict::Drop, "answers are never answered");
    assert!(node.events().is_empty());
}

/// Whether a verdict on any bytes is one that may be: an answer has the query's id, and is none to be answered.
fn is_sound(query: &[u8], verdict: &DnsVerdict) -> bool {
    match verdict {
        DnsVerdict::Answer(answer) => answer.len() > 12 && answer[..2] == query[..2] && answer[2] & 0x80 != 0,
        DnsVerdict::Forward => query.len() >= 12 && query[2] & 0x80 == 0,
        DnsVerdict::Drop => true,
    }
}

/// A query in which some bytes are others, with something after it.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let names = ["wiki.postern.internal.", "git.postern.internal.", "wiki.example.com.", "example.com.", "."];
    let damage = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let rest = prop::collection::vec(any::<u8>(), 0..40);
    (prop::sample::select(names.to_vec()), any::<u16>(), any::<bool>(), damage, rest).prop_map(
        |(name, kind, is_extended, damage, rest)| {
            let mut query = query(name, kind.into());
            if is_extended {
                query.set_edns(Edns::new());
            }
            let mut bytes = query.to_vec().unwrap();
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.extend(rest);
            bytes
        },
    )
}

proptest! {
    /// Invariant: no bytes panic, and an answer has the query's id and is marked as an answer.
    #[test]
    fn any_bytes_get_a_sound_verdict(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let mut node = node();
        let verdict = node.engine.handle_dns_query(&bytes, node.now);
        prop_assert!(is_sound(&bytes, &verdict), "{verdict:?}");
    }

    /// The same for what is nearly a query, where more code is reached.
    #[test]
    fn damaged_queries_get_a_sound_verdict(bytes in damaged()) {
        let mut node = node();
        let verdict = node.engine.handle_dns_query(&bytes, node.now);
        prop_assert!(is_sound(&bytes, &verdict), "{verdict:?}");
    }
}

#[test]
fn a_request_says_by_which_name_the_resource_was_looked_up_last() {
    let mut node = node();
    addresses(&mut node, "wiki.example.com.", RecordType::A);
    assert_eq!(node.events(), ["ask 0 as wiki.example.com"]);
    node.granted(granted(1, WIKI));
    node.events();
    addresses(&mut node, "wiki.postern.internal.", RecordType::A);
    node.revoke(1);
    node.events();
    node.miss(WIKI, "one");
    assert_eq!(node.events(), ["ask 0 as wiki.postern.internal"]);
    // A name that is the resource's no more is not said any more; nor is one resource's said for another.
    addresses(&mut node, "wiki.example.com.", RecordType::A);
    node.message(catalogue(&[entry(WIKI)], &[]));
    node.denied(WIKI, DenyReason::NoGateway);
    node.miss(DB, "two");
    node.miss(WIKI, "three");
    let asked = node.events();
    assert!(asked.ends_with(&["ask 1".to_owned(), "ask 0".to_owned()]), "{asked:?}");
}
