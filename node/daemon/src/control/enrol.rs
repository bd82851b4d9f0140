//! Enrolment: a join token becomes an identity.

use anyhow::{Context as _, Result, bail};
use postern_model::{JoinToken, Posture, SecretBytes};
use postern_wire::{Enrol, EnrolReply, Limit, Opening, close};
use postern_wireguard::PrivateKey;
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use zeroize::Zeroizing;

use super::{connect, stream, tls};
use crate::state_dir::Identity;

/// Enrols this device: makes its keys, shows the token, gets a certificate. Nothing is kept here.
///
/// # Errors
/// When the coordinator can't be reached, is not the one that made the token, or refuses; the message says which.
pub async fn enrol(token: &JoinToken, posture: Posture) -> Result<Identity> {
    let device_key = KeyPair::generate_for(&PKCS_ED25519)?;
    let csr = CertificateParams::default().serialize_request(&device_key)?.der().to_vec();
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(bytes.as_mut())?;
    let wireguard_key = SecretBytes::new(*bytes);

    let connected = connect(&token.coordinator, token.pin, None).await;
    let (endpoint, connection) = match connected {
        Ok(connected) => connected,
        Err(error) if tls::is_wrong_pin(&error) => bail!(
            "the coordinator at {} is not the one that made this join token: its key does not match the token's pin. \
             Ask your admin for a new token; if it is new, somebody may be in between",
            token.coordinator
        ),
        Err(error) => return Err(error),
    };
    let (mut send, receive) = connection.open_bi().await?;
    let request = Opening::Enrol(Enrol {
        token: token.id,
        secret: token.secret.clone(),
        csr,
        wireguard: PrivateKey::from_bytes(&wireguard_key).public(),
        posture,
    });
    stream::send(&mut send, &request, Limit::Anonymous).await?;
    let _ = send.finish();
    let reply = stream::Reader::new(receive).next().await?;
    connection.close(close::DONE.into(), b"");
    endpoint.wait_idle().await;
    match reply.context("the coordinator hung up without an answer; try again")? {
        EnrolReply::Enrolled(enrolled) => Ok(Identity {
            device: enrolled.device,
            name: enrolled.name,
            coordinator: token.coordinator.clone(),
            pin: token.pin,
            device_key: Zeroizing::new(device_key.serialize_pem()),
            wireguard_key,
            certificate: enrolled.certificate,
        }),
        EnrolReply::Refused(refusal) => Err(refusal.into()),
    }
}
