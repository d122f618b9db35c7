"""Addresses: unique, stable, persistent, and not reused in a hurry."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulle.cluster.node.network.config import mac_of
from tulle.cluster.node.network.ipam import AddressesExhaustedError, AddressPool


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 15)), max_size=60))
def test_any_history(history: list[tuple[bool, int]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "a.json"
        pool, model = AddressPool(path, "10.244.0.0/28"), dict[str, str]()
        for add, number in history:
            uid = f"u{number}"
            if not add:
                pool.release(uid)
                model.pop(uid, None)
            elif uid in model or len(model) < 13:
                ip = pool.allocate(uid)
                assert model.setdefault(uid, ip) == ip
            else:
                with pytest.raises(AddressesExhaustedError, match=r"all 13 addresses of 10\.244\.0\.0/28"):
                    pool.allocate(uid)
            assert len(set(model.values())) == len(model)
            pool = AddressPool(path, "10.244.0.0/28")
            assert pool.pods() == model
        assert not {"10.244.0.0", "10.244.0.1", "10.244.0.15"} & set(model.values())


def test_a_released_address_is_the_last_to_come_back(tmp_path: Path) -> None:
    pool = AddressPool(tmp_path / "a.json", "10.244.3.0/24")
    first = pool.allocate("a")
    pool.release("a")
    assert [pool.allocate(f"u{n}") for n in range(252)][-1] != first
    assert pool.allocate("last") == first


def test_completeness_is_remembered_and_ends_with_the_address(tmp_path: Path) -> None:
    pool = AddressPool(tmp_path / "a.json", "10.244.3.0/24")
    pool.allocate("a")
    assert not pool.is_wired("a")
    pool.mark_wired("a")
    pool = AddressPool(tmp_path / "a.json", "10.244.3.0/24")
    assert pool.is_wired("a")
    pool.release("a")
    pool.allocate("a")
    assert not pool.is_wired("a")


def test_macs_follow_from_addresses() -> None:
    assert mac_of("10.244.0.12") == "0a:58:0a:f4:00:0c"
