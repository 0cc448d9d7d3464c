"""Host checks: addresses this host lacks, ports in use, folders that cannot be written, too few descriptors."""

import errno
import os
import resource
import socket

import msgspec
import pytest

from fastrelay.config import checks
from fastrelay.config.checks import check_host, require_host
from fastrelay.config.load import load_text, parse
from fastrelay.errors import HostError

# TEST-NET-3 (RFC 5737): no host has it.
FOREIGN = "203.0.113.77"


def config_of(tmp_path, more=""):
    return load_text(f"hostname: a.example\nstate_dir: {tmp_path}\nlisteners: {{smtp: []}}\n{more}")


@pytest.fixture
def taken():
    """A port on loopback that has a listener."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_fine_host_has_no_problem(tmp_path):
    assert check_host(config_of(tmp_path, "sources: [{name: a, address: 127.0.0.11}]"), "x").problems == []


def test_foreign_source_is_named(tmp_path):
    document = parse(
        f"hostname: a.example\nstate_dir: {tmp_path}\nlisteners: {{smtp: []}}\n"
        f"sources:\n  - {{name: a, address: 127.0.0.1}}\n  - {{name: b, address: {FOREIGN}}}\n",
        "relay.yaml",
    )
    (problem,) = check_host(document.config, document.file, document.lines).problems
    assert (problem.file, problem.line, problem.path) == ("relay.yaml", 6, "sources[1].address")
    assert FOREIGN in problem.problem
    assert "'b'" in problem.problem
    assert f"ip address add {FOREIGN}/32" in problem.mend


def test_foreign_listener(tmp_path):
    config = load_text(f'hostname: a.example\nstate_dir: {tmp_path}\nlisteners: {{smtp: [{{bind: "{FOREIGN}:0"}}]}}')
    (problem,) = check_host(config, "x").problems
    assert problem.path == "listeners.smtp[0].bind"
    assert FOREIGN in problem.problem


def test_port_in_use(tmp_path, taken):
    text = (
        f'hostname: a.example\nstate_dir: {tmp_path}\nlisteners: {{smtp: [], metrics: {{bind: "127.0.0.1:{taken}"}}}}'
    )
    (problem,) = check_host(load_text(text), "x").problems
    assert problem.path == "listeners.metrics.bind"
    assert f"port {taken} at 127.0.0.1 is in use" in problem.problem
    assert "another port" in problem.mend
    assert check_host(load_text(text), "x", listeners=False).problems == []


@pytest.mark.parametrize(
    ("number", "path", "word"),
    [
        (errno.EACCES, "listeners.smtp[0].bind", "CAP_NET_BIND_SERVICE"),
        (errno.EAFNOSUPPORT, "sources[0].address", "remove the source"),
        (errno.EPERM, "sources[0].address", "check the address"),
        (errno.EPERM, "listeners.smtp[0].bind", "check the address"),
    ],
)
def test_other_refusals_of_the_kernel(tmp_path, monkeypatch, number, path, word):
    monkeypatch.setattr(checks, "bind_error", lambda host, port: number)
    more = 'listeners: {smtp: [{bind: "127.0.0.1:25"}]}\nsources: [{name: a, address: "127.0.0.1"}]'
    config = load_text(f"hostname: a.example\nstate_dir: {tmp_path}\n{more}")
    found = {problem.path: problem for problem in check_host(config, "x").problems}
    assert word in found[path].mend


def test_state_dir_may_be_created(tmp_path):
    assert check_host(config_of(tmp_path / "a" / "b"), "x").problems == []
    assert not (tmp_path / "a").exists()


def test_state_dir_in_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        (problem,) = check_host(config_of(place), "x").problems
        assert problem.path == "state_dir"
        assert "not a directory" in problem.problem


@pytest.mark.parametrize("below", ["", "below"])
def test_state_dir_without_permission(tmp_path, monkeypatch, below):
    monkeypatch.setattr(checks.os, "access", lambda path, mode: False)  # chmod would not stop root
    (problem,) = check_host(config_of(tmp_path / below), "x").problems
    assert problem.path == "state_dir"
    assert str(tmp_path / below) in problem.problem
    assert problem.mend


@pytest.mark.parametrize(("kind", "word"), [("tmpfs", "restarts"), ("nfs4", "network")])
def test_file_systems_that_lose_mail(tmp_path, monkeypatch, kind, word):
    monkeypatch.setattr(checks, "file_system_type", lambda path: kind)
    findings = check_host(config_of(tmp_path), "x")
    assert findings.problems == []
    assert any(warning.path == "state_dir" and word in warning.problem for warning in findings.warnings)


def test_little_room(tmp_path):
    findings = check_host(config_of(tmp_path, "spool: {reserve: 1000000TiB}"), "x")
    assert [warning.path for warning in findings.warnings if "452" in warning.problem] == ["spool.reserve"]


def test_few_descriptors(tmp_path, monkeypatch):
    config = config_of(tmp_path)
    monkeypatch.setattr(checks.resource, "getrlimit", lambda which: (1024, 4096))
    (warning,) = [w for w in check_host(config, "x").warnings if w.path == "delivery.connections"]
    assert "4096" in warning.problem
    assert f"LimitNOFILE={checks.open_files_needed(config)}" in warning.mend
    monkeypatch.setattr(checks.resource, "getrlimit", lambda which: (1024, resource.RLIM_INFINITY))
    assert not [w for w in check_host(config, "x").warnings if w.path == "delivery.connections"]


def test_too_many_workers(tmp_path):
    config = msgspec.structs.replace(config_of(tmp_path), workers=2 * len(os.sched_getaffinity(0)) + 1)
    assert [warning.path for warning in check_host(config, "x").warnings if warning.path == "workers"] == ["workers"]


def test_require_host_raises_with_all_problems(tmp_path):
    with pytest.raises(HostError) as caught:
        require_host(config_of(tmp_path, f"sources: [{{name: a, address: {FOREIGN}}}]"), "x")
    assert len(caught.value.problems) == 1
    assert FOREIGN in str(caught.value)
    assert isinstance(require_host(config_of(tmp_path), "x"), list)


def test_bind_error():
    assert checks.bind_error("127.0.0.1", 0) is None
    assert checks.bind_error(FOREIGN, 0) == errno.EADDRNOTAVAIL


def test_file_system_type_of_the_root_is_known():
    assert checks.file_system_type("/proc/self") == "proc"
    assert checks.file_system_type("/")


def test_host_addresses_are_not_loopback():
    for version in (4, 6):
        assert not [address for address in checks.host_addresses(version) if address in ("127.0.0.1", "::1")]
