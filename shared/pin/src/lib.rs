//! TLS for clients of a coordinator: one pinned key is trusted, no authority is.
//!
//! Nothing in the certificate counts but its key: not its names, nor its dates. That whoever answers holds the key is
//! shown by the handshake's signature, which is verified as always. No sockets; QUIC and HTTPS clients share this.

use std::sync::Arc;

use postern_model::Sha256;
use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, Error, OtherError, SignatureScheme,
    client::{
        WantsClientCert,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::Digest as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The server holds another key than the pinned one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server's key is not the pinned one: this is another coordinator, or someone in between")]
pub struct WrongPin;

/// The beginning of a TLS 1.3 client configuration that speaks only to the coordinator whose public key
/// (SubjectPublicKeyInfo, DER) has this digest. What is missing is whether the client shows a certificate.
///
/// # Errors
/// When the cryptography can't be set up.
pub fn client(pin: Sha256) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Arc::new(PinVerifier { pin, provider: Arc::clone(&provider) });
    let versions = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13])?;
    Ok(versions.dangerous().with_custom_certificate_verifier(verifier))
}

/// Whether the handshake failed because the key is not the pinned one.
pub fn is_wrong_pin(error: &Error) -> bool {
    let Error::InvalidCertificate(CertificateError::Other(OtherError(cause))) = error else { return false };
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
    use std::io;

    use rcgen::{CertificateParams, KeyPair, PKCS_ED25519, PublicKeyData as _};
    use rustls::{
        ClientConnection, ServerConfig, ServerConnection,
        server::{ClientHello, ResolvesServerCert},
        sign::CertifiedKey,
    };
    use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

    use super::*;

    fn key() -> KeyPair {
        KeyPair::generate_for(&PKCS_ED25519).unwrap()
    }

    fn pin(key: &KeyPair) -> Sha256 {
        Sha256(sha2::Sha256::digest(key.subject_public_key_info()).into())
    }

    /// Shows a certificate, and signs with whatever key it has.
    #[derive(Debug)]
    struct Shows(Arc<CertifiedKey>);

    impl ResolvesServerCert for Shows {
        fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
            Some(Arc::clone(&self.0))
        }
    }

    fn server(certified: &KeyPair, signing: &KeyPair) -> ServerConfig {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let certificate = CertificateParams::new(vec!["a.example.com".into()]).unwrap().self_signed(certified).unwrap();
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing.serialize_der()));
        let signing = provider.key_provider.load_private_key(der).unwrap();
        let shown = Arc::new(CertifiedKey::new(vec![certificate.der().clone()], signing));
        let versions = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]);
        versions.unwrap().with_no_client_auth().with_cert_resolver(Arc::new(Shows(shown)))
    }

    /// A handshake in memory; what the client makes of it.
    fn handshake(server: ServerConfig, pin: Sha256) -> Result<(), Error> {
        let name = ServerName::try_from("anything.example.com").unwrap();
        let mut client = ClientConnection::new(Arc::new(client(pin)?.with_no_client_auth()), name)?;
        let mut server = ServerConnection::new(Arc::new(server))?;
        while client.is_handshaking() {
            let mut wire = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut wire).unwrap();
            }
            server.read_tls(&mut io::Cursor::new(wire)).unwrap();
            server.process_new_packets()?;
            let mut wire = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            client.read_tls(&mut io::Cursor::new(wire)).unwrap();
            client.process_new_packets()?;
        }
        Ok(())
    }

    #[test]
    fn the_pinned_key_is_trusted_and_no_other() {
        let (real, other) = (key(), key());
        handshake(server(&real, &real), pin(&real)).unwrap();
        assert!(is_wrong_pin(&handshake(server(&other, &other), pin(&real)).unwrap_err()));
    }

    #[test]
    fn a_certificate_without_its_key_is_worth_nothing() {
        let (real, thief) = (key(), key());
        let error = handshake(server(&real, &thief), pin(&real)).unwrap_err();
        assert!(matches!(error, Error::InvalidCertificate(CertificateError::BadSignature)), "{error:?}");
    }
}
