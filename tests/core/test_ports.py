"""Tests of ports for servers that start later."""

from __future__ import annotations

import pytest

from himl_cli.core.ports import free_port


def test_a_free_port_is_none_that_systems_give_to_clients() -> None:
    for host in ("127.0.0.1", ""):
        ports = {free_port(host) for _ in range(50)}
        assert len(ports) > 25, "processes that ask at the same time get different ones"
        assert all(10_000 <= port < 30_000 for port in ports), ports
    with pytest.raises(OSError, match=r"assign|valid"):
        free_port("192.0.2.1")
