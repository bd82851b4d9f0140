//! Enrolment: who gets a device's identity, and who learns nothing.

use std::time::Duration;

use postern_model::{DeviceId, Sha256, TokenId, record::Owner};
use postern_wire::EnrolRefusal;

use super::{office::office, shell::Shell};
use crate::{Command, EnrolProof, Enrolment, TokenOwner, Touched};

fn alice() -> TokenOwner {
    TokenOwner::User("alice".parse().unwrap())
}

/// alice has a token.
fn token() -> (Shell, EnrolProof) {
    let mut shell = Shell::new();
    shell.user("alice");
    let (token, secret_hash) = shell.token(alice());
    shell.forget();
    let proof = shell.proof(token, secret_hash);
    (shell, proof)
}

fn refused(shell: &mut Shell, proof: &EnrolProof) -> EnrolRefusal {
    let before = shell.core.state().clone();
    let refusal = shell.enrol(proof).unwrap().unwrap_err();
    assert_eq!(shell.core.state().devices, before.devices);
    assert_eq!(shell.core.state().tokens, before.tokens);
    refusal
}

#[test]
fn a_valid_token_makes_a_device_of_its_owner() {
    let (mut shell, proof) = token();
    let enrolment = shell.enrol(&proof).unwrap().unwrap();
    let state = shell.core.state();
    let device = &state.devices[&enrolment.device];
    assert_eq!(enrolment.name, "laptop");
    assert_eq!(device.owner, Owner::User(state.user_named(&"alice".parse().unwrap()).unwrap().id));
    assert_eq!((device.key, device.wireguard), (proof.device_key, proof.wireguard));
    assert!(state.network.ranges.is_device(device.addr.v4.into()));
    assert_eq!(state.tokens[&proof.token].uses_left, 0);
    assert_eq!(shell.actions(), ["device.enrol"]);
    assert!(shell.core.authorize_device(enrolment.device, &proof.device_key));
    assert!(!shell.core.authorize_device(enrolment.device, &Sha256([0; 32])), "another key");
    assert!(!shell.core.authorize_device(DeviceId::from_bytes([0; 16]), &proof.device_key), "another id");
}

#[test]
fn devices_never_share_a_name_or_an_address() {
    let mut shell = Shell::new();
    shell.user("alice");
    let devices: Vec<_> = (0..5).map(|_| shell.laptop("alice")).collect();
    shell.run(&Command::RemoveDevice { id: devices[4] }).unwrap();
    let last = shell.laptop("alice");
    let state = shell.core.state();
    let names: Vec<_> = devices[..4].iter().chain([&last]).map(|id| state.devices[id].name.as_str()).collect();
    assert_eq!(names, ["laptop", "laptop-2", "laptop-3", "laptop-4", "laptop-5"]);
    let addrs: std::collections::BTreeSet<_> = state.devices.values().map(|device| device.addr).collect();
    assert_eq!(addrs.len(), 5);
    assert_eq!(
        state.devices[&last].addr,
        state.network.ranges.device(state.network.next_device_index - 1).unwrap(),
        "a removed device's address is not given again"
    );
}

#[test]
fn a_wrong_secret_is_answered_like_an_unknown_token() {
    let (mut shell, proof) = token();
    let wrong = EnrolProof { secret_hash: Sha256([0; 32]), ..shell.proof(proof.token, proof.secret_hash) };
    let unknown = EnrolProof { token: TokenId::from_bytes([0; 16]), ..shell.proof(proof.token, proof.secret_hash) };
    assert_eq!(refused(&mut shell, &wrong), EnrolRefusal::Invalid);
    assert_eq!(shell.actions(), ["enrol.refuse"], "someone tries a token that there is");
    shell.forget();
    assert_eq!(refused(&mut shell, &unknown), EnrolRefusal::Invalid);
    assert!(shell.audit.is_empty(), "strangers can't fill the log");
    assert!(shell.enrol(&proof).unwrap().is_ok(), "the token is as good as before");
}

#[test]
fn whoever_lacks_the_secret_is_not_told_that_a_token_was_withdrawn() {
    let (mut shell, proof) = token();
    shell.run(&Command::WithdrawToken { id: proof.token }).unwrap();
    let wrong = EnrolProof { secret_hash: Sha256([0; 32]), ..shell.proof(proof.token, proof.secret_hash) };
    assert_eq!(refused(&mut shell, &wrong), EnrolRefusal::Invalid);
    assert_eq!(refused(&mut shell, &proof), EnrolRefusal::Withdrawn);
}

#[test]
fn a_token_ends_at_its_time() {
    let (mut shell, proof) = token();
    let another = shell.token(alice());
    let another = shell.proof(another.0, another.1);
    shell.wait(Duration::from_secs(3600) - Duration::from_millis(1));
    assert!(shell.enrol(&another).unwrap().is_ok());
    shell.wait(Duration::from_millis(1));
    assert_eq!(refused(&mut shell, &proof), EnrolRefusal::Expired);
}

#[test]
fn a_token_enrols_as_many_devices_as_it_says() {
    let (mut shell, _) = token();
    let secret_hash = Sha256([77; 32]);
    let create = Command::CreateToken { owner: alice(), expires_in: Duration::from_secs(60), uses: 2, secret_hash };
    let Ok(Touched::Token(token)) = shell.run(&create) else { panic!() };
    for _ in 0..2 {
        let proof = shell.proof(token, secret_hash);
        assert!(shell.enrol(&proof).unwrap().is_ok());
    }
    shell.forget();
    let third = shell.proof(token, secret_hash);
    assert_eq!(refused(&mut shell, &third), EnrolRefusal::Used);
    assert_eq!(shell.actions(), ["enrol.refuse"]);
}

#[test]
fn a_suspended_owner_enrols_nothing_until_resumed() {
    let (mut shell, proof) = token();
    shell.suspend("alice");
    assert_eq!(refused(&mut shell, &proof), EnrolRefusal::OwnerInactive);
    shell.run(&Command::ResumeUser { name: "alice".parse().unwrap() }).unwrap();
    assert!(shell.enrol(&proof).unwrap().is_ok());
}

#[test]
fn a_removed_owners_token_is_gone() {
    let (mut shell, proof) = token();
    shell.run(&Command::RemoveUser { name: "alice".parse().unwrap() }).unwrap();
    shell.forget();
    assert_eq!(refused(&mut shell, &proof), EnrolRefusal::Invalid);
    assert!(shell.audit.is_empty());
}

#[test]
fn a_key_is_one_devices() {
    let (mut shell, proof) = token();
    shell.enrol(&proof).unwrap().unwrap();
    for copy_wireguard in [true, false] {
        let (token, secret_hash) = shell.token(alice());
        let mut copied = shell.proof(token, secret_hash);
        if copy_wireguard {
            copied.wireguard = proof.wireguard;
        } else {
            copied.device_key = proof.device_key;
        }
        assert_eq!(refused(&mut shell, &copied), EnrolRefusal::KeyInUse);
        assert_eq!(shell.core.state().tokens[&token].uses_left, 1);
    }
}

#[test]
fn a_revoked_devices_key_stays_taken_and_a_removed_ones_is_free() {
    let (mut shell, proof) = token();
    let device = shell.enrol(&proof).unwrap().unwrap().device;
    shell.run(&Command::RevokeDevice { id: device }).unwrap();
    assert!(!shell.core.authorize_device(device, &proof.device_key));
    let (token, secret_hash) = shell.token(alice());
    let again = EnrolProof { token, secret_hash, ..proof };
    assert_eq!(refused(&mut shell, &again), EnrolRefusal::KeyInUse);
    shell.run(&Command::RemoveDevice { id: device }).unwrap();
    assert!(shell.enrol(&again).unwrap().is_ok());
}

#[test]
fn what_a_device_says_of_itself_is_cut_to_size() {
    let (mut shell, mut proof) = token();
    proof.posture.hostname = "\n\u{1b}[31mlaptop".to_owned() + &"x".repeat(1000);
    let device = shell.enrol(&proof).unwrap().unwrap().device;
    let posture = &shell.core.state().devices[&device].posture;
    assert_eq!(posture.hostname.chars().count(), 128);
    assert!(!posture.hostname.contains(char::is_control));
}

#[test]
fn an_enrolment_that_is_not_recorded_did_not_happen() {
    let (mut shell, proof) = token();
    let before = shell.core.state().clone();
    shell.disk_is_full = true;
    assert!(shell.enrol(&proof).is_none());
    assert_eq!(*shell.core.state(), before);
    shell.disk_is_full = false;
    assert!(shell.enrol(&proof).unwrap().is_ok());
}

#[test]
fn a_site_token_makes_a_gateway() {
    let office = office();
    let state = office.shell.core.state();
    let site = state.site_named(&"hq".parse().unwrap()).unwrap().id;
    assert_eq!(state.devices[&office.gateway].owner, Owner::Site(site));
}

#[test]
fn who_lost_the_answer_asks_again_and_gets_the_same_device() {
    let (mut shell, proof) = token();
    let first = shell.enrol(&proof).unwrap().unwrap();
    assert!(!first.is_again);
    let before = shell.core.state().clone();
    shell.forget();
    // The token is used up, and by now it has also expired.
    for wait in [Duration::ZERO, Duration::from_secs(3600)] {
        shell.wait(wait);
        assert_eq!(shell.enrol(&proof).unwrap().unwrap(), Enrolment { is_again: true, ..first.clone() });
    }
    assert_eq!(shell.actions(), ["device.enrol.again", "device.enrol.again"]);
    let after = shell.core.state();
    assert_eq!((&after.devices, &after.tokens, &after.network), (&before.devices, &before.tokens, &before.network));
}

#[test]
fn only_the_same_keys_with_the_same_token_and_its_secret_are_the_same_request() {
    let (mut shell, proof) = token();
    shell.enrol(&proof).unwrap().unwrap();
    let fresh = shell.proof(proof.token, proof.secret_hash);
    let wrong_secret = EnrolProof { secret_hash: Sha256([0; 32]), ..copy(&proof) };
    assert_eq!(refused(&mut shell, &wrong_secret), EnrolRefusal::Invalid);
    let other_key = EnrolProof { device_key: fresh.device_key, ..copy(&proof) };
    assert_eq!(refused(&mut shell, &other_key), EnrolRefusal::Used);
    let other_wireguard = EnrolProof { wireguard: fresh.wireguard, ..copy(&proof) };
    assert_eq!(refused(&mut shell, &other_wireguard), EnrolRefusal::Used);
    let (token, secret_hash) = shell.token(alice());
    let other_token = EnrolProof { token, secret_hash, ..copy(&proof) };
    assert_eq!(refused(&mut shell, &other_token), EnrolRefusal::KeyInUse);
}

#[test]
fn a_revoked_device_or_a_withdrawn_token_is_not_enrolled_again() {
    let (mut shell, proof) = token();
    let device = shell.enrol(&proof).unwrap().unwrap().device;
    let (token, secret_hash) = shell.token(alice());
    let withdrawn = shell.proof(token, secret_hash);
    shell.enrol(&withdrawn).unwrap().unwrap();
    shell.run(&Command::RevokeDevice { id: device }).unwrap();
    assert_eq!(refused(&mut shell, &proof), EnrolRefusal::Used);
    shell.run(&Command::WithdrawToken { id: token }).unwrap();
    assert_eq!(refused(&mut shell, &withdrawn), EnrolRefusal::Withdrawn);
}

#[test]
fn a_suspended_owners_device_is_not_enrolled_again_until_resumed() {
    let (mut shell, proof) = token();
    let device = shell.enrol(&proof).unwrap().unwrap().device;
    shell.suspend("alice");
    shell.forget();
    assert_eq!(refused(&mut shell, &proof), EnrolRefusal::OwnerInactive);
    assert_eq!(shell.actions(), ["enrol.refuse"]);
    shell.run(&Command::ResumeUser { name: "alice".parse().unwrap() }).unwrap();
    assert_eq!(shell.enrol(&proof).unwrap().unwrap().device, device);
}

#[test]
fn a_fleet_with_one_host_name_gets_names_of_its_own() {
    let mut shell = Shell::new();
    shell.user("alice");
    let devices: Vec<_> = (0..100).map(|_| shell.laptop("alice")).collect();
    for id in devices.iter().step_by(7) {
        shell.run(&Command::RemoveDevice { id: *id }).unwrap();
    }
    for _ in 0..30 {
        shell.laptop("alice");
    }
    let state = shell.core.state();
    let names: std::collections::BTreeSet<_> = state.devices.values().map(|device| &device.name).collect();
    assert_eq!(names.len(), state.devices.len());
}

fn copy(proof: &EnrolProof) -> EnrolProof {
    EnrolProof { posture: proof.posture.clone(), ..*proof }
}
