//! A network that can be broken: a proxy between the cache and a server.
//!
//! Two threads for each connection, one for each direction. What they hold back they send later, or never: so what the cache
//! believes to be lost may still reach the server after all, which is what networks do.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// How long the other side may take to take what is sent to it, before the connection is given up.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Open,
    /// Nobody gets through.
    Refusing,
    /// Nothing is sent on, and nothing is lost.
    Holding,
    /// For good.
    Closed,
}

struct Link {
    sides: [TcpStream; 2],
    /// How many more bytes may pass before it is cut; negative: as many as there are.
    fuse: AtomicI64,
}

impl Link {
    /// Both sides are reset: what was sent and not read yet is lost with the connection.
    fn cut(&self) {
        for side in &self.sides {
            reset_on_close(side);
            // Wakes the threads that read; the last of them closes.
            let _ = side.shutdown(Shutdown::Read);
        }
    }
}

/// No farewell: a reset instead.
fn reset_on_close(stream: &TcpStream) {
    use std::os::fd::AsRawFd;
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let (at, size) = (std::ptr::from_ref(&linger).cast(), size_of::<libc::linger>() as libc::socklen_t);
    // Safety: the descriptor is open as long as `stream` is, and `at` points to `size` bytes of what the option takes.
    unsafe { libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, at, size) };
}

struct Road {
    server: SocketAddr,
    mode: Mutex<Mode>,
    changed: Condvar,
    links: Mutex<Vec<Arc<Link>>>,
    /// Cut by their fuse, in the middle of what was sent.
    cut: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Road {
    fn set(&self, mode: Mode) {
        *lock(&self.mode) = mode;
        self.changed.notify_all();
    }

    fn accept(&self, client: TcpStream) -> Option<Arc<Link>> {
        let is_open = !matches!(*lock(&self.mode), Mode::Refusing | Mode::Closed);
        let connect = || TcpStream::connect_timeout(&self.server, Duration::from_secs(2)).ok();
        let Some(server) = is_open.then(connect).flatten() else {
            reset_on_close(&client);
            return None;
        };
        for side in [&client, &server] {
            let _ = side.set_nodelay(true);
            let _ = side.set_write_timeout(Some(SEND_TIMEOUT));
        }
        let link = Arc::new(Link { sides: [client, server], fuse: AtomicI64::new(-1) });
        lock(&self.links).push(Arc::clone(&link));
        Some(link)
    }

    /// Carries what one side sends to the other until one of them has had enough.
    fn carry(&self, link: &Arc<Link>, from: usize) -> io::Result<()> {
        let [mut source, mut sink] = [&link.sides[from], &link.sides[1 - from]];
        let mut buffer = [0; 16 << 10];
        loop {
            let length = source.read(&mut buffer)?;
            let mut mode = lock(&self.mode);
            while *mode == Mode::Holding {
                mode = self.changed.wait(mode).unwrap_or_else(PoisonError::into_inner);
            }
            drop(mode);
            if length == 0 {
                return Ok(());
            }
            // Relaxed: where exactly it is cut does not matter.
            let fuse = link.fuse.load(Ordering::Relaxed);
            if fuse >= 0 {
                let rest = (fuse as usize).min(length);
                link.fuse.store(fuse - rest as i64, Ordering::Relaxed);
                sink.write_all(&buffer[..rest])?;
                if rest < length {
                    link.fuse.store(-1, Ordering::Relaxed);
                    self.cut.fetch_add(1, Ordering::Relaxed);
                    link.cut();
                    return Ok(());
                }
                continue;
            }
            sink.write_all(&buffer[..length])?;
        }
    }

    fn forget(&self, link: &Arc<Link>) {
        lock(&self.links).retain(|other| !Arc::ptr_eq(other, link));
    }

    fn cut_all(&self) -> u64 {
        let links = lock(&self.links);
        links.iter().for_each(|link| link.cut());
        links.len() as u64
    }
}

pub(crate) struct Proxy {
    road: Arc<Road>,
    port: u16,
}

impl Proxy {
    pub(crate) fn to(server: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let road = Arc::new(Road {
            server,
            mode: Mutex::new(Mode::Open),
            changed: Condvar::new(),
            links: Mutex::default(),
            cut: AtomicU64::new(0),
        });
        let accepting = Arc::clone(&road);
        thread::Builder::new().name("proxy".into()).spawn(move || {
            for client in listener.incoming() {
                if *lock(&accepting.mode) == Mode::Closed {
                    return;
                }
                let Some(link) = client.ok().and_then(|client| accepting.accept(client)) else { continue };
                for from in [0, 1] {
                    let (road, carried) = (Arc::clone(&accepting), Arc::clone(&link));
                    let carry = move || {
                        // However it ends, the other direction ends too.
                        let _ = road.carry(&carried, from);
                        road.forget(&carried);
                        carried.sides.iter().for_each(|side| drop(side.shutdown(Shutdown::Both)));
                    };
                    let spawned = thread::Builder::new().name("proxy-link".into()).spawn(carry);
                    if spawned.is_err() {
                        // As a server without resources does.
                        link.cut();
                    }
                }
            }
        })?;
        Ok(Proxy { road, port })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Nobody gets through any more, and who was connected is cut off.
    pub(crate) fn refuse(&self) -> u64 {
        self.road.set(Mode::Refusing);
        self.road.cut_all()
    }

    /// Nothing is sent on any more.
    pub(crate) fn hold(&self) {
        self.road.set(Mode::Holding);
    }

    /// All is well, and what was held back is sent on.
    pub(crate) fn open(&self) {
        self.road.set(Mode::Open);
    }

    /// Every connection that there is will be cut after so many more bytes, in either direction.
    pub(crate) fn light_fuses(&self, mut bytes: impl FnMut() -> u64) {
        lock(&self.road.links).iter().for_each(|link| link.fuse.store(bytes() as i64, Ordering::Relaxed));
    }

    /// The addresses under which the server knows the connections.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        lock(&self.road.links).iter().filter_map(|link| link.sides[1].local_addr().ok()).collect()
    }

    /// How many connections their fuse has cut.
    pub(crate) fn cut(&self) -> u64 {
        // Relaxed: a count.
        self.road.cut.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.road.set(Mode::Closed);
        self.road.cut_all();
        // The thread that accepts wakes up and sees it.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

/// Where the server of an address is, and the address with the proxy in its place.
///
/// Understands `scheme://user:password@host:port/rest`.
pub(crate) fn split(address: &str, default_port: u16) -> Option<(String, impl Fn(u16) -> String)> {
    let (scheme, rest) = address.split_once("://")?;
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (user, host) = authority.rsplit_once('@').map_or(("", authority), |(user, host)| (user, host));
    let at = if user.is_empty() { String::new() } else { format!("{user}@") };
    let host = if host.contains(':') { host.to_owned() } else { format!("{host}:{default_port}") };
    let (scheme, path) = (scheme.to_owned(), path.to_owned());
    Some((host, move |port| format!("{scheme}://{at}127.0.0.1:{port}{path}")))
}
