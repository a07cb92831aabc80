import socket

import pytest

from stream.broker import ports
from stream.broker.errors import BrokerError


def test_free_ports_are_two_and_below_what_the_kernel_gives_to_clients() -> None:
    for _ in range(50):
        found = ports.free_ports(None)
        assert found.broker != found.controller
        assert max(found.broker, found.controller) < ports.port_limit()
        assert ports.is_free(found.broker)


def test_a_given_port_is_kept() -> None:
    port = ports.free_ports(None).broker
    assert ports.free_ports(port).broker == port


def test_a_busy_port_is_refused_with_what_to_do() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BrokerError, match=rf"port {port} .* in use(.|\n)*--port"):
            ports.free_ports(port)
