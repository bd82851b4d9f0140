//! Enrolment: a join token becomes an identity.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use postern_model::{JoinToken, Posture, SecretBytes};
use postern_wire::{Enrol, EnrolRefusal, EnrolReply, Limit, Opening, close};
use postern_wireguard::PrivateKey;
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use zeroize::Zeroizing;

use super::{close_code, connect::Way, stream, tls};
use crate::state_dir::{Enrolling, Identity, StateDir};

/// How often the coordinator is asked while it says "come back", and how long after, give or take a half.
const TRIES: u32 = 8;
const PAUSE: Duration = Duration::from_secs(1);

/// Enrols this device: shows the token, gets a certificate, keeps the identity. The keys are kept before they are sent, so
/// that an enrolment whose answer was lost goes on when it is tried again with the same token.
///
/// # Errors
/// When the coordinator can't be reached, is not the one that made the token, or refuses; the message says which. Also when
/// the state directory can't be written.
pub async fn enrol(state: &StateDir, token: &JoinToken, posture: Posture) -> Result<Identity> {
    let enrolling = keys(state, token)?;
    match patiently(token, &enrolling, &posture).await {
        Ok(identity) => {
            state.set_identity(&identity)?;
            if let Err(error) = state.forget_enrolling() {
                // They are the identity's, and end with it.
                tracing::warn!(error = format!("{error:#}"), "the keys were kept twice");
            }
            Ok(identity)
        }
        Err(error) => {
            match error.downcast_ref() {
                // A device may have been made all the same.
                None | Some(EnrolRefusal::CoordinatorFault | EnrolRefusal::Unknown) => {}
                // These keys lead nowhere.
                Some(_) => state.forget_enrolling()?,
            }
            Err(error)
        }
    }
}

/// Comes back when the coordinator says so: many machines may enrol at once, from behind one address.
async fn patiently(token: &JoinToken, enrolling: &Enrolling, posture: &Posture) -> Result<Identity> {
    for _ in 1..TRIES {
        match request(token, enrolling, posture.clone()).await {
            Err(error) if close_code(&error) == Some(close::RETRY) => {
                let jitter = getrandom::u32().map_or(0.5, |bits| f64::from(bits) / f64::from(u32::MAX));
                tokio::time::sleep(PAUSE.mul_f64(0.5 + jitter)).await;
            }
            outcome => return outcome,
        }
    }
    request(token, enrolling, posture.clone()).await
}

/// Those of an earlier try with this token, or new ones.
fn keys(state: &StateDir, token: &JoinToken) -> Result<Enrolling> {
    let earlier = state.enrolling()?.filter(|earlier| earlier.token == token.id && earlier.pin == token.pin);
    if let Some(earlier) = earlier {
        return Ok(earlier);
    }
    let device_key = KeyPair::generate_for(&PKCS_ED25519)?;
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(bytes.as_mut())?;
    let enrolling = Enrolling {
        token: token.id,
        pin: token.pin,
        device_key: Zeroizing::new(device_key.serialize_pem()),
        wireguard_key: SecretBytes::new(*bytes),
    };
    state.set_enrolling(&enrolling)?;
    Ok(enrolling)
}

async fn request(token: &JoinToken, enrolling: &Enrolling, posture: Posture) -> Result<Identity> {
    let device_key = KeyPair::from_pem(&enrolling.device_key)
        .context("the keys of an earlier try to enrol are damaged: run 'postern logout', then try again")?;
    let csr = CertificateParams::default().serialize_request(&device_key)?.der().to_vec();

    let connected = Way::new(token.coordinator.clone(), token.pin, None)?.connect(false).await;
    let connected = match connected {
        Ok(connected) => connected,
        Err(error) if tls::is_wrong_pin(&error) => bail!(
            "the coordinator at {} is not the one that made this join token: its key does not match the token's pin. \
             Ask your admin for a new token; if it is new, somebody may be in between",
            token.coordinator
        ),
        Err(error) => return Err(error),
    };
    let (mut send, receive) = connected.connection.open_bi().await?;
    let request = Opening::Enrol(Enrol {
        token: token.id,
        secret: token.secret.clone(),
        csr,
        wireguard: PrivateKey::from_bytes(&enrolling.wireguard_key).public(),
        posture,
    });
    stream::send(&mut send, &request, Limit::Anonymous).await?;
    let _ = send.finish();
    let reply = stream::Reader::new(receive).next().await?;
    connected.say_goodbye().await;
    match reply.context("the coordinator hung up without an answer; try again")? {
        EnrolReply::Enrolled(enrolled) => Ok(Identity {
            device: enrolled.device,
            name: enrolled.name,
            coordinator: token.coordinator.clone(),
            pin: token.pin,
            device_key: enrolling.device_key.clone(),
            wireguard_key: enrolling.wireguard_key.clone(),
            certificate: enrolled.certificate,
        }),
        EnrolReply::Refused(refusal) => Err(refusal.into()),
    }
}

#[cfg(test)]
mod tests;
