//! TLS for clients of a coordinator: one pinned key is trusted, no authority is.
//!
//! Nothing in the certificate counts but its key: not its names, nor its dates. That whoever answers holds the key is
//! shown by the handshake's signature, which is verified as always.

use std::{io, sync::Arc};

use postern_model::Sha256;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::Digest as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The server holds another key than the pinned one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server's key is not the pinned one: this is another coordinator, or someone in between")]
pub struct WrongPin;

/// A TLS 1.3 client configuration that speaks only to the coordinator whose public key has this digest.
///
/// # Errors
/// When the cryptography can't be set up.
pub fn client_config(pin: Sha256) -> Result<Arc<rustls::ClientConfig>, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Arc::new(PinVerifier { pin, provider: Arc::clone(&provider) });
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// Whether a connection failed because the key is not the pinned one.
pub fn is_wrong_pin(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|inner| inner.downcast_ref());
    let Some(Error::InvalidCertificate(CertificateError::Other(OtherError(cause)))) = error else { return false };
    cause.is::<WrongPin>()
}

/// Believes whoever holds the pinned key.
#[derive(Debug)]
struct PinVerifier {
    pin: Sha256,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let malformed = |_| Error::InvalidCertificate(CertificateError::BadEncoding);
        let (_, certificate) = X509Certificate::from_der(end_entity).map_err(malformed)?;
        let key = Sha256(sha2::Sha256::digest(certificate.public_key().raw).into());
        if key.ct_eq(&self.pin) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(WrongPin)))))
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{KeyPair, PKCS_ED25519};
    use rustls::{
        server::{ClientHello, ResolvesServerCert},
        sign::CertifiedKey,
    };
    use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;
    use crate::certificates::Identity;

    fn key() -> KeyPair {
        KeyPair::generate_for(&PKCS_ED25519).unwrap()
    }

    async fn handshake(server: rustls::ServerConfig, pin: Sha256) -> io::Result<()> {
        let (near, far) = tokio::io::duplex(1 << 16);
        let accepted = tokio::spawn(TlsAcceptor::from(Arc::new(server)).accept(far));
        let connector = TlsConnector::from(client_config(pin).unwrap());
        let connected = connector.connect(ServerName::try_from("anything.example.com").unwrap(), near).await;
        assert_eq!(accepted.await.unwrap().is_ok(), connected.is_ok());
        connected.map(drop)
    }

    #[tokio::test]
    async fn the_pinned_key_is_trusted_and_no_other() {
        let identity = Identity::new(key()).unwrap();
        handshake(identity.api_tls().unwrap(), identity.pin()).await.unwrap();
        let other = Identity::new(key()).unwrap();
        let error = handshake(other.api_tls().unwrap(), identity.pin()).await.unwrap_err();
        assert!(is_wrong_pin(&error), "{error:?}");
    }

    /// Shows someone's certificate without having its key.
    #[derive(Debug)]
    struct Thief(Arc<CertifiedKey>);

    impl ResolvesServerCert for Thief {
        fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
            Some(Arc::clone(&self.0))
        }
    }

    #[tokio::test]
    async fn a_certificate_without_its_key_is_worth_nothing() {
        let (real, thiefs) = (key(), key());
        let certificate = rcgen::CertificateParams::new(vec!["a.example.com".into()]).unwrap().self_signed(&real);
        let certificate = certificate.unwrap().der().clone();
        let pin = Sha256(sha2::Sha256::digest(rcgen::PublicKeyData::subject_public_key_info(&real)).into());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let signing = |key: &KeyPair| {
            let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
            Arc::new(CertifiedKey::new(vec![certificate.clone()], provider.key_provider.load_private_key(der).unwrap()))
        };
        for (key, is_good) in [(&real, true), (&thiefs, false)] {
            let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .unwrap()
                .with_no_client_auth()
                .with_cert_resolver(Arc::new(Thief(signing(key))));
            let outcome = handshake(server, pin).await;
            assert_eq!(outcome.is_ok(), is_good, "{outcome:?}");
        }
    }
}
