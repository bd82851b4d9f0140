//! A text: a join token, an API key, or where a coordinator is.

use postern_model::{ApiKey, Fqdn, JoinToken, SecretBytes, Sha256, Target, TokenId, token::HostPort};

/// What is taken reads back the same, and what is refused is not repeated.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match text.parse::<JoinToken>() {
        Ok(token) => assert_eq!(*token.expose(), text.trim()),
        // Whoever pastes the wrong text may have pasted another secret: it is told of as any other is.
        Err(error) => {
            assert!(["x", "postern-join-x"].iter().any(|other| other.parse::<JoinToken>() == Err(error.clone())))
        }
    }
    match text.parse::<ApiKey>() {
        Ok(key) => assert_eq!(*key.expose(), text.trim()),
        Err(error) => assert!(["x", "postern-key-x"].iter().any(|other| other.parse::<ApiKey>() == Err(error.clone()))),
    }
    if let Ok(name) = text.parse::<Fqdn>() {
        assert_eq!(name.to_string().parse(), Ok(name));
    }
    if let Ok(target) = text.parse::<Target>() {
        assert_eq!(target.to_string().parse(), Ok(target));
    }
    let Ok(coordinator) = text.parse::<HostPort>() else { return };
    assert_eq!(coordinator.to_string().parse(), Ok(coordinator.clone()));
    // Where the fuzzer doesn't get on its own: it would have to find the digest.
    let secret = SecretBytes::new([3; 32]);
    let token = JoinToken { coordinator, pin: Sha256([1; 32]), id: TokenId::from_bytes([2; 16]), secret };
    assert_eq!(token.expose().parse(), Ok(token));
}
