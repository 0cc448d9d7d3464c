"""CPU of the client machine per mail transaction, driven from Python and so a little above what its shell pays.

    python benchmarks/bench_client.py

A 10 KB message with a prefix of 1 KB. Prints figures; asserts nothing. "parts" gives the share of each call.
"""

from __future__ import annotations

import time
import tracemalloc

import tools  # noqa: F401  (makes tests/support importable)
from support.dialogue import ehlo

from fastrelay._core.client import SmtpClient, Transaction

CONTENT = b"Subject: news\r\n\r\n" + b"a line of a newsletter, of a usual length, and no dots\r\n" * 180
PREFIX = b"Received: from somewhere\r\nDKIM-Signature: " + b"x" * 950 + b"\r\n"
ROUNDS = 20_000
FINAL = b"250 2.0.0 Ok: queued as %08d\r\n"


def session(*keywords: str) -> SmtpClient:
    machine = SmtpClient(b"mta1.news.example", 0.0)
    machine.receive(b"220 mx.example ESMTP\r\n", 0.0)
    machine.take_output()
    machine.receive(ehlo(*keywords), 0.0)
    machine.next_event()
    return machine


def transact(machine: SmtpClient, tx: Transaction, replies: list[bytes]) -> None:
    """As the shell does: every call, all output, every event."""
    machine.begin(tx, 1.0)
    machine.take_output()
    for reply in replies:
        machine.receive(reply, 1.0)
        machine.take_output()
        while machine.next_event():
            pass
    if machine.take_finished() is not tx or not tx.all_delivered:
        raise SystemExit("the transaction was not delivered")


def measure(name: str, keywords: tuple[str, ...], recipients: int, packets: list[bytes]) -> None:
    machine = session(*keywords)
    addresses = [b"subscriber%d@one.example" % i for i in range(recipients)]
    transactions = [Transaction(b"bounce+123@news.example", addresses, CONTENT, prefix=PREFIX) for _ in range(ROUNDS)]
    replies = [[*packets[:-1], packets[-1] + FINAL % i] for i in range(ROUNDS)]
    fastest = float("inf")
    for _ in range(5):
        begun = time.process_time()
        for tx, answers in zip(transactions, replies, strict=True):
            transact(machine, tx, answers)
        fastest = min(fastest, time.process_time() - begun)
    each = fastest / ROUNDS
    print(f"{name:42s} {each * 1e6:6.2f} µs a transaction  {each / recipients * 1e6:6.2f} µs a recipient")


def main() -> None:
    everything = ("PIPELINING", "CHUNKING", "SIZE 35882577", "8BITMIME", "DSN")
    mail, rcpt, go = b"250 2.1.0 Ok\r\n", b"250 2.1.5 Ok\r\n", b"354 End data with <CR><LF>.<CR><LF>\r\n"
    measure("BDAT, 1 recipient, replies in one packet", everything, 1, [mail + rcpt])
    measure("BDAT, 1 recipient, a packet each", everything, 1, [mail, rcpt, b""])
    measure("BDAT, 50 recipients", everything, 50, [mail + rcpt * 50])
    measure("DATA, 1 recipient", ("PIPELINING", "SIZE"), 1, [mail + rcpt + go, b""])
    measure("DATA, 1 recipient, no PIPELINING", (), 1, [mail, rcpt, go, b""])
    tracemalloc.start()
    sessions = [session(*everything) for _ in range(1000)]
    used, _ = tracemalloc.get_traced_memory()
    print(f"{'memory of an idle session':42s} {used / len(sessions):6.0f} octets (traced by Python's allocator)")


if __name__ == "__main__":
    main()
