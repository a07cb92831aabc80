"""Free ports for a server that is killed and comes back on the same port.

Taken from below the range from which the kernel picks ports for outgoing connections. Within that range a client that
keeps dialling the port of a dead broker is in time given that very port as its own, connects to itself, and the broker
cannot come back (TCP's simultaneous open).
"""

import random
import socket
from pathlib import Path

from stream.broker.errors import BrokerError
from stream.broker.layout import HOST, Ports

PORT_MIN = 10_000
ATTEMPTS = 200


def port_limit() -> int:
    """The first port that the kernel may give to outgoing connections."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError):
        return 32_768


def is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As Java does: a port whose last connections have just ended counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def free_ports(port: int | None) -> Ports:
    """A port for clients (the given one, if any) and one for the controller.

    Raises:
        BrokerError: the given port is taken, or no port is free.
    """
    if port is not None and not is_free(port):
        message = (
            f"port {port} on {HOST} is in use. Name another one (--port N), let one be found (--port 0), or, if the "
            f"Kafka that listens there is the one you want, set KAFKA_BOOTSTRAP={HOST}:{port}."
        )
        raise BrokerError(message)
    draw = random.SystemRandom()
    limit = max(port_limit(), PORT_MIN + 1000)
    found = [] if port is None else [port]
    for _ in range(ATTEMPTS):
        candidate = draw.randrange(PORT_MIN, limit)
        if candidate not in found and is_free(candidate):
            found.append(candidate)
        if len(found) == 2:
            return Ports(broker=found[0], controller=found[1])
    message = f"no free port found on {HOST} between {PORT_MIN} and {limit} in {ATTEMPTS} attempts"
    raise BrokerError(message)
