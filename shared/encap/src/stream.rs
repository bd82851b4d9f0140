//! Carries packets both ways over one stream, until either end has enough. Used by both ends; what differs is for how long a
//! stream may be silent.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::mpsc,
    time::timeout,
};

use crate::{
    clock,
    framing::{self, BadLength, Decoder},
};

/// Packets that wait to be written; more are dropped, as a network would. QUIC then sends slower.
pub(crate) const OUTGOING: usize = 256;
/// Packets that wait to be read; then the streams wait, and TCP with them.
pub(crate) const INCOMING: usize = 1024;
/// Bytes that are read, and written, in one go: a TLS record.
const AT_ONCE: usize = 16 << 10;
/// How long a write may take before the other end counts as gone.
const WRITE: Duration = Duration::from_secs(15);
/// How long a farewell may take.
const FAREWELL: Duration = Duration::from_secs(2);

/// A packet, and the address from which it comes as far as quinn knows.
pub(crate) type Arrived = (SocketAddr, Vec<u8>);

/// Why a stream is over.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// This end has no more use for it.
    #[error("this end closed it")]
    Here,
    /// The other end closed it.
    #[error("the other end closed it")]
    There,
    /// No packet came for long.
    #[error("no packet came for {0:?}")]
    Silent(Duration),
    /// What came were no packets.
    #[error("what came was not in packets: {0}")]
    Frame(#[from] BadLength),
    /// The network failed.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Carries packets until the stream ends, no packet has come for `patience`, or those who send and receive here are gone.
pub(crate) async fn carry<S>(
    stream: S,
    addr: SocketAddr,
    outgoing: mpsc::Receiver<Vec<u8>>,
    arrived: mpsc::Sender<Arrived>,
    patience: Option<Duration>,
) -> Ended
where
    S: AsyncRead + AsyncWrite,
{
    let (reading, writing) = tokio::io::split(stream);
    tokio::select! {
        ended = read(reading, addr, arrived, patience) => ended,
        ended = write(writing, outgoing) => ended,
    }
}

async fn read(
    mut stream: impl AsyncRead + Unpin,
    addr: SocketAddr,
    arrived: mpsc::Sender<Arrived>,
    patience: Option<Duration>,
) -> Ended {
    let (mut decoder, mut buffer) = (Decoder::default(), vec![0; AT_ONCE]);
    let mut last_packet = clock::now();
    loop {
        let read = stream.read(&mut buffer);
        let read = match patience {
            // Counted from the last packet: single bytes keep no stream open.
            Some(patience) => match tokio::time::timeout_at(last_packet + patience, read).await {
                Ok(read) => read,
                Err(_) => return Ended::Silent(patience),
            },
            None => read.await,
        };
        match read {
            Ok(0) => return Ended::There,
            Ok(len) => decoder.handle_bytes(&buffer[..len]),
            Err(error) => return error.into(),
        }
        loop {
            match decoder.poll_packet() {
                Ok(Some(packet)) => {
                    last_packet = clock::now();
                    if arrived.send((addr, packet.to_vec())).await.is_err() {
                        return Ended::Here;
                    }
                }
                Ok(None) => break,
                Err(error) => return error.into(),
            }
        }
    }
}

async fn write(mut stream: impl AsyncWrite + Unpin, mut outgoing: mpsc::Receiver<Vec<u8>>) -> Ended {
    let mut buffer = Vec::new();
    while let Some(packet) = outgoing.recv().await {
        framing::encode(&packet, &mut buffer);
        while buffer.len() < AT_ONCE
            && let Ok(packet) = outgoing.try_recv()
        {
            framing::encode(&packet, &mut buffer);
        }
        let written = async {
            stream.write_all(&buffer).await?;
            stream.flush().await
        };
        match timeout(WRITE, written).await {
            Ok(Ok(())) => buffer.clear(),
            Ok(Err(error)) => return error.into(),
            Err(_) => return io::Error::from(io::ErrorKind::TimedOut).into(),
        }
    }
    let _ = timeout(FAREWELL, stream.shutdown()).await;
    Ended::Here
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDR: &str = "192.0.2.1:4000";

    struct Carried {
        far: tokio::io::DuplexStream,
        outgoing: mpsc::Sender<Vec<u8>>,
        incoming: mpsc::Receiver<Arrived>,
        ended: tokio::task::JoinHandle<Ended>,
    }

    fn carried(patience: Option<Duration>) -> Carried {
        let (near, far) = tokio::io::duplex(64 << 10);
        let (outgoing, to_write) = mpsc::channel(OUTGOING);
        let (arrived, incoming) = mpsc::channel(INCOMING);
        let ended = tokio::spawn(carry(near, ADDR.parse().unwrap(), to_write, arrived, patience));
        Carried { far, outgoing, incoming, ended }
    }

    #[tokio::test]
    async fn packets_go_both_ways_and_what_was_sent_before_the_end_arrives() {
        let Carried { mut far, outgoing, mut incoming, ended } = carried(None);
        far.write_all(&[0, 2, 7, 8]).await.unwrap();
        assert_eq!(incoming.recv().await, Some((ADDR.parse().unwrap(), vec![7, 8])));
        outgoing.try_send(vec![1]).unwrap();
        outgoing.try_send(vec![2, 3]).unwrap();
        drop(outgoing);
        let mut sent = Vec::new();
        far.read_to_end(&mut sent).await.unwrap();
        assert_eq!(sent, [0, 1, 1, 0, 2, 2, 3]);
        assert!(matches!(ended.await.unwrap(), Ended::Here));
    }

    #[tokio::test]
    async fn a_bad_length_ends_it() {
        let Carried { mut far, outgoing: _outgoing, mut incoming, ended } = carried(None);
        far.write_all(&[0, 1, 7, 0, 0]).await.unwrap();
        assert!(matches!(ended.await.unwrap(), Ended::Frame(_)));
        assert_eq!(incoming.recv().await.unwrap().1, [7], "what came before it counts");
        assert!(incoming.recv().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn single_bytes_keep_nothing_open() {
        let patience = Duration::from_secs(60);
        let Carried { mut far, outgoing: _outgoing, mut incoming, ended } = carried(Some(patience));
        let dripping = tokio::spawn(async move {
            for byte in [0, 3, 1, 1, 1, 0, 200].into_iter().chain([1; 20]) {
                tokio::time::sleep(Duration::from_secs(15)).await;
                if far.write_all(&[byte]).await.is_err() {
                    break;
                }
            }
            far
        });
        let started = clock::now();
        let ended = ended.await.unwrap();
        assert!(matches!(ended, Ended::Silent(_)), "{ended}");
        assert!(incoming.recv().await.is_none(), "a packet that took 75 seconds came too late");
        assert_eq!(started.elapsed(), patience);
        drop(dripping);
    }
}
