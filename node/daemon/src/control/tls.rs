//! TLS 1.3 with one pinned key: no authority is trusted.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use postern_model::Sha256;
use quinn::{IdleTimeout, TransportConfig, VarInt, crypto::rustls::QuicClientConfig};
use rustls::{
    CertificateError, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use sha2::Digest as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// How long a silent coordinator counts as there.
const IDLE: Duration = Duration::from_secs(10);
/// How often something is sent: a coordinator that has restarted answers it with a reset, and the node connects anew.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// The device certificate and its key.
pub(super) struct DeviceCredential {
    pub(super) certificate: Vec<u8>,
    pub(super) key: rcgen::KeyPair,
}

/// A QUIC client configuration that speaks only to the coordinator whose public key has this digest.
pub(super) fn client_config(pin: Sha256, credential: Option<DeviceCredential>) -> Result<quinn::ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Arc::new(PinVerifier { pin, provider: Arc::clone(&provider) });
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut tls = match credential {
        None => builder.with_no_client_auth(),
        Some(DeviceCredential { certificate, key }) => {
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
            let configured = builder.with_client_auth_cert(vec![CertificateDer::from(certificate)], key);
            configured.context("the device certificate can't be used")?
        }
    };
    tls.alpn_protocols = vec![postern_wire::ALPN.to_vec()];
    tls.resumption = rustls::client::Resumption::disabled();
    tls.enable_early_data = false;
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(Some(IdleTimeout::try_from(IDLE)?));
    transport.keep_alive_interval(Some(KEEP_ALIVE));
    transport.max_concurrent_bidi_streams(VarInt::from_u32(0));
    transport.max_concurrent_uni_streams(VarInt::from_u32(0));
    transport.datagram_receive_buffer_size(None);
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport));
    Ok(config)
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
        let (_, parsed) = X509Certificate::from_der(end_entity).map_err(malformed)?;
        let key = Sha256(sha2::Sha256::digest(parsed.public_key().raw).into());
        if key.ct_eq(&self.pin) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Whether a connection failed because the key is not the pinned one.
pub(super) fn is_wrong_pin(error: &anyhow::Error) -> bool {
    // TLS alert 49, access_denied: what rustls makes of an application's verdict on a certificate.
    error.chain().any(|cause| {
        matches!(
            cause.downcast_ref(),
            Some(quinn::ConnectionError::TransportError(error))
                if error.reason.contains(&CertificateError::ApplicationVerificationFailure.to_string())
                    || error.reason.contains("ApplicationVerificationFailure")
        )
    })
}
