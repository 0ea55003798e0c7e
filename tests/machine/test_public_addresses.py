"""Only the public internet is called, whatever an address is dressed up as, and a name is looked up once."""

from __future__ import annotations

import ipaddress
import socket

import pytest

from finetune_hub.machine.public_addresses import NotPublic, is_public, look_up


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("8.8.8.8", True),
        ("100.64.0.1", False),
        ("192.168.1.1", False),
        ("224.0.0.1", False),
        ("2606:4700::1111", True),
        ("::ffff:8.8.8.8", True),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::8.8.8.8", True),
        ("64:ff9b::127.0.0.1", False),
        ("fd00::1", False),
        ("fe80::1%eth0", False),
        ("2002:7f00:1::", False),
    ],
)
def test_public(address: str, expected: bool) -> None:
    assert is_public(ipaddress.ip_address(address)) is expected


def test_every_address_of_a_name_has_to_be_public(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = ["93.184.215.14"]
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *_, **__: [(socket.AF_INET, 0, 0, "", (address, 0)) for address in answers]
    )
    assert str(look_up("example.org", allow_private=False)) == "93.184.215.14"
    answers.append("10.0.0.7")
    with pytest.raises(NotPublic):
        look_up("example.org", allow_private=False)
    assert str(look_up("example.org", allow_private=True)) == "93.184.215.14"
