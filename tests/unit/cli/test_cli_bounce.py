"""fastrelay bounce parse: files, mailboxes, folders, standard input."""

import json

from click.testing import CliRunner
from support.bounces import SAMPLES

from fastrelay.cli.group import cli

FIRST, SECOND = SAMPLES["postfix_report"][0], SAMPLES["qmail"][0]


def lines(*arguments, **more):
    result = CliRunner().invoke(cli, ["bounce", "parse", "--json", *map(str, arguments)], **more)
    return result.exit_code, [json.loads(line) for line in result.stdout.splitlines()]


def test_files_and_standard_input(tmp_path):
    (tmp_path / "one.eml").write_bytes(FIRST)
    code, found = lines(tmp_path / "one.eml", "-", input=SECOND)
    assert code == 0
    assert [(each["form"], each["recipients"][0]["address"]) for each in found] == [
        ("rfc3464", "reader@far.example"),
        ("qmail", "reader@far.example"),
    ]


def test_a_mailbox_and_a_folder(tmp_path):
    box = tmp_path / "mbox"
    box.write_bytes(b"From a Mon Nov  2\n" + FIRST + b"\nFrom b Mon Nov  2\n" + SECOND)
    assert [each["form"] for each in lines(box)[1]] == ["rfc3464", "qmail"]
    for name in ("cur", "new", "tmp"):
        (tmp_path / "dir" / name).mkdir(parents=True)
        (tmp_path / "dir" / name / "1.eml").write_bytes(FIRST)
    assert len(lines(tmp_path / "dir")[1]) == 2


def test_words_and_errors(tmp_path):
    (tmp_path / "one.eml").write_bytes(FIRST)
    result = CliRunner().invoke(cli, ["bounce", "parse", str(tmp_path / "one.eml"), str(tmp_path / "none.eml")])
    assert result.exit_code == 1
    assert "bad_mailbox hard about recipient" in result.output
    assert "can't be read" in result.output


def test_the_recipient_that_the_caller_knows(tmp_path):
    (tmp_path / "one.eml").write_bytes(
        b"From: MAILER-DAEMON@x.example\nSubject: Undelivered mail\n\nThe mailbox is full.\n"
    )
    _, found = lines("--recipient", "r@far.example", tmp_path / "one.eml")
    assert found[0]["recipients"][0]["address"] == "r@far.example"
    assert found[0]["how"] == "verp"
