//! Communication over plain sockets, all through rank 0.
//!
//! Without MPI, it connects NCCL's ranks and carries the few bytes that the hosts' decisions depend
//! on. The program does not send gradients through it: these go through NCCL or MPI.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use burn::tensor::{Tensor, TensorData};

use super::{Collective, CollectiveError, to_host};

/// First bytes of every connection.
const HELLO: &[u8; 8] = b"mm-gem-1";

/// Kinds of message.
const DATA: u8 = 0;
const FAILURE: u8 = 1;

/// All ranks, connected through rank 0.
pub struct Tcp {
    rank: usize,
    size: usize,
    timeout: Duration,
    /// On rank 0, the other ranks in order; on the others, rank 0 alone.
    peers: Mutex<Vec<TcpStream>>,
}

impl Tcp {
    /// Connects to the other ranks at `master` (`host:port`), where rank 0 listens.
    ///
    /// # Errors
    /// If a rank is not there in time. Rank 0 ignores connections of other runs.
    pub fn connect(
        rank: usize,
        size: usize,
        master: &str,
        timeout: Duration,
    ) -> Result<Self, CollectiveError> {
        let peers = if size == 1 {
            Vec::new()
        } else if rank == 0 {
            listen(size, master, timeout)?
        } else {
            vec![connect_to_rank_0(rank, size, master, timeout)?]
        };
        // The others wait longer than rank 0, so that rank 0 can report the missing rank.
        let patience =
            if rank == 0 { timeout } else { timeout + timeout / 4 + Duration::from_secs(2) };
        for peer in &peers {
            let set = || {
                peer.set_nodelay(true)?;
                peer.set_read_timeout(Some(patience))?;
                peer.set_write_timeout(Some(patience))
            };
            set().map_err(|e| failed("the connection", &e))?;
        }
        Ok(Self { rank, size, timeout: patience, peers: Mutex::new(peers) })
    }

    /// Sends `own` to rank 0. On rank 0, returns the messages of all ranks, its own first.
    fn gather_to_0(&self, own: &[u8], what: &'static str) -> Result<Vec<Vec<u8>>, CollectiveError> {
        let mut peers = self.peers.lock().expect("one call at a time");
        if self.rank > 0 {
            return match send(&mut peers[0], DATA, own) {
                Ok(()) => Ok(Vec::new()),
                // Rank 0 may have sent the reason before it closed the connection.
                Err(cause) => Err(match receive(&mut peers[0]) {
                    Ok((FAILURE, text)) => remote_failure(&text),
                    _ => self.connection_error(0, &cause, what),
                }),
            };
        }
        let mut all = vec![own.to_vec()];
        for idx in 0..peers.len() {
            match receive(&mut peers[idx]) {
                Ok((DATA, bytes)) => all.push(bytes),
                Ok((_, text)) => return Err(remote_failure(&text)),
                Err(cause) => {
                    let error = self.connection_error(idx + 1, &cause, what);
                    // Sends the reason to all ranks, so that they do not report rank 0 as lost.
                    let text = error.to_string();
                    for peer in peers.iter_mut() {
                        let _ = send(peer, FAILURE, text.as_bytes());
                    }
                    return Err(error);
                }
            }
        }
        Ok(all)
    }

    /// On rank 0, sends `bytes` to all; on the others, receives them.
    fn broadcast_from_0(
        &self,
        bytes: Vec<u8>,
        what: &'static str,
    ) -> Result<Vec<u8>, CollectiveError> {
        let mut peers = self.peers.lock().expect("one call at a time");
        if self.rank > 0 {
            return match receive(&mut peers[0]).map_err(|e| self.connection_error(0, &e, what))? {
                (DATA, bytes) => Ok(bytes),
                (_, text) => Err(remote_failure(&text)),
            };
        }
        for (idx, peer) in peers.iter_mut().enumerate() {
            send(peer, DATA, &bytes).map_err(|e| self.connection_error(idx + 1, &e, what))?;
        }
        Ok(bytes)
    }

    fn connection_error(
        &self,
        peer: usize,
        cause: &std::io::Error,
        what: &'static str,
    ) -> CollectiveError {
        match cause.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => CollectiveError::TimedOut {
                rank: self.rank,
                missing: format!("rank {peer}"),
                secs: self.timeout.as_secs(),
                what,
            },
            _ => CollectiveError::Lost { who: format!("rank {peer}"), cause: cause.to_string() },
        }
    }
}

impl Collective for Tcp {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn exchange(&self, own: &[u8]) -> Result<Vec<Vec<u8>>, CollectiveError> {
        let all = self.gather_to_0(own, "exchange")?;
        let lens = all.iter().flat_map(|bytes| (bytes.len() as u64).to_le_bytes());
        let packed = lens.chain(all.iter().flatten().copied()).collect();
        let packed = self.broadcast_from_0(packed, "exchange")?;
        let short = || CollectiveError::Disagree("the exchange was cut short".into());
        let (lens, mut rest) = packed.split_at_checked(8 * self.size).ok_or_else(short)?;
        lens.chunks_exact(8)
            .map(|len| {
                let len = u64::from_le_bytes(len.try_into().expect("eight bytes")) as usize;
                let bytes;
                (bytes, rest) = rest.split_at_checked(len).ok_or_else(short)?;
                Ok(bytes.to_vec())
            })
            .collect()
    }

    fn all_reduce_sum(&self, values: Tensor<1>) -> Result<Tensor<1>, CollectiveError> {
        if self.size == 1 {
            return Ok(values);
        }
        let device = values.device();
        let own = to_host(values);
        let all = self.gather_to_0(&to_bytes(&own), "the sum of the gradients")?;
        let n = own.len();
        let mut sum = own;
        for (idx, bytes) in all.iter().enumerate().skip(1) {
            if bytes.len() != 4 * n {
                return Err(unequal(idx, bytes.len() / 4, n));
            }
            sum.iter_mut().zip(floats(bytes)).for_each(|(sum, value)| *sum += value);
        }
        let sum: Vec<f32> =
            floats(&self.broadcast_from_0(to_bytes(&sum), "the sum of the gradients")?).collect();
        let found = sum.len();
        if found != n {
            return Err(unequal(0, found, n));
        }
        Ok(Tensor::from_data(TensorData::new(sum, [n]), &device))
    }

    fn all_gather(&self, values: Tensor<1>) -> Result<Tensor<1>, CollectiveError> {
        if self.size == 1 {
            return Ok(values);
        }
        let device = values.device();
        let own = to_host(values);
        let all = self.exchange(&to_bytes(&own))?;
        if let Some((idx, bytes)) =
            all.iter().enumerate().find(|(_, bytes)| bytes.len() != 4 * own.len())
        {
            return Err(unequal(idx, bytes.len() / 4, own.len()));
        }
        let all: Vec<f32> = all.iter().flat_map(|bytes| floats(bytes)).collect();
        let n = all.len();
        Ok(Tensor::from_data(TensorData::new(all, [n]), &device))
    }

    fn broadcast(&self, values: Tensor<1>, root: usize) -> Result<Tensor<1>, CollectiveError> {
        let device = values.device();
        let own = if self.rank == root { to_bytes(&to_host(values)) } else { Vec::new() };
        let values: Vec<f32> = floats(&self.exchange(&own)?[root]).collect();
        let n = values.len();
        Ok(Tensor::from_data(TensorData::new(values, [n]), &device))
    }
}

/// Waits for the other ranks to connect.
fn listen(size: usize, master: &str, timeout: Duration) -> Result<Vec<TcpStream>, CollectiveError> {
    let what = "listening for the other ranks";
    // The launcher names this machine in its own way, so rank 0 listens on all interfaces, unless
    // the name is localhost.
    let (host, port) = master.rsplit_once(':').unwrap_or((master, ""));
    let listener = if matches!(host, "localhost" | "127.0.0.1") {
        TcpListener::bind(format!("127.0.0.1:{port}"))
    } else {
        // Covers IPv6 and IPv4, if the machine has both.
        TcpListener::bind(format!("[::]:{port}"))
            .or_else(|_| TcpListener::bind(format!("0.0.0.0:{port}")))
    };
    let listener = listener.map_err(|e| CollectiveError::Failed {
        what,
        cause: format!("{e}\n  hint: is port {port} taken by another run? Set MASTER_PORT"),
    })?;
    listener.set_nonblocking(true).map_err(|e| failed(what, &e))?;
    let end = Instant::now() + timeout;
    let mut peers: Vec<Option<TcpStream>> = (1..size).map(|_| None).collect();
    while peers.iter().any(Option::is_none) {
        match listener.accept() {
            Ok((stream, _)) => {
                if let Some((rank, stream)) = accept_rank(stream, size) {
                    peers[rank - 1] = Some(stream);
                }
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock && Instant::now() < end => {
                thread::sleep(Duration::from_millis(5));
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                let missing: Vec<String> = peers
                    .iter()
                    .enumerate()
                    .filter(|(_, peer)| peer.is_none())
                    .map(|(idx, _)| (idx + 1).to_string())
                    .collect();
                return Err(CollectiveError::TimedOut {
                    rank: 0,
                    missing: format!("rank {}", missing.join(", ")),
                    secs: timeout.as_secs(),
                    what: "the start",
                });
            }
            Err(e) => return Err(failed(what, &e)),
        }
    }
    Ok(peers.into_iter().flatten().collect())
}

/// The rank of a new connection, if it belongs to this run.
fn accept_rank(mut stream: TcpStream, size: usize) -> Option<(usize, TcpStream)> {
    stream.set_nonblocking(false).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let mut hello = [0; 24];
    stream.read_exact(&mut hello).ok()?;
    let number =
        |at: usize| u64::from_le_bytes(hello[at..at + 8].try_into().expect("eight bytes")) as usize;
    let (rank, theirs) = (number(8), number(16));
    (hello.starts_with(HELLO) && theirs == size && (1..size).contains(&rank))
        .then_some((rank, stream))
}

/// Connects to rank 0, and retries until the time-out.
fn connect_to_rank_0(
    rank: usize,
    size: usize,
    master: &str,
    timeout: Duration,
) -> Result<TcpStream, CollectiveError> {
    let end = Instant::now() + timeout;
    loop {
        let connected = master.to_socket_addrs().and_then(|addresses| {
            let mut stream = connect(addresses)?;
            stream.write_all(HELLO)?;
            stream.write_all(&(rank as u64).to_le_bytes())?;
            stream.write_all(&(size as u64).to_le_bytes())?;
            Ok(stream)
        });
        match connected {
            Ok(stream) => return Ok(stream),
            Err(_) if Instant::now() < end => thread::sleep(Duration::from_millis(50)),
            Err(cause) => {
                return Err(CollectiveError::Lost {
                    who: format!("rank 0 at {master}"),
                    cause: format!("after {} s: {cause}", timeout.as_secs()),
                });
            }
        }
    }
}

/// Connects to the first address that accepts. A host name may also have an IPv6 address on which
/// rank 0 does not listen.
fn connect(addresses: impl Iterator<Item = SocketAddr>) -> std::io::Result<TcpStream> {
    let mut failed = ErrorKind::NotFound.into();
    for address in addresses {
        match TcpStream::connect_timeout(&address, Duration::from_secs(5)) {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn send(stream: &mut TcpStream, kind: u8, bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(&[kind])?;
    stream.write_all(&(bytes.len() as u64).to_le_bytes())?;
    stream.write_all(bytes)
}

fn receive(stream: &mut TcpStream) -> std::io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head)?;
    let len = u64::from_le_bytes(head[1..].try_into().expect("eight bytes"));
    let mut bytes = Vec::new();
    // The buffer grows with the received data, so that an invalid length does not allocate all
    // memory.
    if stream.take(len).read_to_end(&mut bytes)? < len as usize {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok((head[0], bytes))
}

fn to_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("chunks of four")))
}

fn failed(what: &'static str, cause: &std::io::Error) -> CollectiveError {
    CollectiveError::Failed { what, cause: cause.to_string() }
}

fn remote_failure(text: &[u8]) -> CollectiveError {
    CollectiveError::Lost {
        who: "another rank".into(),
        cause: String::from_utf8_lossy(text).into_owned(),
    }
}

fn unequal(rank: usize, found: usize, wanted: usize) -> CollectiveError {
    CollectiveError::Disagree(format!("rank {rank} sent {found} values, wanted {wanted}"))
}
