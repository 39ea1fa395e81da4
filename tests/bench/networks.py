"""Runs MPI ranks on one machine as on several that are joined by a network of a given speed.

    python tests/bench/networks.py --nodes 2 --rate 1gbit --delay 0.1ms --measure -- python rank.py

Each node is a network namespace of Linux with one link to a common switch, which is one too:

    node 1  link0 10.77.0.1 ---- port1 +--------+ port2 ---- link0 10.77.0.2  node 2
                                       | switch |
    node 3  link0 10.77.0.3 ---- port3 +--------+

--rate limits what a node sends and, on the side of the switch, what it receives, as a full-duplex
cable does. --delay is the time a frame takes from one node to another, so a round trip takes two.
The nodes share this machine's processors, memory and files, but the ranks of two nodes can reach
each other by TCP over their links alone: Open MPI is told to use nothing else, and each node has a
host name of its own. No interface of the machine itself is touched. All is removed at the end.

What shapes the links:

- without a delay, pairs of veth devices, a bridge, and an HTB qdisc at both ends of each pair. HTB
  sends a frame as soon as it owes nothing, at any length; TBF would save up credit for a whole
  frame of 64 KB, which the first part of each message would spend at once;
- with a delay, netem on the side of the switch, where the kernel has it (it was not available on
  the machine where this was written, so that way is untested);
- else TAP devices, whose frames relay.c holds for the delay. A C compiler is needed.

TCP data leaves a node in frames of up to what its link carries in GRAIN seconds, not cut to the MTU
before they arrive, as with a network card that cuts them up itself. A message arrives up to GRAIN
early for that, because a qdisc passes on a frame when its first bit would go out. The rate counts
the bytes of frames with their headers, but not the preamble and the gap of Ethernet (24 bytes for
each 1,514). TCP between the nodes is cubic, the default of Linux, whatever the machine itself uses.

Linux, root, ip and tc (Debian: iproute2), unshare (util-linux) and Open MPI are needed.
"""

import argparse
import contextlib
import ctypes
import fcntl
import json
import math
import os
import platform
import re
import shlex
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RELAY = Path(__file__).resolve().with_name("relay.c")
SUBNET = "10.77.0"
MAX_NODES = 64               # also MAX_PORTS of relay.c
GRAIN = 50e-6                # seconds
CREDIT = 100e-6              # seconds that a timer may be late without loss of bandwidth
MTU_FRAME = 1514             # bytes of a full frame
LONGEST_FRAME = 65536        # bytes of TCP data that the kernel hands over at once
QUEUE = 4 << 20              # bytes that a port of the switch holds before it drops frames
OWN_QUEUE = 64 << 20         # the same of a node, where TCP itself limits what waits
RATES = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
DELAYS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
NEEDED = {"ip": "iproute2", "tc": "iproute2", "unshare": "util-linux", "mpirun": "openmpi-bin"}
TURN = 100_000               # ns, the least that Linux takes
SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}  # system calls
CLONE_NEWNET = 0x40000000
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
TAP_FLAGS = 0x0002 | 0x1000 | 0x4000     # IFF_TAP, IFF_NO_PI, IFF_VNET_HDR
TAP_OFFLOADS = 0x01 | 0x02 | 0x04        # checksums, TCP over IPv4, TCP over IPv6
# Gives the node its host name, then becomes the command.
IN_NODE = 'echo "$0" > /proc/sys/kernel/hostname && exec "$@"'
# mpirun starts its daemon on another node by `agent ADDRESS COMMAND`, as it would by ssh.
AGENT = """#!/bin/sh
node=${{1##*.}}; shift
exec ip netns exec "{prefix}$node" unshare --uts sh -c {in_node} "node$node" sh -c "$*"
"""


class NetworkError(Exception):
    """The network can't be made; the message is one line."""


# -------------------------------------------------------------------------------- the arguments ---

def quantity(text, units, what):
    """Return the value of a number and its unit, or 0.0 for "" or "0".

    Args:
        text: for example "1gbit", or None.
        units: maps each unit to its value.
        what: what the quantity is, for the error.

    Raises:
        NetworkError: if it isn't a number and one of the units.
    """
    if text in (None, "", "0"):
        return 0.0
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([a-z]+)", str(text), re.ASCII)
    if not found or found[2] not in units:
        raise NetworkError(f"{what} {text!r} is not a number with one of {', '.join(units)}")
    return float(found[1]) * units[found[2]]


def assert_possible(nodes):
    """Raise NetworkError if something is missing that every network needs, or for a bad size."""
    if not 1 <= nodes <= MAX_NODES:
        raise NetworkError(f"nodes={nodes} is not in 1..{MAX_NODES}")
    if sys.platform != "linux":
        raise NetworkError("network namespaces need Linux")
    for program, package in NEEDED.items():
        if not shutil.which(program):
            raise NetworkError(f"{program} is not installed (Debian: apt-get install {package})")
    if os.geteuid() != 0:
        raise NetworkError("only root may make network namespaces")


def done(*words):
    """Run a command of the system and return its output; its first line of errors is raised."""
    result = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL,
                            start_new_session=True)  # so that Ctrl-C doesn't reach it
    if result.returncode:
        error = (result.stderr.strip() or f"exit status {result.returncode}").splitlines()[0]
        raise NetworkError(f"{' '.join(words)}: {error}")
    return result.stdout


# ------------------------------------------------------------------------ sockets in namespaces ---

@contextlib.contextmanager
def inside(name):
    """Let this thread open sockets and TAP devices in a namespace, where they then stay."""
    libc = ctypes.CDLL(None, use_errno=True)

    def enter(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if libc.setns(descriptor, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
        finally:
            os.close(descriptor)

    own = f"/proc/self/fd/{(home := os.open('/proc/thread-self/ns/net', os.O_RDONLY))}"
    try:
        enter(f"/run/netns/{name}")
        try:
            yield
        finally:
            enter(own)
    finally:
        os.close(home)


def tap(name, device):
    """Open a new TAP device in a namespace; it's there until the descriptor is closed."""
    with inside(name):
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", device.encode(), TAP_FLAGS))
            fcntl.ioctl(descriptor, TUNSETOFFLOAD, TAP_OFFLOADS)
        except OSError:
            os.close(descriptor)
            raise
    return descriptor


# ---------------------------------------------------------------------------------- the network ---

class Network:
    """Nodes that are joined by shaped links; namespaces() makes it and removes it.

    Attributes:
        names: the nodes' namespaces.
        addresses: the nodes' addresses, "10.77.0.1" and so on.
        shaped_by: "veth", "htb", "netem" or "relay": what makes the links what they are.
    """

    def __init__(self, nodes, rate=None, delay=None):
        self.rate = quantity(rate, RATES, "rate")        # bits / s, or 0: not limited
        self.delay = quantity(delay, DELAYS, "delay")    # seconds from node to node
        if 0 < self.rate < 1e5 or self.rate > 1e12:
            raise NetworkError(f"rate {rate} is not in 100kbit..1000gbit")
        if self.delay > 10:
            raise NetworkError(f"delay {delay} is more than 10s")
        assert_possible(nodes)
        self.prefix = f"pygpt-{os.getpid()}-{time.monotonic_ns() % 10 ** 6}-"
        self.names = [f"{self.prefix}{i + 1}" for i in range(nodes)]
        self.switch = f"{self.prefix}switch"
        self.addresses = [f"{SUBNET}.{i + 1}" for i in range(nodes)]
        self.shaped_by = "htb" if self.rate else "veth"
        self.directory = self.relay = None

    # ---------------------------------------------------------------------- making and removing ---

    def build(self):
        """Make the namespaces and their links."""
        self.directory = tempfile.mkdtemp(prefix=f"pygpt-net-{os.getpid()}-")
        for name in (self.switch, *self.names):
            done("ip", "netns", "add", name)
            done("ip", "-n", name, "link", "set", "lo", "up")
        if self.delay:
            self.shaped_by = "netem" if self.has_netem() else "relay"
        (self.join_by_relay if self.shaped_by == "relay" else self.join_by_bridge)()
        for name, address in zip(self.names, self.addresses):
            if self.rate:
                self.limit(name, "link0", OWN_QUEUE)
            done("ip", "-n", name, "address", "add", f"{address}/24", "dev", "link0")
            done("ip", "-n", name, "link", "set", "link0", "up")
            with contextlib.suppress(NetworkError):  # a kernel may lack cubic
                done("ip", "-n", name, "route", "replace", f"{SUBNET}.0/24", "dev", "link0",
                     "src", address, "congctl", "cubic")
        agent = Path(self.directory, "agent")
        agent.write_text(AGENT.format(prefix=self.prefix, in_node=shlex.quote(IN_NODE)))
        agent.chmod(0o700)

    def has_netem(self):
        """Try netem on a device that carries nothing."""
        try:
            done("tc", "-n", self.switch, "qdisc", "add", "dev", "lo", "root", "netem", "delay",
                 "1ms")
        except NetworkError:
            return False
        done("tc", "-n", self.switch, "qdisc", "del", "dev", "lo", "root")
        return True

    def join_by_bridge(self):
        """Join the nodes by pairs of veth devices and a bridge."""
        done("ip", "-n", self.switch, "link", "add", "bridge0", "type", "bridge")
        done("ip", "-n", self.switch, "link", "set", "bridge0", "up")
        for i, name in enumerate(self.names, 1):
            port = f"port{i}"
            done("ip", "-n", self.switch, "link", "add", port, "type", "veth", "peer", "name",
                 "link0", "netns", name)
            done("ip", "-n", self.switch, "link", "set", port, "master", "bridge0", "up")
            if self.shaped_by == "netem":
                rate = ["rate", f"{self.rate:.0f}bit"] if self.rate else []
                frames = (QUEUE + self.rate * self.delay / 8) / MTU_FRAME
                done("tc", "-n", self.switch, "qdisc", "add", "dev", port, "root", "netem",
                     "delay", f"{1e6 * self.delay:.0f}us", *rate, "limit", f"{frames:.0f}")
            elif self.rate:
                self.limit(self.switch, port, QUEUE)

    def join_by_relay(self):
        """Join the nodes by TAP devices, and start the relay between them."""
        program = os.path.join(self.directory, "relay")
        if not shutil.which("cc"):
            raise NetworkError("a delay needs netem, which this kernel lacks, or a C compiler (cc)")
        done("cc", "-std=c11", "-O2", "-o", program, str(RELAY))
        with contextlib.ExitStack() as taps:
            descriptors = []
            for i, name in enumerate(self.names, 1):
                descriptors.append(tap(name, "link0"))
                taps.callback(os.close, descriptors[-1])
                done("ip", "-n", name, "link", "set", "link0", "address", f"02:00:0a:4d:00:{i:02x}")
            self.relay = subprocess.Popen(
                [program, f"{1e9 * self.delay:.0f}", f"{self.rate:.0f}", f"{QUEUE}",
                 *map(str, descriptors)], pass_fds=descriptors, stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL, start_new_session=True)

    def limit(self, name, device, queue):
        """Limit what a device sends to the rate; this many bytes may wait."""
        credit = f"{max(int(CREDIT * self.rate / 8), MTU_FRAME)}"
        grain = min(max(int(GRAIN * self.rate / 8), MTU_FRAME), LONGEST_FRAME)
        done("ip", "-n", name, "link", "set", device, "gso_max_size", f"{grain}")
        rate, on = f"{self.rate:.0f}bit", ("dev", device)
        done("tc", "-n", name, "qdisc", "add", *on, "root", "handle", "1:", "htb", "default", "1")
        done("tc", "-n", name, "class", "add", *on, "parent", "1:", "classid", "1:1", "htb", "rate",
             rate, "burst", credit, "cburst", credit, "quantum", f"{LONGEST_FRAME}")
        done("tc", "-n", name, "qdisc", "add", *on, "parent", "1:1", "bfifo", "limit", f"{queue}")

    def remove(self):
        """End what runs in the namespaces and remove them, the relay and the temporary files."""
        self.end_processes()
        if self.relay:
            self.relay.kill()
            self.relay.wait()
            self.relay.stdin.close()
        for name in (*self.names, self.switch):
            if os.path.exists(f"/run/netns/{name}"):
                done("ip", "netns", "del", name)
        if self.directory:
            shutil.rmtree(self.directory, ignore_errors=True)

    def end_processes(self):
        """Kill every process in the nodes' namespaces; no other program puts one there."""
        for name in self.names:
            while os.path.exists(f"/run/netns/{name}"):
                processes = done("ip", "netns", "pids", name).split()
                if not processes:
                    break
                for process in processes:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(process), signal.SIGKILL)
                time.sleep(0.01)

    # ------------------------------------------------------------------------------ running MPI ---

    def command(self, ranks, words):
        """Return the command line that runs these words as MPI ranks, ceil(ranks / nodes) a node.

        The first ranks are on node 1, the next on node 2, and so on. mpirun runs on node 1.
        """
        slots = math.ceil(ranks / len(self.names))
        hosts = ",".join(f"{address}:{slots}" for address in self.addresses)
        options = {
            "plm": "rsh", "plm_rsh_agent": os.path.join(self.directory, "agent"),
            "plm_rsh_no_tree_spawn": "1",             # every daemon is started from node 1
            "pml": "ob1", "btl": "tcp,self",          # neither shared memory nor UCX
            "btl_tcp_if_include": f"{SUBNET}.0/24", "oob_tcp_if_include": f"{SUBNET}.0/24",
            # a rank that waits lets others run, if there are more than processors
            "mpi_yield_when_idle": "01"[ranks > len(os.sched_getaffinity(0))],
            "orte_tmpdir_base": self.directory}
        mca = [word for name, value in options.items() for word in ("--mca", name, value)]
        return ["ip", "netns", "exec", self.names[0], "unshare", "--uts", "sh", "-c", IN_NODE,
                "node1", "mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none",
                "--host", hosts, "-np", str(ranks), *mca, *words]

    def run(self, ranks, words, env=None, timeout=None, capture_output=True):
        """Run a command as MPI ranks, spread evenly over the nodes.

        Args:
            ranks: how many processes of the command there are, at least 1.
            words: the command, a list of str.
            env: the ranks' environment; this process's by default.
            timeout: seconds after which all is killed and subprocess.TimeoutExpired is raised.
            capture_output: whether the output is returned, as text, or goes where this process's
                does.

        Returns:
            The subprocess.CompletedProcess of mpirun.
        """
        if ranks < 1:
            raise NetworkError(f"ranks={ranks} is not at least 1")
        try:
            return subprocess.run(self.command(ranks, words), env=env, timeout=timeout, text=True,
                                  capture_output=capture_output, preexec_fn=take_short_turns)
        finally:
            with signals_held():
                self.end_processes()

    # -------------------------------------------------------------------------------- measuring ---

    def bytes_sent(self):
        """Return the number of bytes that each node has sent over its link so far."""
        return [json.loads(done("ip", "-j", "-s", "-n", name, "link", "show", "dev", "link0"))[0]
                ["stats64"]["tx"]["bytes"] for name in self.names]

    def measure(self, seconds=1.0, rounds=200):
        """Measure one TCP connection between nodes 1 and 2.

        Both ends ask for data without pause, as ranks of Open MPI do: to wake a process and a
        processor that sleep may take longer than the message.

        Args:
            seconds: for how long data is sent.
            rounds: how many messages of 8 bytes are sent to node 2 and back.

        Returns:
            {"round_trip_seconds": the median, "bytes_per_second": the payload that node 2 gets,
            without the first 0.3 of the time, in which TCP finds out the rate}
        """
        if len(self.names) < 2:
            raise NetworkError("there is nothing to measure between fewer than 2 nodes")
        with inside(self.names[1]):
            listener = socket.create_server((self.addresses[1], 0))
        with listener:
            with inside(self.names[0]):
                near = socket.create_connection(listener.getsockname(), timeout=10)
            far, _ = listener.accept()
        with near, far:
            other = subprocess.Popen(
                [sys.executable, __file__, "--answer", f"{far.fileno()}", "--rounds", f"{rounds}",
                 "--seconds", f"{seconds}"], pass_fds=[far.fileno()], stdout=subprocess.PIPE)
            far.close()
            try:
                taken = round_trips(near, rounds)
                block, end = bytes(1 << 18), time.perf_counter() + seconds
                while time.perf_counter() < end:
                    with contextlib.suppress(BlockingIOError):
                        near.send(block)
                near.shutdown(socket.SHUT_WR)
                rate = float(other.communicate(timeout=10)[0])
            finally:
                other.kill()
                other.communicate()
        return {"round_trip_seconds": statistics.median(taken), "bytes_per_second": rate}


def take_short_turns():
    """Ask Linux (6.12 or newer) to let this process, and those it starts, run for TURN at once.

    By default a rank that waits for a message keeps a processor for about 4 ms, even if it yields
    to the rank that is to send it.
    """
    number = SCHED_SETATTR.get(platform.machine())
    if number:
        size, normal = 48, 0  # of struct sched_attr; SCHED_OTHER, with nice 0
        attributes = struct.pack("IIQiIQQQ", size, normal, 0, 0, 0, TURN, 0, 0)
        ctypes.CDLL(None).syscall(number, 0, attributes, 0)  # where it fails, turns stay long


def round_trips(near, rounds):
    """Return the seconds of each round trip of 8 bytes to an answer() and back."""
    taken = []
    near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    near.setblocking(False)
    for _ in range(rounds):
        start = time.perf_counter()
        near.send(bytes(8))
        polled(near, 8)
        taken.append(time.perf_counter() - start)
    return taken


def polled(end, size):
    """Return this many bytes, or fewer at the end of the data, of a socket that never waits."""
    data = b""
    while len(data) < size:
        with contextlib.suppress(BlockingIOError):
            part = end.recv(size - len(data))
            if not part:
                break
            data += part
    return data


def answer(far, rounds, seconds):
    """Send back round_trips(); return the bytes per second that come after 0.3 of the seconds."""
    far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    far.setblocking(False)
    for _ in range(rounds):
        far.send(polled(far, 8))
    start = first = total = 0
    buffer, size = bytearray(1 << 18), None
    while size != 0:
        try:
            size = far.recv_into(buffer)
        except BlockingIOError:
            continue
        last = time.perf_counter()
        start = start or last
        if first:
            total += size
        elif last - start >= 0.3 * seconds:
            first = last
    return total / (last - first)


# --------------------------------------------------------------------------- from start to end ---

@contextlib.contextmanager
def signals_held():
    """Let Ctrl-C and requests to end wait until the block is done."""
    held = signal.pthread_sigmask(
        signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


@contextlib.contextmanager
def namespaces(nodes, rate=None, delay=None):
    """Make a Network for the block, and remove it at the end, however the block ends.

    Args:
        nodes: how many nodes there are, 1 to 64.
        rate: what each link carries in each direction, such as "1gbit"; None for no limit.
        delay: the time from one node to another, such as "0.1ms"; None for none.

    Raises:
        NetworkError: if an argument is wrong, or something is missing.
    """
    network = Network(nodes, rate, delay)
    try:
        network.build()
        yield network
    finally:
        with signals_held():
            network.remove()


def ended(number, frame):
    """Handle a signal that ends the process: leave the blocks first."""
    sys.exit(128 + number)


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="networks", description=__doc__.splitlines()[0],
        usage="networks.py [options] [-- command ...]")
    parser.add_argument("--nodes", type=int, default=2, metavar="K")
    parser.add_argument("--ranks", type=int, metavar="N", help="by default one for each node")
    parser.add_argument("--rate", metavar="R", help="of each link, such as 1gbit")
    parser.add_argument("--delay", metavar="D", help="from node to node, such as 0.1ms")
    parser.add_argument("--measure", action="store_true",
                        help="print what TCP gets between nodes 1 and 2, before the command")
    for name, kind in ("answer", int), ("rounds", int), ("seconds", float):  # for measure() alone
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    parser.add_argument("command", nargs="*", help="what each rank runs")
    options = parser.parse_args(arguments)
    if options.answer is not None:
        with socket.socket(fileno=options.answer) as far:
            print(answer(far, options.rounds, options.seconds))
        return 0
    if not options.command and not options.measure:
        parser.error("a command or --measure is needed")
    try:
        with namespaces(options.nodes, options.rate, options.delay) as network:
            if options.measure:
                found = network.measure()
                print(f"{options.nodes} nodes by {network.shaped_by}: round trip "
                      f"{1e6 * found['round_trip_seconds']:.0f} us, "
                      f"{8e-6 * found['bytes_per_second']:.0f} Mbit/s of payload", flush=True)
            if not options.command:
                return 0
            ranks = options.nodes if options.ranks is None else options.ranks
            status = network.run(ranks, options.command, capture_output=False).returncode
            return status if status >= 0 else 128 - status
    except NetworkError as error:
        sys.exit(f"networks: error: {error}")
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    for ending in signal.SIGTERM, signal.SIGHUP:
        signal.signal(ending, ended)
    sys.exit(main())
