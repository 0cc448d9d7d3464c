"""The in-flight file: what is found after a crash, after a power loss, after a clean end."""

import random
from pathlib import Path

import pytest

from fastrelay._core.inflight import Inflight, InflightFull


def opened(tmp_path: Path, boot_id: str = "boot-1", slots: int = 64) -> Inflight:
    return Inflight(str(tmp_path / "inflight"), boot_id=boot_id, slots=slots)


def test_new_file_knows_nothing(tmp_path: Path) -> None:
    file = opened(tmp_path)
    assert (file.list_all(), file.power_lost, file.used) == ([], False, 0)


def test_after_a_crash_exactly_what_was_in_flight(tmp_path: Path) -> None:
    file = opened(tmp_path)
    file.begin_list(7, [0])
    done = file.begin_list(8, [1, 2])
    file.begin_list(9, list(range(100, 130)))
    file.clear_handle(done)
    del file  # without close(): as a killed process leaves it
    again = opened(tmp_path)
    assert again.list_all() == [(7, [0]), (9, list(range(100, 130)))]
    assert not again.power_lost


def test_found_entries_stay_until_they_are_cleared(tmp_path: Path) -> None:
    file = opened(tmp_path)
    file.begin_list(7, [3])
    del file
    file = opened(tmp_path)
    file.clear_handle(file.begin_list(7, [3]))
    del file
    file = opened(tmp_path)
    assert file.list_all() == [(7, [3])]
    file.clear_old()
    assert (file.list_all(), file.used) == ([], 0)
    del file
    assert opened(tmp_path).list_all() == []


def test_power_loss_is_noted_until_cleared(tmp_path: Path) -> None:
    file = opened(tmp_path)
    file.begin_list(7, [3])
    del file
    file = opened(tmp_path, "boot-2")
    assert (file.power_lost, file.list_all()) == (True, [])
    file.begin_list(8, [1])
    del file  # died before it recorded the power loss
    file = opened(tmp_path, "boot-2")
    assert (file.power_lost, file.list_all()) == (True, [(8, [1])])
    file.clear_old()
    file.close()
    file = opened(tmp_path, "boot-3")
    assert not file.power_lost


def test_clean_end_and_reboot_is_no_power_loss(tmp_path: Path) -> None:
    file = opened(tmp_path)
    file.clear_handle(file.begin_list(7, [3]))
    file.close()
    file.close()
    assert not opened(tmp_path, "boot-2").power_lost


def test_end_with_something_in_flight_is_not_clean(tmp_path: Path) -> None:
    file = opened(tmp_path)
    file.begin_list(7, [3])
    file.close()
    assert opened(tmp_path, "boot-2").power_lost


def test_slots_are_bounded(tmp_path: Path) -> None:
    file = opened(tmp_path, slots=4)
    first = file.begin_list(1, list(range(40)))
    assert file.used == 4
    with pytest.raises(InflightFull):
        file.begin_list(2, [0])
    file.clear_handle(first)
    assert [file.begin_list(n, [0]) for n in range(1, 5)]
    with pytest.raises(InflightFull):
        file.begin_list(5, [0])
    with pytest.raises(ValueError):
        file.begin_list(1, [])
    with pytest.raises(ValueError):
        file.begin_list(0, [1])


def test_any_order_against_a_dictionary(tmp_path: Path) -> None:
    chance = random.Random(5)
    file = opened(tmp_path, slots=50)
    flying: dict[int, tuple[int, list[int]]] = {}
    for msgid in range(1, 3000):
        if flying and chance.random() < 0.5:
            handle = chance.choice(sorted(flying))
            file.clear_handle(handle)
            del flying[handle]
        numbers = sorted(chance.sample(range(1000), chance.randint(1, 25)))
        try:
            handle = file.begin_list(msgid, numbers)
        except InflightFull:
            continue
        assert handle not in flying
        flying[handle] = (msgid, numbers)
    del file
    assert opened(tmp_path, slots=50).list_all() == sorted(flying.values())
