"""The SMTP server for mail that comes back: no DSN is offered, contents stay in memory, and can be cut off."""

from __future__ import annotations

from fastrelay._core.server import MESSAGE, ServerLimits, SmtpServer

SIZE = 100_000


def server() -> SmtpServer:
    machine = SmtpServer(
        b"relay.test", ServerLimits(message_size=SIZE), may_relay=True, spill_bytes=SIZE, bare_line_ends="repair"
    )
    machine.without_dsn = True
    machine.verify_recipient = lambda mailbox: None if mailbox == b"b@b.test" else b"550 5.1.1 No\r\n"
    machine.greeting(0.0)
    machine.receive(b"EHLO mx.far.test\r\n", 0.0)
    return machine


def begin(machine: SmtpServer) -> None:
    machine.receive(b"MAIL FROM:<>\r\nRCPT TO:<c@b.test>\r\nRCPT TO:<b@b.test>\r\nDATA\r\n", 0.0)


def test_no_dsn_is_offered() -> None:
    machine = server()
    offered = machine.take_output()
    assert b"DSN" not in offered
    assert b"250-SIZE 100000\r\n" in offered


def test_what_is_collected() -> None:
    machine = server()
    begin(machine)
    assert machine.take_output().endswith(b"550 5.1.1 No\r\n250 2.1.5 Ok\r\n354 End data with <CR><LF>.<CR><LF>\r\n")
    assert machine.collected == 0
    machine.receive(b"Subject: x\r\n\r\n" + b"x" * 70_000, 0.0)
    assert 70_000 <= machine.collected <= 70_014
    machine.receive(b"y" * 20_000 + b"\r\n.\r\n", 0.0)
    assert machine.next_event() == MESSAGE
    assert machine.collected == 0
    envelope = machine.envelope
    assert envelope is not None
    assert envelope.content is not None, "it never goes to a file"
    assert len(envelope.content) == 90_016


def test_cut_off_in_the_middle() -> None:
    machine = server()
    begin(machine)
    machine.receive(b"x" * 50_000, 0.0)
    machine.take_output()
    machine.refuse(b"421 4.3.1 Too much\r\n")
    assert machine.take_output() == b"421 4.3.1 Too much\r\n"
    assert machine.collected == 0
    assert machine.closed


def test_too_large_is_dropped_as_it_comes() -> None:
    machine = server()
    begin(machine)
    machine.receive(b"x" * (SIZE + 1), 0.0)
    assert machine.collected == 0
    machine.take_output()
    machine.receive(b"\r\n.\r\n", 0.0)
    assert machine.take_output().startswith(b"552 5.3.4")
