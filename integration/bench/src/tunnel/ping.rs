//! Pings from the laptop to the server, 100 a second.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use postern_lab::Output;

use super::scene::Scene;
use crate::figures::Times;

/// Sends so many, and returns how long their answers took; the first `omitted` don't count.
pub(super) fn ping(scene: &Scene, count: u32, omitted: u32) -> Result<Times> {
    let (number, limit) = ((count + omitted).to_string(), ((count + omitted) / 100 + 10).to_string());
    let output = scene.laptop.run(&["ping", "-ni", "0.01", "-c", &number, "-w", &limit, &scene.target])?;
    let times = answers(&output, omitted)?;
    ensure!(times.len() * 10 >= usize::try_from(count)? * 9, "more than a tenth of the pings was lost");
    Ok(times)
}

fn answers(output: &Output, omitted: u32) -> Result<Times> {
    let mut times = Times::default();
    for line in output.stdout.lines() {
        // 64 bytes from 10.0.0.5: icmp_seq=3 ttl=63 time=0.345 ms
        let Some((before, time)) = line.split_once(" time=") else { continue };
        let sequence = before.split_once("icmp_seq=").and_then(|(_, rest)| rest.split_whitespace().next());
        let sequence: u32 = sequence.context("ping tells no number")?.parse()?;
        let millis: f64 = time.trim_end_matches(" ms").parse().with_context(|| format!("not a time: {time}"))?;
        if sequence > omitted {
            times.push(Duration::try_from_secs_f64(millis / 1e3)?);
        }
    }
    ensure!(times.len() > 0, "no answer: {} {}", output.stdout.trim(), output.stderr.trim());
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_answers_are_left_out_and_times_are_read() {
        let stdout = "PING 10.0.0.5 (10.0.0.5) 56(84) bytes of data.\n\
                      64 bytes from 10.0.0.5: icmp_seq=1 ttl=63 time=12.5 ms\n\
                      64 bytes from 10.0.0.5: icmp_seq=3 ttl=63 time=0.345 ms\n\n\
                      3 packets transmitted, 2 received, 33% packet loss, time 20ms\n";
        let output = Output { code: Some(1), stdout: stdout.into(), stderr: String::new() };
        let mut times = answers(&output, 2).unwrap();
        assert_eq!((times.len(), times.percentile(0.5)), (1, Duration::from_micros(345)));
        assert_eq!(answers(&output, 0).unwrap().len(), 2);
        assert!(answers(&output, 3).is_err(), "nothing left is not a time of 0");
    }
}
