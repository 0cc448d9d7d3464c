"""The control socket client: huge answers, silence, a relay that goes away, and things that are no relay."""

import os
import socket

import pytest

from fastrelay.admin import client
from fastrelay.admin.client import ControlClient
from fastrelay.errors import ControlError, ControlLost, NoRelay


def test_several_calls_on_one_connection(fake_relay):
    fake_relay.answers = {"status": {"pid": 1}, "queue.list": {"messages": []}}
    with ControlClient(fake_relay.state_dir) as relay:
        assert relay.call("status") == {"pid": 1}
        assert relay.call("queue.list", {"limit": 5}) == {"messages": []}
    assert fake_relay.requests == [
        {"command": "status", "arguments": {}},
        {"command": "queue.list", "arguments": {"limit": 5}},
    ]


def test_a_huge_answer_comes_whole(fake_relay):
    rows = [{"id": f"abcdef-{n:x}", "reverse_path": "x" * 100} for n in range(100_000)]
    fake_relay.answers = {"queue.list": {"messages": rows}}
    with ControlClient(fake_relay.state_dir) as relay:
        assert relay.call("queue.list")["messages"] == rows


def test_an_answer_beyond_the_bound_is_given_up(fake_relay, monkeypatch):
    monkeypatch.setattr(client, "MAX_ANSWER_BYTES", 2**20)
    fake_relay.answers = {"queue.list": {"messages": "x" * 2**21}}
    with ControlClient(fake_relay.state_dir) as relay, pytest.raises(ControlLost, match="larger than 1 MiB"):
        relay.call("queue.list")


def test_an_error_in_words(fake_relay):
    fake_relay.answers = {"queue.show": "no such message"}
    with ControlClient(fake_relay.state_dir) as relay:
        with pytest.raises(ControlError, match="no such message") as caught:
            relay.call("queue.show", {"id": "x"})
        assert caught.value.command == "queue.show"


def test_gone_in_the_middle_of_an_answer(fake_relay):
    fake_relay.answers = {"status": b'{"result": {"pid"'}
    with (
        ControlClient(fake_relay.state_dir) as relay,
        pytest.raises(ControlLost, match="middle of its answer, after 17 octets"),
    ):
        relay.call("status")


def test_gone_without_an_answer_and_back_again(fake_relay):
    fake_relay.answers = {"status": [b"", {"pid": 2}]}
    with ControlClient(fake_relay.state_dir) as relay:
        with pytest.raises(ControlLost, match="not known"):
            relay.call("status")
        assert relay.call("status") == {"pid": 2}


def test_silence(fake_relay):
    fake_relay.answers = {"status": None}
    with ControlClient(fake_relay.state_dir, 0.05) as relay, pytest.raises(ControlLost, match="no answer for 50ms"):
        relay.call("status")


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"[]\n", b'{"other": 1}\n', b"\xff\xfe\n", b"\n"]
)
def test_not_a_relay(fake_relay, answer):
    fake_relay.answers = {"status": answer}
    with ControlClient(fake_relay.state_dir) as relay, pytest.raises(ControlLost, match="is not a relay"):
        relay.call("status")


def test_no_state_directory(tmp_path):
    with pytest.raises(NoRelay, match="no state directory") as caught:
        ControlClient(tmp_path / "none").call("status")
    assert "-c FILE" in caught.value.mend


def test_no_socket(tmp_path):
    with pytest.raises(NoRelay, match="no relay runs") as caught:
        ControlClient(tmp_path).call("status")
    assert "fastrelay run" in caught.value.mend


def test_a_socket_left_behind(tmp_path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "control.sock"))
    with pytest.raises(NoRelay, match="left its control socket behind"):
        ControlClient(tmp_path).call("status")


def test_a_file_in_its_place(tmp_path):
    (tmp_path / "control.sock").write_text("")
    with pytest.raises(NoRelay):
        ControlClient(tmp_path).call("status")


@pytest.mark.parametrize(
    ("error", "word"),
    [(PermissionError(13, "no"), "as root"), (TimeoutError(), "try again"), (OSError(90, "x"), "check state_dir")],
)
def test_other_refusals(tmp_path, monkeypatch, error, word):
    def refuse(self, address):
        raise error

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(NoRelay) as caught:
        ControlClient(tmp_path).call("status")
    assert word in caught.value.mend


def test_a_path_longer_than_a_socket_address(tmp_path, monkeypatch):
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    before = len(os.listdir("/proc/self/fd"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("control.sock")
        listener.listen()
        with ControlClient(deep) as relay:
            assert relay.answers()
    assert not ControlClient(deep).answers()
    assert len(os.listdir("/proc/self/fd")) == before
