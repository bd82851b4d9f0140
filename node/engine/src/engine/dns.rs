//! DNS (RFC 1035): answers for the zone and for aliases. Names that this device may not see are names that don't exist.

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType, rdata::SOA},
};
use postern_model::{Fqdn, Moment, OverlayAddr};

use super::{DnsVerdict, Engine};

/// How long an answer may be kept, in seconds; short, since access changes.
const TTL: u32 = 30;
/// How long "there is no such name" may be kept, in seconds (RFC 2308): a new grant should be seen soon.
const NEGATIVE_TTL: u32 = 2;
/// The largest UDP answer that we take part in, as DNS Flag Day 2020 proposes.
const MAX_PAYLOAD: u16 = 1232;

/// What the catalogue says of a name.
enum Lookup {
    /// A resource's addresses.
    Resource(OverlayAddr),
    /// In the zone, and not there; or the zone itself.
    Nothing(ResponseCode),
    /// None of ours.
    Elsewhere,
}

impl Engine {
    /// A DNS query from this machine. A name of a resource raises an access request ahead of the first packet.
    pub fn handle_dns_query(&mut self, query: &[u8], now: Moment) -> DnsVerdict {
        let Ok(query) = Message::from_vec(query) else { return DnsVerdict::Drop };
        if query.metadata.message_type != MessageType::Query {
            return DnsVerdict::Drop;
        }
        let [question] = query.queries.as_slice() else { return DnsVerdict::Forward };
        if query.metadata.op_code != OpCode::Query || question.query_class != DNSClass::IN {
            return DnsVerdict::Forward;
        }
        let Ok(name) = question.name.to_ascii().parse::<Fqdn>() else { return self.unspeakable(&query, question) };
        let mut answer = answer_to(&query);
        match self.look_up(&name, now) {
            Lookup::Elsewhere => return DnsVerdict::Forward,
            Lookup::Resource(addr) => {
                let data = match question.query_type {
                    RecordType::A => Some(RData::A(addr.v4.into())),
                    RecordType::AAAA => Some(RData::AAAA(addr.v6.into())),
                    _ => None,
                };
                match data {
                    Some(data) => drop(answer.add_answer(Record::from_rdata(question.name.clone(), TTL, data))),
                    None => self.add_soa(&mut answer, question),
                }
            }
            Lookup::Nothing(code) => {
                answer.metadata.response_code = code;
                self.add_soa(&mut answer, question);
            }
        }
        answer.to_vec().map_or(DnsVerdict::Drop, DnsVerdict::Answer)
    }

    fn look_up(&mut self, name: &Fqdn, now: Moment) -> Lookup {
        let Some(place) = &self.place else { return Lookup::Elsewhere };
        if let Some(entry) = self.names.get(name).and_then(|id| self.catalogue.get(id)) {
            let (id, addr) = (entry.id, entry.addr);
            self.queried.insert(id, name.clone());
            self.handle_wanted(id, now);
            return Lookup::Resource(addr);
        }
        if *name == place.zone {
            Lookup::Nothing(ResponseCode::NoError)
        } else if name.is_within(&place.zone) {
            Lookup::Nothing(ResponseCode::NXDomain)
        } else {
            Lookup::Elsewhere
        }
    }

    /// A name that can't be one of ours, such as one with a space in it: the zone's own don't leave this machine either.
    fn unspeakable(&self, query: &Message, question: &Query) -> DnsVerdict {
        let zone = self.place.as_ref().and_then(|place| name_of(&place.zone));
        if !zone.is_some_and(|zone| zone.zone_of(&question.name)) {
            return DnsVerdict::Forward;
        }
        let mut answer = answer_to(query);
        answer.metadata.response_code = ResponseCode::NXDomain;
        self.add_soa(&mut answer, question);
        answer.to_vec().map_or(DnsVerdict::Drop, DnsVerdict::Answer)
    }

    /// Says how long a negative answer may be kept (RFC 2308 section 3).
    fn add_soa(&self, answer: &mut Message, question: &Query) {
        let zone = self.place.as_ref().and_then(|place| name_of(&place.zone));
        let zone = zone.filter(|zone| zone.zone_of(&question.name)).unwrap_or_else(|| question.name.clone());
        let soa = SOA::new(zone.clone(), zone.clone(), 1, 3600, 600, 86400, NEGATIVE_TTL);
        answer.add_authority(Record::from_rdata(zone, NEGATIVE_TTL, RData::SOA(soa)));
    }
}

fn answer_to(query: &Message) -> Message {
    let mut answer = Message::response(query.metadata.id, OpCode::Query);
    answer.metadata.recursion_desired = query.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.metadata.checking_disabled = query.metadata.checking_disabled;
    answer.metadata.authoritative = true;
    answer.queries.clone_from(&query.queries);
    if let Some(asked) = &query.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_PAYLOAD).set_dnssec_ok(asked.flags().dnssec_ok);
        answer.edns = Some(edns);
    }
    answer
}

fn name_of(name: &Fqdn) -> Option<Name> {
    Name::from_ascii(format!("{name}.")).ok()
}
