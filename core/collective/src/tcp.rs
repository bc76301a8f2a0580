//! Communication over plain sockets, all through rank 0.
//!
//! Without MPI, it connects NCCL's ranks and carries the few bytes that the hosts' decisions depend
//! on. The program does not send gradients through it: these go through NCCL or MPI.

use std::hash::{BuildHasher as _, RandomState};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use burn::tensor::{Tensor, TensorData};

use super::{Busy, Collective, CollectiveError, sum_in_pairs, to_host};

/// First bytes of every connection, and of rank 0's answer.
const HELLO: &[u8; 8] = b"mm-gem-2";

/// Rank 0 listens at the first free one of so many ports, from the master's on.
const PORTS: u16 = 8;

/// How long a rank waits for the answer at a port. Another program may listen there and stay
/// silent.
const ANSWER: Duration = Duration::from_secs(5);

/// Rank 0's answers to a connection.
const WELCOME: u8 = 0;
const OTHER_RUN: u8 = 1;
const REFUSED: u8 = 2;

/// Kinds of message.
const DATA: u8 = 0;
const FAILURE: u8 = 1;
/// The sender, or a rank that it waits for, is alive but busy.
const BUSY: u8 = 2;

/// All ranks, connected through rank 0.
pub struct Tcp {
    rank: usize,
    size: usize,
    timeout: Duration,
    /// On rank 0, the other ranks in order; on the others, rank 0 alone.
    peers: Arc<Mutex<Vec<TcpStream>>>,
}

impl Tcp {
    /// Connects to the other ranks at `master` (`host:port`), where rank 0 listens. If that port is
    /// taken, rank 0 uses one of the next ports, and the others look for it there.
    ///
    /// `run_id` is the same on all ranks of a run. Ranks of other runs are turned away.
    ///
    /// # Errors
    /// If a rank is not there in time, if ranks differ in `size`, or if two processes have the same
    /// rank.
    pub fn connect(
        rank: usize,
        size: usize,
        master: &str,
        run_id: &str,
        timeout: Duration,
    ) -> Result<Self, CollectiveError> {
        let own = Hello { rank, size, nonce: nonce(), run_id: run_id.to_owned() };
        let peers = if size == 1 {
            Vec::new()
        } else if rank == 0 {
            listen(&own, master, timeout)?
        } else {
            vec![connect_to_rank_0(&own, master, timeout)?]
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
        Ok(Self { rank, size, timeout: patience, peers: Arc::new(Mutex::new(peers)) })
    }

    /// Sends `own` to rank 0. On rank 0, returns the messages of all ranks, its own first.
    fn gather_to_0(&self, own: &[u8], what: &'static str) -> Result<Vec<Vec<u8>>, CollectiveError> {
        let mut peers = self.peers.lock().expect("one call at a time");
        if self.rank > 0 {
            return match send(&mut peers[0], DATA, own) {
                Ok(()) => Ok(Vec::new()),
                // Rank 0 may have sent the reason before it closed the connection.
                Err(cause) => Err(match receive_result(&mut peers[0]) {
                    Ok((FAILURE, text)) => remote_failure(&text),
                    _ => self.connection_error(0, &cause, what),
                }),
            };
        }
        let mut all = vec![own.to_vec()];
        // One end for all: the time of a slow rank must not add to that of one that hangs, because
        // the others would give rank 0 up before it can name that one.
        let mut end = Instant::now() + self.timeout;
        for idx in 0..peers.len() {
            let message = loop {
                let left = end.saturating_duration_since(Instant::now());
                let _ = peers[idx].set_read_timeout(Some(left.max(Duration::from_millis(1))));
                match receive(&mut peers[idx]) {
                    // The ranks that wait for this one wait through rank 0.
                    Ok((BUSY, _)) => {
                        tell_busy(&mut peers);
                        end = Instant::now() + self.timeout;
                    }
                    message => break message,
                }
            };
            match message {
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
            let message = receive_result(&mut peers[0]);
            return match message.map_err(|e| self.connection_error(0, &e, what))? {
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
        let mut of_ranks = vec![own];
        for (idx, bytes) in all.iter().enumerate().skip(1) {
            if bytes.len() != 4 * n {
                return Err(unequal(idx, bytes.len() / 4, n));
            }
            of_ranks.push(floats(bytes).collect());
        }
        let sum = sum_in_pairs(of_ranks, |mut sum: Vec<f32>, values| {
            sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
            sum
        });
        let sum = sum.expect("this rank has values");
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

    /// A thread tells the other ranks a few times in each time-out that this rank is alive.
    fn busy(&self) -> Busy<'_> {
        let (peers, pause) = (self.peers.clone(), self.timeout / 4);
        let (end, ended) = channel::<()>();
        let thread = thread::spawn(move || {
            while ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                // A call of this rank holds the lock while it waits.
                tell_busy(&mut peers.lock().expect("no call panics"));
            }
        });
        Busy::until(move || {
            drop(end);
            let _ = thread.join();
        })
    }
}

/// The first message of a rank.
struct Hello {
    rank: usize,
    size: usize,
    /// Random, so that two processes with the same rank differ.
    nonce: u64,
    run_id: String,
}

impl Hello {
    fn send(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        let numbers = [self.rank as u64, self.size as u64, self.nonce];
        let bytes = HELLO.iter().copied().chain(numbers.into_iter().flat_map(u64::to_le_bytes));
        stream.write_all(&bytes.collect::<Vec<u8>>())?;
        send(stream, DATA, self.run_id.as_bytes())
    }

    /// Returns `None` if another program has connected.
    fn receive(stream: &mut TcpStream) -> Option<Self> {
        let mut head = [0; 32];
        stream.read_exact(&mut head).ok()?;
        let number =
            |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        if !head.starts_with(HELLO) {
            return None;
        }
        let (_, run_id) = receive(stream).ok()?;
        Some(Self {
            rank: number(8) as usize,
            size: number(16) as usize,
            nonce: number(24),
            run_id: String::from_utf8_lossy(&run_id).into_owned(),
        })
    }
}

/// A random number, different for each process that connects.
fn nonce() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

/// Waits for the other ranks to connect.
fn listen(own: &Hello, master: &str, timeout: Duration) -> Result<Vec<TcpStream>, CollectiveError> {
    let what = "listening for the other ranks";
    let listener = bind(master).map_err(|e| CollectiveError::Failed {
        what,
        cause: format!("{e} at {master}\n  hint: set MASTER_PORT to a free port"),
    })?;
    listener.set_nonblocking(true).map_err(|e| failed(what, &e))?;
    let end = Instant::now() + timeout;
    let mut peers: Vec<Option<(u64, TcpStream)>> = (1..own.size).map(|_| None).collect();
    while peers.iter().any(Option::is_none) {
        match listener.accept() {
            Ok((stream, _)) => accept_rank(stream, own, &mut peers)?,
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
    Ok(peers.into_iter().flatten().map(|(_, stream)| stream).collect())
}

/// Listens at the first free port from `master`'s on.
fn bind(master: &str) -> std::io::Result<TcpListener> {
    let (host, port) = host_and_port(master)?;
    // The launcher names this machine in its own way, so rank 0 listens on all interfaces, unless
    // the name is localhost.
    let at = |port: u16| match host {
        "localhost" | "127.0.0.1" => TcpListener::bind(("127.0.0.1", port)),
        // Covers IPv6 and IPv4, if the machine has both.
        _ => TcpListener::bind(format!("[::]:{port}"))
            .or_else(|_| TcpListener::bind(format!("0.0.0.0:{port}"))),
    };
    let mut bound = at(port);
    for next in ports(port).skip(1) {
        if !matches!(&bound, Err(e) if e.kind() == ErrorKind::AddrInUse) {
            break;
        }
        bound = at(next);
    }
    bound
}

fn host_and_port(master: &str) -> std::io::Result<(&str, u16)> {
    let (host, port) = master.rsplit_once(':').unwrap_or((master, ""));
    let invalid = |_| {
        let text = format!("found the port {port:?}, wanted a number up to 65535");
        std::io::Error::new(ErrorKind::InvalidInput, text)
    };
    Ok((host, port.trim().parse().map_err(invalid)?))
}

fn ports(first: u16) -> impl Iterator<Item = u16> {
    first..=first.saturating_add(PORTS - 1)
}

/// Answers a new connection, and adds it to `peers` if it is a rank of this run.
fn accept_rank(
    mut stream: TcpStream,
    own: &Hello,
    peers: &mut [Option<(u64, TcpStream)>],
) -> Result<(), CollectiveError> {
    let is_set_up = stream.set_nonblocking(false).is_ok()
        && stream.set_read_timeout(Some(ANSWER)).is_ok()
        && stream.set_write_timeout(Some(ANSWER)).is_ok();
    let Some(theirs) = Hello::receive(&mut stream).filter(|_| is_set_up) else { return Ok(()) };
    let mut answer = |kind: u8, text: &str| {
        stream.write_all(HELLO).and_then(|()| send(&mut stream, kind, text.as_bytes()))
    };
    if theirs.run_id != own.run_id {
        // A rank of another run looks for its own rank 0 elsewhere.
        let _ = answer(OTHER_RUN, &format!("the run {:?}", own.run_id));
        return Ok(());
    }
    let place = theirs.rank.checked_sub(1).and_then(|idx| peers.get_mut(idx));
    let refusal = match &place {
        _ if theirs.size != own.size => Some(format!(
            "rank {} was started as one of {} ranks, rank 0 as one of {}",
            theirs.rank, theirs.size, own.size
        )),
        None => Some(format!("two processes were started as rank {}", theirs.rank)),
        Some(Some((nonce, _))) if *nonce != theirs.nonce => {
            Some(format!("two processes were started as rank {}", theirs.rank))
        }
        Some(_) => None,
    };
    if let Some(why) = refusal {
        let _ = answer(REFUSED, &why);
        return Err(CollectiveError::Disagree(why));
    }
    // If the rank has given up on this connection, it connects again and replaces it.
    if answer(WELCOME, "").is_ok()
        && let Some(place) = place
    {
        *place = Some((theirs.nonce, stream));
    }
    Ok(())
}

/// Connects to rank 0, and retries until the time-out.
fn connect_to_rank_0(
    own: &Hello,
    master: &str,
    timeout: Duration,
) -> Result<TcpStream, CollectiveError> {
    let (host, port) = host_and_port(master).map_err(|e| failed("connecting to rank 0", &e))?;
    let end = Instant::now() + timeout;
    loop {
        let mut why = String::new();
        for port in ports(port) {
            match ask_at(own, host, port) {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err((REFUSED, text))) => return Err(CollectiveError::Disagree(text)),
                Ok(Err((_, text))) => why = format!("port {port} belongs to {text}"),
                // The reason at the master's own port says most, unless a port is another run's.
                Err(cause) if why.is_empty() => why = cause.to_string(),
                Err(_) => {}
            }
        }
        if Instant::now() >= end {
            return Err(CollectiveError::Lost {
                who: format!("rank 0 at {master}"),
                cause: format!(
                    "after {} s: {why}; wanted the run {:?}",
                    timeout.as_secs(),
                    own.run_id
                ),
            });
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// Introduces this rank at a port. Returns the connection, or rank 0's refusal.
fn ask_at(own: &Hello, host: &str, port: u16) -> std::io::Result<Result<TcpStream, (u8, String)>> {
    // An IPv6 address is in brackets, which the resolver of a pair does not know.
    let mut stream = connect(format!("{host}:{port}").to_socket_addrs()?)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    own.send(&mut stream)?;
    let mut greeting = [0; 8];
    stream.read_exact(&mut greeting)?;
    if greeting != *HELLO {
        return Err(std::io::Error::other(format!("another program listens at port {port}")));
    }
    Ok(match receive(&mut stream)? {
        (WELCOME, _) => Ok(stream),
        (kind, text) => Err((kind, String::from_utf8_lossy(&text).into_owned())),
    })
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

/// Tells ranks that this one is alive. A rank that is gone is reported by the next call.
fn tell_busy(peers: &mut [TcpStream]) {
    for peer in peers {
        let _ = send(peer, BUSY, &[]);
    }
}

/// The next message that is more than a sign of life.
fn receive_result(stream: &mut TcpStream) -> std::io::Result<(u8, Vec<u8>)> {
    loop {
        match receive(stream)? {
            (BUSY, _) => {}
            message => return Ok(message),
        }
    }
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
