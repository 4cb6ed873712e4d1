"""What the tests of hubs share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from p2p_sync import Node
from tests.harness.redis import RedisServer


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def start() -> Iterator[Any]:
    """Makes nodes that do not dial each other, and dial a hub again at once."""
    with ExitStack() as stack:

        def made(**settings: Any) -> Node:
            quick = {"target_links": 0, "redial_first": 0.1, "redial_longest": 0.5}
            known: dict[str, Any] = {**quick, **settings}
            data_dir = known.pop("data_dir", None)
            return stack.enter_context(Node(0, data_dir, **known))

        yield made
