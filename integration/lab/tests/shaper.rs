//! That a shaped line is as it is shaped: seen with plain sockets.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use postern_lab::{Host, Lab, Shape, ShapedLink, random::Random, wait::now};

const ONE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 11);
const TWO: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 12);
/// What is never to come is waited for so long.
const IN_VAIN: Duration = Duration::from_secs(1);

fn udp(host: &Host, port: u16) -> Result<UdpSocket> {
    host.within(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(socket)
    })
}

/// A datagram gets there.
fn arrives(from: &UdpSocket, to: Ipv4Addr, receiver: &UdpSocket) -> Result<()> {
    from.send_to(b"hello", SocketAddr::from((to, 1)))?;
    receiver.recv_from(&mut [0; 64]).context("nothing came")?;
    Ok(())
}

/// Two hosts on two segments that a shaped line joins.
fn shaped(shape: Shape) -> Result<(Lab, ShapedLink, UdpSocket, UdpSocket)> {
    let mut lab = Lab::new()?;
    let (a, b) = (lab.segment("a")?, lab.segment("b")?);
    let link = lab.shaped(&a, &b, shape)?;
    let (one, two) = (lab.host("one")?, lab.host("two")?);
    one.link("eth0", &a, &[&format!("{ONE}/24")])?;
    two.link("eth0", &b, &[&format!("{TWO}/24")])?;
    let (from, to) = (udp(&one, 1)?, udp(&two, 1)?);
    arrives(&from, TWO, &to)?;
    arrives(&to, ONE, &from)?;
    Ok((lab, link, from, to))
}

#[test]
fn a_shaped_line_takes_its_time_and_loses_and_reorders_its_share() -> Result<()> {
    let latency = Duration::from_millis(50);
    let (_lab, link, from, to) = shaped(Shape::latency(latency))?;
    let begin = now();
    arrives(&from, TWO, &to)?;
    arrives(&to, ONE, &from)?;
    ensure!(now() - begin >= 2 * latency, "there and back in {:?}", now() - begin);

    // What a line loses is to be its own doing, not that of a socket's full buffer: so it is received while it is sent.
    let arrived = |shape: Shape, frames: u32| {
        link.set(&shape);
        to.set_read_timeout(Some(IN_VAIN))?;
        thread::scope(|scope| {
            let receiver = scope.spawn(|| {
                let (mut numbers, mut bytes) = (Vec::new(), [0; 4]);
                while let Ok((4, _)) = to.recv_from(&mut bytes) {
                    numbers.push(u32::from_be_bytes(bytes));
                }
                numbers
            });
            for number in 0..frames {
                from.send_to(&number.to_be_bytes(), (TWO, 1))?;
                thread::yield_now();
            }
            Ok::<_, anyhow::Error>(receiver.join().expect("the receiver ends"))
        })
    };
    let numbers = arrived(Shape::default(), 200)?;
    ensure!(numbers == (0..200).collect::<Vec<_>>(), "all, in order: {numbers:?}");
    let lost_before = link.counts()[0].lost;
    let numbers = arrived(Shape { loss: 0.2, ..Shape::default() }, 1000)?;
    ensure!((600..=950).contains(&numbers.len()), "of 1000 with a loss of 20%: {}", numbers.len());
    let lost = link.counts()[0].lost - lost_before;
    ensure!((100..=350).contains(&lost), "{lost}");
    let numbers = arrived(Shape { reorder: 0.1, ..Shape::default() }, 200)?;
    ensure!(numbers.len() == 200 && !numbers.is_sorted(), "all, in another order");
    ensure!(arrived(Shape { loss: 1.0, ..Shape::default() }, 10)?.is_empty(), "a cut line");
    Ok(())
}

#[test]
fn a_shaped_line_carries_its_rate_and_no_more() -> Result<()> {
    const BYTES: usize = 20 << 20;
    const RATE: u64 = 100_000_000;
    let mut lab = Lab::new()?;
    let (a, b) = (lab.segment("a")?, lab.segment("b")?);
    let link = lab.shaped(&a, &b, Shape { rate: Some(RATE), ..Shape::latency(Duration::from_millis(5)) })?;
    let (one, two) = (lab.host("one")?, lab.host("two")?);
    one.link("eth0", &a, &[&format!("{ONE}/24")])?;
    two.link("eth0", &b, &[&format!("{TWO}/24")])?;
    let listener = two.within(|| Ok(TcpListener::bind((TWO, 80))?))?;
    let sent = thread::spawn(move || {
        let (mut stream, _) = listener.accept()?;
        let mut bytes = vec![0; BYTES];
        Random::new(3).fill(&mut bytes);
        stream.write_all(&bytes)?;
        anyhow::Ok(bytes)
    });
    let begin = now();
    let mut stream = one.within(|| Ok(TcpStream::connect((TWO, 80))?))?;
    let mut received = Vec::new();
    stream.read_to_end(&mut received)?;
    let took = now() - begin;
    ensure!(received == sent.join().expect("the sender ends")?, "what arrives is what was sent");
    let least = Duration::from_secs_f64(BYTES as f64 * 8.0 / RATE as f64);
    ensure!(took >= least, "{took:?} is less than {least:?}");
    // Nothing is decided by how much more it was; it is printed for whoever wants to know whether the line keeps up.
    println!("{BYTES} bytes in {took:?}, {least:?} at least: {:?}", link.counts());
    Ok(())
}
