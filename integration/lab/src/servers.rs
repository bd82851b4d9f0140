//! Real servers for hosts: what stands behind resources, and the resolver and the proxy that a network would have.

use std::{fs, os::unix::fs::chown, path::Path};

use anyhow::{Context as _, Result, ensure};

use crate::{process::Background, topology::Host, wait::eventually};

/// A web server on `[::]:port` and `0.0.0.0:port`. `/` answers with `greeting`, `/address` with the client's address,
/// `/big` with 256 MiB of zeros, 2 MiB of them each second: the pace is the server's, so that nothing waits unread at the client
/// when the connection is cut. `/live`, if the test puts it into `nginx-PORT/www`, comes with 512 KiB each second.
pub fn nginx(host: &Host, port: u16, greeting: &str) -> Result<Background> {
    let dir = host.dir().join(format!("nginx-{port}"));
    fs::create_dir_all(dir.join("www"))?;
    fs::File::create(dir.join("www/big"))?.set_len(256 << 20)?;
    let config = format!(
        "daemon off; worker_processes 1; pid {dir}/pid; error_log {dir}/error.log;
         events {{ worker_connections 256; }}
         http {{
           access_log off; sendfile on; keepalive_timeout 600;
           client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f;
           uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
           server {{
             listen {port}; listen [::]:{port}; root {dir}/www; default_type text/plain;
             location = / {{ return 200 \"{greeting}\\n\"; }}
             location = /big {{ limit_rate 2m; }}
             location = /live {{ limit_rate 512k; }}
             location = /address {{ return 200 \"$remote_addr\\n\"; }}
           }}
         }}",
        dir = dir.display()
    );
    fs::write(dir.join("nginx.conf"), config)?;
    let mut command = host.command("/usr/sbin/nginx");
    command.arg("-e").arg(dir.join("start.log")).arg("-c").arg(dir.join("nginx.conf")).arg("-p").arg(&dir);
    let server = host.spawn(&format!("nginx-{port}"), &mut command)?;
    listening(host, "-t", port)?;
    Ok(server)
}

/// PostgreSQL on port 5432 with the database and user `postgres`, without a password from anywhere.
pub fn postgres(host: &Host) -> Result<Background> {
    let bin = fs::read_dir("/usr/lib/postgresql")
        .context("install the package 'postgresql'")?
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .max()
        .context("install the package 'postgresql'")?;
    let data = host.dir().join("postgres");
    fs::create_dir_all(&data)?;
    let id = |flag| anyhow::Ok(host.run(&["id", flag, "postgres"])?.success()?.trim().parse::<u32>()?);
    chown(&data, Some(id("-u")?), Some(id("-g")?))?;
    let data = data.to_string_lossy().into_owned();
    let initdb = bin.join("initdb").to_string_lossy().into_owned();
    host.run(&[
        "runuser",
        "-u",
        "postgres",
        "--",
        &initdb,
        "-D",
        &data,
        "-A",
        "trust",
        "-U",
        "postgres",
        "-N",
        "--no-locale",
        "-E",
        "UTF8",
    ])?
    .success()?;
    for range in ["0.0.0.0/0", "::/0"] {
        let rules = Path::new(&data).join("pg_hba.conf");
        let text = fs::read_to_string(&rules)?;
        fs::write(&rules, format!("{text}host all all {range} trust\n"))?;
    }
    let mut command = host.command("runuser");
    command.args(["-u", "postgres", "--"]).arg(bin.join("postgres"));
    command
        .args(["-D", &data, "-c", "listen_addresses=*", "-c", "fsync=off", "-c"])
        .arg(format!("unix_socket_directories={data}"));
    let server = host.spawn("postgres", &mut command)?;
    listening(host, "-t", 5432)?;
    Ok(server)
}

/// sshd on port 22 for root with the key `client_key` that is written beside it.
pub fn sshd(host: &Host) -> Result<(Background, std::path::PathBuf)> {
    let dir = host.dir().join("ssh");
    fs::create_dir_all(&dir)?;
    fs::create_dir_all("/run/sshd")?;
    for key in ["host_key", "client_key"] {
        let path = dir.join(key).to_string_lossy().into_owned();
        host.run(&["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", &path])?.success()?;
    }
    fs::copy(dir.join("client_key.pub"), dir.join("authorized_keys"))?;
    let config = format!(
        "Port 22\nHostKey {dir}/host_key\nAuthorizedKeysFile {dir}/authorized_keys\nStrictModes no\nUsePAM no\n\
         PidFile none\nPermitRootLogin yes\nPasswordAuthentication no\nUseDNS no\n",
        dir = dir.display()
    );
    fs::write(dir.join("config"), config)?;
    let mut command = host.command("/usr/sbin/sshd");
    command.arg("-D").arg("-e").arg("-f").arg(dir.join("config"));
    let server = host.spawn("sshd", &mut command)?;
    listening(host, "-t", 22)?;
    Ok((server, dir.join("client_key")))
}

/// A DNS server on port 53 of `address` that knows exactly `names`.
pub fn dnsmasq(host: &Host, address: &str, names: &[(&str, &str)]) -> Result<Background> {
    let mut command = host.command("/usr/sbin/dnsmasq");
    command.args([
        "--keep-in-foreground",
        "--no-resolv",
        "--no-hosts",
        "--bind-interfaces",
        "--user=root",
        "--pid-file=",
    ]);
    command.arg(format!("--listen-address={address}")).args(["--log-facility=-", "--local-ttl=1"]);
    command.args(names.iter().map(|(name, address)| format!("--address=/{name}/{address}")));
    let server = host.spawn("dnsmasq", &mut command)?;
    listening(host, "-u", 53)?;
    Ok(server)
}

/// An iperf3 server on port 5201.
pub fn iperf3(host: &Host) -> Result<Background> {
    let server = host.spawn("iperf3", host.command("iperf3").arg("-s"))?;
    listening(host, "-t", 5201)?;
    Ok(server)
}

/// Echoes every datagram and every TCP connection on this port.
pub fn echo(host: &Host, port: u16) -> Result<[Background; 2]> {
    let start = |kind: &str, option: &str| {
        let mut command = host.command("socat");
        command.arg(format!("{kind}-LISTEN:{port},fork{option}")).arg("EXEC:cat");
        host.spawn(&format!("echo-{kind}-{port}"), &mut command)
    };
    let servers = [start("TCP6", ",reuseaddr,ipv6only=0")?, start("UDP6", ",reuseaddr,ipv6only=0")?];
    listening(host, "-t", port)?;
    listening(host, "-u", port)?;
    Ok(servers)
}

/// An HTTP proxy on port 3128 that connects to anybody's port 8443, for whoever is `alice` with this password.
pub fn tinyproxy(host: &Host, password: &str) -> Result<Background> {
    let config = host.dir().join("tinyproxy.conf");
    fs::write(
        &config,
        format!(
            "Port 3128\nTimeout 600\nMaxClients 100\nLogLevel Connect\nConnectPort 8443\nBasicAuth alice {password}\n"
        ),
    )?;
    let mut command = host.command("tinyproxy");
    command.arg("-d").arg("-c").arg(&config);
    let server = host.spawn("tinyproxy", &mut command)?;
    listening(host, "-t", 3128)?;
    Ok(server)
}

/// Waits until something in the host listens on the port (`-t` for TCP, `-u` for UDP).
pub fn listening(host: &Host, kind: &str, port: u16) -> Result<()> {
    eventually(&format!("port {port} is served in {}", host.namespace()), || {
        let sockets = host.run(&["ss", "-Hnl", kind, &format!("sport = :{port}")])?.success()?;
        ensure!(!sockets.trim().is_empty(), "nobody listens");
        Ok(())
    })
}
