"""Answers of several workers, made into one."""

from fastrelay.admin import merge


def test_counts_are_added_at_every_depth() -> None:
    one = {"queued": 3, "by_reason": {"dns": 1}, "by_provider": {"google": {"queued": 2}}, "oldest_seconds": 5.5}
    two = {"queued": 4, "by_reason": {"dns": 2, "ready": 7}, "by_provider": {"google": {"queued": 1}}}
    assert merge.add_up([one, two], {}) == {
        "queued": 7,
        "by_reason": {"dns": 3, "ready": 7},
        "by_provider": {"google": {"queued": 3}},
        "oldest_seconds": 5.5,
    }
    assert one["queued"] == 3
    assert one["by_reason"] == {"dns": 1}


def test_of_ages_the_largest_counts_and_nothing_is_no_age() -> None:
    assert merge.add_up([{"oldest_seconds": None}, {"oldest_seconds": 3}], {})["oldest_seconds"] == 3
    assert merge.add_up([{"oldest_seconds": 9}, {"oldest_seconds": 3}], {})["oldest_seconds"] == 9
    assert merge.add_up([{"oldest_seconds": 9}, {"oldest_seconds": None}], {})["oldest_seconds"] == 9


def test_truths_hold_for_all() -> None:
    assert merge.add_up([{"dry_run": True}, {"dry_run": True}], {}) == {"dry_run": True}
    assert merge.add_up([{"ok": True}, {"ok": False}], {}) == {"ok": False}


def test_lists_are_joined_oldest_first_and_cut() -> None:
    one = {"messages": [{"id": "a", "age_seconds": 10}, {"id": "b", "age_seconds": 1}], "matched": 20}
    two = {"messages": [{"id": "c", "age_seconds": 5}, {"id": "d"}], "matched": 2}
    assert merge.messages([one, two], {"limit": 3}) == {
        "messages": [one["messages"][0], two["messages"][0], one["messages"][1]],
        "matched": 22,
    }
    assert [row["id"] for row in merge.messages([one, two], {})["messages"]] == ["a", "c", "b", "d"]
    assert merge.messages([one, two], {"limit": 0}) == {"messages": [], "matched": 22}
    assert [row["id"] for row in merge.everything([two, one], {})["messages"]] == ["a", "c", "b", "d"]


def test_an_audit_is_sound_only_if_every_worker_is() -> None:
    one, two = {"ok": True, "workers": [{"slot": 1}]}, {"ok": True, "workers": [{"slot": 0}]}
    assert merge.audits([one, two], {}) == {"ok": True, "workers": [{"slot": 0}, {"slot": 1}]}
    assert not merge.audits([one, {**two, "ok": False}], {})["ok"]
    assert not merge.audits([one, {"workers": []}], {})["ok"]
    assert not merge.audits([], {})["ok"]
