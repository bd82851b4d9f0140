//! A relay on its own, as an admin sets it up. That nodes meet there is `relayed`.

use anyhow::{Context as _, Result, ensure};
use postern_lab::{Background, Host, Office, eventually, postern::binary};

const RELAY: &str = "203.0.113.40";

fn start(host: &Host, trust: &str) -> Result<(Background, String)> {
    let mut command = host.command(&binary("postern-coordinator")?.to_string_lossy());
    command.args(["relay", "serve", "--listen", "0.0.0.0:443", "--trust", trust]);
    command.arg("--state-dir").arg(host.dir().join("relay"));
    let mut process = host.spawn("relay", &mut command)?;
    let pin = eventually("the relay says its pin", || {
        ensure!(process.ended().is_none(), "it ended: {}", process.log());
        let log = process.log();
        let (_, pin) = log.rsplit_once("--pin ").context("not yet")?;
        let (pin, _) = pin.split_once('\n').context("not yet")?;
        Ok(pin.to_owned())
    })?;
    Ok((process, pin))
}

#[test]
fn a_relay_on_its_own_is_registered_and_nodes_go_on_while_it_comes_and_goes() -> Result<()> {
    let mut office = Office::new(&[])?;
    let host = office.lab.host("relay")?;
    host.link("eth0", &office.internet, &[&format!("{RELAY}/24")])?;
    office.open_wiki()?;
    let (_gateway, _laptop) = (office.join_gateway()?, office.join_laptop()?);
    office.is_open("http://wiki.postern.internal/")?;

    let list = office.coordinator.ctl(&["relay", "list"])?;
    let trust = list["trust"].as_str().context("a key to trust")?.to_owned();
    let (relay, pin) = start(&host, &trust)?;
    let address = format!("{RELAY}:443");
    let added = office.coordinator.ctl(&["relay", "add", "near", "--address", &address, "--pin", &pin])?;
    ensure!(added["name"] == "near" && added["pin"] == *pin, "{added}");
    let list = office.coordinator.ctl(&["relay", "list"])?;
    let names: Vec<_> = list["relays"].as_array().context("a list")?.iter().map(|row| row["name"].clone()).collect();
    ensure!(names == ["coordinator", "near"], "{list}");
    let again = office.coordinator.run(&["relay", "add", "other", "--address", &address, "--pin", &pin])?;
    ensure!(!again.ok(), "the same relay twice");
    office.is_open("http://wiki.postern.internal/")?;

    // It answers STUN, by which nodes measure, and takes streams: a request of 20 bytes, and a TLS handshake for its protocol.
    let stun = "import os,socket; s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.settimeout(5); \
                q=bytes.fromhex('000100002112a442')+os.urandom(12); s.sendto(q,('203.0.113.40',443)); \
                a=s.recv(1500); assert a[:2]==b'\\x01\\x01' and a[8:20]==q[8:20]";
    office.laptop.run(&["python3", "-c", stun])?.success()?;
    let tls = "import socket,ssl; c=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT); c.check_hostname=False; c.verify_mode=0; \
               c.set_alpn_protocols(['postern-encap/1']); \
               s=c.wrap_socket(socket.create_connection(('203.0.113.40',443),5)); \
               assert s.selected_alpn_protocol()=='postern-encap/1'";
    office.laptop.run(&["python3", "-c", tls])?.success()?;

    // It is gone, and is back with the same key; what runs does not mind.
    drop(relay);
    office.is_open("http://wiki.postern.internal/")?;
    let (_relay, same) = start(&host, &trust)?;
    ensure!(same == pin, "the key is kept: {same}");
    office.coordinator.ctl(&["relay", "remove", "near"])?;
    let list = office.coordinator.ctl(&["relay", "list"])?;
    ensure!(list["relays"].as_array().is_some_and(|relays| relays.len() == 1), "{list}");
    office.is_open("http://wiki.postern.internal/")?;
    Ok(())
}
