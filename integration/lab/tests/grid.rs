//! Every kind of client network before every kind of gateway network: which path they get, and how soon.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use postern_lab::{
    NatKind, NatOffice, eventually,
    nat_office::{has_path, peer},
    wait::now,
};

/// How many scenes stand at a time.
const AT_ONCE: usize = 3;

/// What came of a pair of networks.
#[derive(Debug)]
struct Cell {
    /// From the start of curl to the first byte, on a cold grant.
    first_byte: Duration,
    /// From the start of curl until the client says that its path is direct; `None` where it stays relayed.
    direct: Option<Duration>,
}

fn cell(client: NatKind, site: NatKind) -> Result<Cell> {
    let mut scene = NatOffice::new(client, site, &[])?;
    scene.office.open_wiki()?;
    let _gateway = scene.office.join_gateway()?;
    let laptop = scene.office.join_laptop()?;
    // The name is in the catalogue before the clock starts; the grant is not there yet.
    eventually("the wiki is in the catalogue", || {
        ensure!(laptop.json(&["status"])?["resources"] == 1);
        Ok(())
    })?;

    let begin = now();
    let url = "http://wiki.postern.internal/";
    let words = ["curl", "-sS", "--max-time", "20", "-w", "\n%{time_starttransfer}", url];
    let output =
        scene.office.laptop.run(&words)?.success().with_context(|| format!("curl; the laptop: {}", laptop.log()))?;
    let (page, seconds) = output.trim_end().rsplit_once('\n').context("curl's time")?;
    ensure!(page.contains("hello from the wiki"), "{page}");
    let first_byte = Duration::from_secs_f64(seconds.parse().context("curl's time")?);

    let direct = if client.can_meet(site) {
        let peer = has_path(&laptop, "direct")?;
        let took = now() - begin;
        ensure!(peer["endpoint"].is_string(), "{peer}");
        Some(took)
    } else {
        // It works, and goes on working, through the relay.
        for _ in 0..3 {
            scene.office.get(url)?.success()?;
            let peer = peer(&laptop)?;
            ensure!(peer["path"] == "relayed" && peer["relay"].is_string(), "{peer}");
        }
        None
    };
    // Whatever the path: what is not granted stays closed.
    scene.office.is_closed("http://wiki.postern.internal:22/")?;
    Ok(Cell { first_byte, direct })
}

#[test]
fn all_pairs_connect_and_directly_where_theory_allows_it() -> Result<()> {
    let pairs: Vec<_> = NatKind::ALL.iter().flat_map(|a| NatKind::ALL.iter().map(move |b| (*a, *b))).collect();
    let cells = Mutex::new(BTreeMap::new());
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((client, site)) = pairs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let cell = cell(*client, *site);
                    cells.lock().expect("no panic").insert((client.name(), site.name()), cell);
                }
            });
        }
    });
    let cells = cells.into_inner()?;
    println!("\n{}", table(&cells));
    let failed: Vec<_> =
        cells.iter().filter_map(|(pair, cell)| Some(format!("{pair:?}: {:#}", cell.as_ref().err()?))).collect();
    if !failed.is_empty() {
        bail!("{} of {} pairs:\n{}", failed.len(), pairs.len(), failed.join("\n"));
    }
    ensure!(cells.len() == pairs.len(), "each pair has its cell");
    Ok(())
}

/// Client networks downwards, gateway networks across: the path, time to first byte, time to direct.
fn table(cells: &BTreeMap<(&str, &str), Result<Cell>>) -> String {
    let ms = |time: Duration| format!("{} ms", time.as_millis());
    let mut rows = vec![format!("| client \\ gateway | {} |", NatKind::ALL.map(NatKind::name).join(" | "))];
    rows.push(format!("|{}", " --- |".repeat(NatKind::ALL.len() + 1)));
    for client in NatKind::ALL {
        let mut row = format!("| {} |", client.name());
        for site in NatKind::ALL {
            let text = match cells.get(&(client.name(), site.name())) {
                Some(Ok(Cell { first_byte, direct: Some(direct) })) => {
                    format!("direct, {}, {}", ms(*first_byte), ms(*direct))
                }
                Some(Ok(Cell { first_byte, direct: None })) => format!("relayed, {}", ms(*first_byte)),
                Some(Err(_)) => "failed".into(),
                None => "?".into(),
            };
            row += &format!(" {text} |");
        }
        rows.push(row);
    }
    rows.join("\n")
}

#[test]
fn a_client_behind_any_router_reaches_a_gateway_with_a_public_address() -> Result<()> {
    for client in NatKind::ALL {
        let mut scene = NatOffice::new(client, NatKind::None, &[])?;
        scene.office.open_wiki()?;
        let gateway = scene.office.join_gateway()?;
        let laptop = scene.office.join_laptop()?;
        scene
            .office
            .is_open("http://wiki.postern.internal/")
            .with_context(|| format!("{client:?}: {}", laptop.log()))?;
        scene.office.is_closed("http://wiki.postern.internal:22/")?;

        // The gateway sees the client's router, or the client itself where nothing is translated.
        let seen = peer(&gateway)?["endpoint"].as_str().context("an endpoint")?.to_owned();
        let expected = if client == NatKind::None { "198.51.100.30:" } else { "203.0.113.2:" };
        ensure!(seen.starts_with(expected), "{client:?}: {seen}");
    }
    Ok(())
}
