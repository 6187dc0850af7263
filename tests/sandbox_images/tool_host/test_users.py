"""The user ids that sessions get where they get any of their own."""

from pathlib import Path

import pytest

from sandbox_images.tool_host.process import first_session_user


@pytest.mark.parametrize(
    ("uid_map", "first"),
    [
        ("         0          0 4294967295\n", 200_000),
        ("         0       1000          1\n         1     100000      65535\n", 32_768),
        ("         0     231072      65536\n", 32_768),
    ],
    ids=["all there are", "an engine without root", "users mapped"],
)
def test_session_users_are_among_those_that_the_namespace_has(
    tmp_path: Path, uid_map: str, first: int
) -> None:
    listing = tmp_path / "uid_map"
    listing.write_text(uid_map)
    assert first_session_user(200_000, str(listing)) == first
