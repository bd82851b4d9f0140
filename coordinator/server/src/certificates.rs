//! Certificates: the coordinator's own, which nodes pin by its key, and those of devices, which it signs.
//!
//! A device certificate says which device and which key, for a day. What it is worth is decided at each connection by the
//! device's record: [`DeviceVerifier`] therefore lets a certificate in that has merely expired, so that a laptop which
//! slept for a week gets a fresh one without enrolling anew, or that begins later, because our clock was set back; it is
//! told to renew at once.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use postern_model::{DeviceId, Sha256, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519, PublicKeyData as _,
};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName as RawName, Error, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use sha2::Digest as _;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// How long a device certificate holds.
const LIFE: Duration = Duration::from_secs(24 * 3600);
/// A renewal is due when half of it is over.
const RENEW_AFTER: Duration = Duration::from_secs(12 * 3600);
/// The names that certificates are made for; nobody checks them, since keys are pinned.
const COORDINATOR_NAME: &str = "postern-coordinator";
const CA_NAME: &str = "Postern device CA";

/// Signs device certificates.
pub(crate) struct DeviceCa {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

/// A certificate request that holds: who sent it has the private key.
pub(crate) struct CheckedRequest {
    request: CertificateSigningRequestParams,
}

/// Why a certificate request was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    /// Not a request, or its signature does not hold.
    #[error("the certificate request is malformed or its signature does not hold")]
    Malformed,
    /// Not Ed25519.
    #[error("device keys are Ed25519 keys")]
    Algorithm,
}

impl CheckedRequest {
    /// Checks a PKCS#10 request (DER).
    ///
    /// # Errors
    /// When it is malformed, its signature does not hold, or the key is not an Ed25519 key.
    pub(crate) fn parse(der: &[u8]) -> Result<Self, RequestError> {
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der));
        let request = request.map_err(|_| RequestError::Malformed)?;
        if *request.public_key.algorithm() == PKCS_ED25519 {
            Ok(Self { request })
        } else {
            Err(RequestError::Algorithm)
        }
    }

    /// SHA-256 of the requested key (SubjectPublicKeyInfo, DER).
    pub(crate) fn key(&self) -> Sha256 {
        digest(&self.request.public_key.subject_public_key_info())
    }
}

impl DeviceCa {
    /// The CA with this key. Its certificate is the same at each start but for the signature.
    ///
    /// # Errors
    /// When the cryptography fails.
    pub(crate) fn new(key: KeyPair) -> Result<Self> {
        let mut params = named(CA_NAME);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key)?.der().clone();
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    /// A certificate that says: this key is this device's. Nothing else of the request is taken over.
    ///
    /// # Errors
    /// When the cryptography fails.
    pub(crate) fn issue(&self, device: DeviceId, request: &CheckedRequest, now: Timestamp) -> Result<Vec<u8>> {
        let mut params = named(&device.to_string());
        params.not_before = date(now)?;
        params.not_after = date(now.plus(LIFE))?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        Ok(params.signed_by(&request.request.public_key, &self.issuer)?.der().to_vec())
    }

    /// How long after its issue a certificate should be renewed.
    pub(crate) fn renew_after(&self) -> Duration {
        RENEW_AFTER
    }

    /// What checks the certificates of connecting nodes.
    ///
    /// # Errors
    /// When the cryptography can't be set up.
    pub(crate) fn verifier(&self) -> Result<Arc<DeviceVerifier>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone())?;
        let inner = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
        Ok(Arc::new(DeviceVerifier { inner: inner.allow_unauthenticated().build()? }))
    }
}

impl std::fmt::Debug for DeviceCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DeviceCa(…)")
    }
}

/// Whose certificate it is, and until when it should not be renewed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeviceIdentity {
    /// The device that it names.
    pub(crate) device: DeviceId,
    /// SHA-256 of its key (SubjectPublicKeyInfo, DER).
    pub(crate) key: Sha256,
    /// How long until it should be renewed; zero when that is overdue.
    pub(crate) renew_in: Duration,
}

impl DeviceIdentity {
    /// Reads a certificate that the handshake has verified.
    ///
    /// # Errors
    /// When it names no device.
    pub(crate) fn read(certificate: &CertificateDer<'_>, now: Timestamp) -> Result<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).context("the certificate can't be read")?;
        let name = parsed.subject().iter_common_name().next().context("the certificate has no name")?;
        let issued = Timestamp::from_unix_millis(parsed.validity().not_before.timestamp().saturating_mul(1000));
        Ok(Self {
            device: name.as_str()?.parse()?,
            key: digest(parsed.public_key().raw),
            // One from the future is due as well: our clock was set back.
            renew_in: if issued > now { Duration::ZERO } else { now.until(issued.plus(RENEW_AFTER)) },
        })
    }
}

/// Checks that our CA signed a certificate, whatever the clock says of its dates.
#[derive(Debug)]
pub(crate) struct DeviceVerifier {
    inner: Arc<dyn ClientCertVerifier>,
}

impl ClientCertVerifier for DeviceVerifier {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[RawName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
        let verdict = self.inner.verify_client_cert(end_entity, intermediates, now);
        let Err(Error::InvalidCertificate(Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. })) =
            verdict
        else {
            return verdict;
        };
        let malformed = |_| Error::InvalidCertificate(CertificateError::BadEncoding);
        let (_, parsed) = X509Certificate::from_der(end_entity).map_err(malformed)?;
        // All but the dates, by a time at which it was valid.
        let end = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or_default();
        let last_valid = UnixTime::since_unix_epoch(Duration::from_secs(end));
        self.inner.verify_client_cert(end_entity, intermediates, last_valid)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// The coordinator's own identity: one key, known by its digest.
pub(crate) struct Identity {
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

impl Identity {
    /// With a certificate that it signs itself; nobody trusts anything in it but the key.
    ///
    /// # Errors
    /// When the cryptography fails.
    pub(crate) fn new(key: KeyPair) -> Result<Self> {
        let mut params = CertificateParams::new(vec![COORDINATOR_NAME.to_owned()])?;
        params.distinguished_name = named(COORDINATOR_NAME).distinguished_name;
        Ok(Self { certificate: params.self_signed(&key)?.der().clone(), key })
    }

    /// What join tokens carry: SHA-256 of the public key (SubjectPublicKeyInfo, DER).
    pub(crate) fn pin(&self) -> Sha256 {
        digest(&self.key.subject_public_key_info())
    }

    /// TLS for nodes: 1.3 only, with device certificates where there are any, for these protocols (ALPN).
    ///
    /// # Errors
    /// When the cryptography can't be set up.
    pub(crate) fn node_tls(
        &self,
        devices: Arc<DeviceVerifier>,
        protocols: Vec<Vec<u8>>,
    ) -> Result<rustls::ServerConfig> {
        let builder = rustls::ServerConfig::builder_with_provider(provider());
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS13])?.with_client_cert_verifier(devices);
        let mut config = builder.with_single_cert(vec![self.certificate.clone()], self.private_key())?;
        config.alpn_protocols = protocols;
        // A ticket would carry an identity past a revocation.
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// TLS in which nodes carry QUIC packets to a relay on its own, where UDP is blocked. Who it is, QUIC finds out.
    ///
    /// # Errors
    /// When the cryptography can't be set up.
    pub(crate) fn encap_tls(&self) -> Result<rustls::ServerConfig> {
        let builder = rustls::ServerConfig::builder_with_provider(provider());
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS13])?.with_no_client_auth();
        let mut config = builder.with_single_cert(vec![self.certificate.clone()], self.private_key())?;
        config.alpn_protocols = vec![postern_encap::ALPN.to_vec()];
        Ok(config)
    }

    /// TLS for a relay on its own.
    ///
    /// # Errors
    /// When the cryptography can't be set up.
    pub(crate) fn relay_tls(&self) -> Result<rustls::ServerConfig> {
        Ok(postern_relay::endpoint::server_tls(self.certificate.clone(), self.private_key())?)
    }

    /// TLS on TCP: for the admin API, and for nodes whose network lets no UDP through. What the latter say in it is QUIC, where
    /// they show who they are.
    ///
    /// # Errors
    /// When the cryptography can't be set up.
    pub(crate) fn tcp_tls(&self) -> Result<rustls::ServerConfig> {
        let builder = rustls::ServerConfig::builder_with_provider(provider());
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS13])?.with_no_client_auth();
        let mut config = builder.with_single_cert(vec![self.certificate.clone()], self.private_key())?;
        config.alpn_protocols = vec![postern_encap::ALPN.to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()))
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.pin())
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn digest(bytes: &[u8]) -> Sha256 {
    Sha256(sha2::Sha256::digest(bytes).into())
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn date(at: Timestamp) -> Result<OffsetDateTime> {
    Ok(OffsetDateTime::from_unix_timestamp(at.unix_millis().div_euclid(1000))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ca() -> DeviceCa {
        DeviceCa::new(KeyPair::generate_for(&PKCS_ED25519).unwrap()).unwrap()
    }

    fn request(key: &KeyPair) -> Vec<u8> {
        CertificateParams::default().serialize_request(key).unwrap().der().to_vec()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_millis(seconds * 1000)
    }

    fn verify(ca: &DeviceCa, certificate: &[u8], seconds: u64) -> Result<ClientCertVerified, Error> {
        let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        ca.verifier().unwrap().verify_client_cert(&CertificateDer::from(certificate), &[], now)
    }

    #[test]
    fn a_certificate_names_the_device_and_its_key_and_nothing_of_the_request() {
        let (ca, key) = (ca(), KeyPair::generate_for(&PKCS_ED25519).unwrap());
        let mut params = named("somebody else");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let der = params.serialize_request(&key).unwrap().der().to_vec();
        let device = DeviceId::from_bytes([7; 16]);
        let issued = ca.issue(device, &CheckedRequest::parse(&der).unwrap(), at(1_000_000_000)).unwrap();
        let identity = DeviceIdentity::read(&CertificateDer::from(issued.clone()), at(1_000_000_000)).unwrap();
        assert_eq!((identity.device, identity.key), (device, digest(&key.subject_public_key_info())));
        assert_eq!(identity.renew_in, RENEW_AFTER);
        let (_, parsed) = X509Certificate::from_der(&issued).unwrap();
        assert!(!parsed.is_ca());
        verify(&ca, &issued, 1_000_000_010).unwrap();
        verify(&ca, &issued, 1_900_000_000).expect("one that has merely expired may renew itself");
        verify(&ca, &issued, 900_000_000).expect("so may one from before our clock was set back");
        for now in [900_000_000, 1_900_000_000] {
            let identity = DeviceIdentity::read(&CertificateDer::from(issued.clone()), at(now)).unwrap();
            assert_eq!(identity.renew_in, Duration::ZERO, "at {now}");
        }
    }

    #[test]
    fn another_ca_other_keys_and_broken_requests_are_refused() {
        let (ours, theirs) = (ca(), ca());
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let checked = CheckedRequest::parse(&request(&key)).unwrap();
        let foreign = theirs.issue(DeviceId::from_bytes([7; 16]), &checked, at(1_000_000_000)).unwrap();
        for seconds in [900_000_000, 1_000_000_010, 1_900_000_000] {
            assert!(verify(&ours, &foreign, seconds).is_err(), "at {seconds}");
        }
        let ecdsa = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        assert!(matches!(CheckedRequest::parse(&request(&ecdsa)), Err(RequestError::Algorithm)));
        let mut altered = request(&key);
        let last = altered.len() - 1;
        altered[last] ^= 1;
        assert!(matches!(CheckedRequest::parse(&altered), Err(RequestError::Malformed)));
        assert!(matches!(CheckedRequest::parse(b"junk"), Err(RequestError::Malformed)));
    }
}
