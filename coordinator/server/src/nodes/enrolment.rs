//! A node without a certificate: it may enrol, and nothing else.

use std::time::Duration;

use anyhow::{Result, bail};
use postern_core::{EnrolProof, Enrolment, Foreseen};
use postern_encap::shares::Prefix;
use postern_model::token::hash_secret;
use postern_wire::{Enrol, EnrolRefusal, EnrolReply, Enrolled, Limit, Opening, close};
use quinn::Connection;

use super::{Nodes, limits::Shown, stream};
use crate::{certificates::CheckedRequest, clock};

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
        let Some(reply) = self.pace_enrolment(request, connection).await else {
            connection.close(close::RETRY.into(), b"too many refused or repeated enrolments; try again later");
            bail!("too many refused or repeated enrolments from there, or with that token");
        };
        if let EnrolReply::Refused(refusal) = &reply {
            tracing::info!(from = %connection.remote_address(), why = %refusal, "an enrolment was refused");
        }
        stream::send(&mut send, &reply, Limit::Anonymous).await?;
        stream::finish(&mut send).await;
        connection.close(close::DONE.into(), b"");
        Ok(())
    }

    /// The answer, or `None` when it is none that may be given now. What is refused or repeated is paced, each by itself; what
    /// makes a device never is.
    async fn pace_enrolment(&self, request: Enrol, connection: &Connection) -> Option<EnrolReply> {
        let source = Prefix::of(connection.remote_address().ip());
        let refuse = |shown: Shown| self.limit(|limits, now| limits.take_refusal(source, shown, now));
        let Ok(checked) = CheckedRequest::parse(&request.csr) else {
            return refuse(Shown::Nothing).then_some(EnrolReply::Refused(EnrolRefusal::BadRequest));
        };
        let token = request.token;
        let proof = EnrolProof {
            token,
            secret_hash: hash_secret(&request.secret),
            device_key: checked.key(),
            wireguard: request.wireguard,
            posture: request.posture,
            from: canonical(connection.remote_address()),
        };
        let foreseen = self.coordinator.read(|core| core.foresee_enrolment(&proof, clock::now())).await;
        let may_go_on = match foreseen {
            Foreseen::New => true,
            Foreseen::Again(device) => self.limit(|limits, now| limits.take_repeat(device, now)),
            Foreseen::Refused => refuse(Shown::Token(token)),
            Foreseen::Guess => refuse(Shown::Guess(token)),
            Foreseen::Stranger => refuse(Shown::Nothing),
        };
        if !may_go_on {
            return None;
        }
        let enrolment = self.record_enrolment(proof).await;
        // Another may have come in between: then it counts now.
        match &enrolment {
            _ if foreseen != Foreseen::New => {}
            Ok(Enrolment { is_again: false, .. }) => {}
            Ok(again) => drop(self.limit(|limits, now| limits.take_repeat(again.device, now))),
            Err(_) => drop(refuse(Shown::Token(token))),
        }
        let reply = enrolment.and_then(|enrolment| self.certify(enrolment, &checked));
        Some(reply.map_or_else(EnrolReply::Refused, EnrolReply::Enrolled))
    }

    async fn record_enrolment(&self, proof: EnrolProof) -> Result<Enrolment, EnrolRefusal> {
        self.coordinator.enrol(proof).await.unwrap_or_else(|error| {
            tracing::error!(%error, "an enrolment could not be recorded");
            Err(EnrolRefusal::CoordinatorFault)
        })
    }

    fn certify(&self, enrolment: Enrolment, checked: &CheckedRequest) -> Result<Enrolled, EnrolRefusal> {
        let Enrolment { device, name, .. } = enrolment;
        match self.ca.issue(device, checked, clock::now()) {
            Ok(certificate) => {
                tracing::info!(%device, name, "a device enrolled");
                Ok(Enrolled { device, name, certificate })
            }
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "a certificate could not be made");
                Err(EnrolRefusal::CoordinatorFault)
            }
        }
    }
}

/// An IPv4 address as such, though it came in on a socket for both families.
pub(super) fn canonical(addr: std::net::SocketAddr) -> std::net::SocketAddr {
    std::net::SocketAddr::new(addr.ip().to_canonical(), addr.port())
}
