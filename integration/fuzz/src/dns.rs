//! A DNS query from an app of this machine.

use hickory_proto::{
    op::{Message, MessageType, OpCode},
    rr::{DNSClass, Name, RData},
};
use postern_engine::DnsVerdict;

use crate::setting::{ZONE, engine, now, ranges};

/// The largest answer that fits everywhere.
const MOST: usize = 1_232;

/// Answers belong to their query and say only what the catalogue does; what is of the zone stays here.
pub fn check(data: &[u8]) {
    let mut engine = engine();
    let verdict = engine.handle_dns_query(data, now());
    let query = Message::from_vec(data);
    match verdict {
        DnsVerdict::Answer(answer) => {
            let query = query.expect("only what can be read is answered");
            assert!(answer.len() <= MOST);
            let answer = Message::from_vec(&answer).expect("an answer is a message");
            assert_eq!((answer.metadata.id, answer.metadata.message_type), (query.metadata.id, MessageType::Response));
            assert_eq!(answer.queries, query.queries);
            for record in &answer.answers {
                let addr = match record.data {
                    RData::A(v4) => v4.0.into(),
                    RData::AAAA(v6) => v6.0.into(),
                    ref other => panic!("not an address: {other:?}"),
                };
                assert!(ranges().is_resource(addr) && record.name == query.queries[0].name);
            }
        }
        DnsVerdict::Forward => {
            let query = query.expect("only what can be read is passed on");
            if let ([question], OpCode::Query) = (query.queries.as_slice(), query.metadata.op_code) {
                let zone = Name::from_ascii(format!("{ZONE}.")).expect("a name");
                assert!(question.query_class != DNSClass::IN || !zone.zone_of(&question.name), "it is of the zone");
            }
        }
        DnsVerdict::Drop => assert!(!query.is_ok_and(|query| query.metadata.message_type == MessageType::Query)),
    }
}
