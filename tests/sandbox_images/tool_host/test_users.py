"""The user ids that sessions get where they get any of their own."""

from pathlib import Path

import pytest

from sandbox_images.tool_host.process import session_users

WANTED = range(2**17, 2**31 - 2**20, 2**16)
MAPS = {
    "all there are": "         0          0 4294967295\n",
    "an engine without root": "         0       1000          1\n         1     100000      65535\n",
    "users mapped": "         0     231072      65536\n",
    "few users mapped": "         0     231072      8192\n",
}


@pytest.mark.parametrize("uid_map", MAPS.values(), ids=MAPS)
def test_session_users_are_among_those_that_the_namespace_has(tmp_path: Path, uid_map: str) -> None:
    listing = tmp_path / "uid_map"
    listing.write_text(uid_map)
    end = 1 + sum(int(line.split()[2]) for line in uid_map.splitlines()) - 1
    for wanted in (WANTED[0], WANTED[1000], WANTED[-1]):
        users = session_users(wanted, str(listing))
        assert users[0] >= 1000 and users[-1] < end and len(users) >= 4096
        assert users[0] == wanted or end < 2**17


@pytest.mark.parametrize("kind", ["an engine without root", "users mapped"])
def test_containers_of_an_engine_that_maps_users_do_not_all_begin_with_the_same(
    tmp_path: Path, kind: str
) -> None:
    """The kernel may count the processes of a user id over all containers."""
    listing = tmp_path / "uid_map"
    listing.write_text(MAPS[kind])
    first = {session_users(wanted, str(listing))[0] for wanted in WANTED[:1000]}
    assert len(first) > 500
