//! A node without a certificate: it may enrol, and nothing else.

use std::time::Duration;

use anyhow::{Result, bail};
use postern_core::EnrolProof;
use postern_model::token::hash_secret;
use postern_wire::{Enrol, EnrolRefusal, EnrolReply, Enrolled, Limit, Opening, close};
use quinn::Connection;

use super::{Nodes, stream};
use crate::{certificates::CheckedRequest, clock, prefix::Prefix};

/// How long a connection may be idle before its one stream is opened.
const STREAM: Duration = Duration::from_secs(3);

impl Nodes {
    /// Serves the one stream of a connection without a certificate.
    pub(super) async fn enrol(&self, connection: &Connection) -> Result<()> {
        let accepted = tokio::time::timeout(STREAM, connection.accept_bi()).await;
        let Ok(accepted) = accepted else {
            connection.close(close::RETRY.into(), b"no stream was opened in time");
            bail!("no stream was opened in time");
        };
        let (mut send, receive) = accepted?;
        let mut reader = stream::Reader::new(receive, Limit::Anonymous);
        let request = match reader.opening().await {
            Ok(Opening::Enrol(request)) => request,
            Ok(_) => {
                connection.close(close::UNAUTHORIZED.into(), b"a device certificate is needed");
                bail!("asked for more than enrolment without a certificate");
            }
            Err(error) => {
                connection.close(close::PROTOCOL.into(), b"malformed");
                return Err(error.into());
            }
        };
        let source = Prefix::of(connection.remote_address().ip());
        // What a stranger makes up costs nothing in the log, and is kept nowhere.
        let token = self.coordinator.read(|core| core.state().tokens.get(&request.token).map(|token| token.id)).await;
        if !self.limit(|limits, now| limits.take_enrolment(source, token, now)) {
            connection.close(close::RETRY.into(), b"too many refused enrolments; try again later");
            bail!("too many refused enrolments from there, or with that token");
        }
        let reply = self.decide_enrolment(request, connection).await;
        if matches!(reply, EnrolReply::Enrolled(_)) {
            self.limit(|limits, _| limits.forgive(source, token));
        }
        if let EnrolReply::Refused(refusal) = &reply {
            tracing::info!(from = %connection.remote_address(), why = %refusal, "an enrolment was refused");
        }
        stream::send(&mut send, &reply, Limit::Anonymous).await?;
        stream::finish(&mut send).await;
        connection.close(close::DONE.into(), b"");
        Ok(())
    }

    async fn decide_enrolment(&self, request: Enrol, connection: &Connection) -> EnrolReply {
        let Ok(checked) = CheckedRequest::parse(&request.csr) else {
            return EnrolReply::Refused(EnrolRefusal::BadRequest);
        };
        let proof = EnrolProof {
            token: request.token,
            secret_hash: hash_secret(&request.secret),
            device_key: checked.key(),
            wireguard: request.wireguard,
            posture: request.posture,
            from: canonical(connection.remote_address()),
        };
        let enrolment = match self.coordinator.enrol(proof).await {
            Ok(Ok(enrolment)) => enrolment,
            Ok(Err(refusal)) => return EnrolReply::Refused(refusal),
            Err(error) => {
                tracing::error!(%error, "an enrolment could not be recorded");
                return EnrolReply::Refused(EnrolRefusal::CoordinatorFault);
            }
        };
        match self.ca.issue(enrolment.device, &checked, clock::now()) {
            Ok(certificate) => {
                tracing::info!(device = %enrolment.device, name = enrolment.name, "a device enrolled");
                EnrolReply::Enrolled(Enrolled { device: enrolment.device, name: enrolment.name, certificate })
            }
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "a certificate could not be made");
                EnrolReply::Refused(EnrolRefusal::CoordinatorFault)
            }
        }
    }
}

/// An IPv4 address as such, though it came in on a socket for both families.
pub(super) fn canonical(addr: std::net::SocketAddr) -> std::net::SocketAddr {
    std::net::SocketAddr::new(addr.ip().to_canonical(), addr.port())
}
