"""What the core decides is carried out, even if a part of it fails."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from p2p_sync.core.effects import Effects, Settle
from p2p_sync.node.shell import Shell


def test_an_effect_that_fails_does_not_keep_the_others(caplog: pytest.LogCaptureFixture) -> None:
    settled: list[Future[None]] = [Future(), Future()]
    settled[0].set_result(None)  # so the first effect fails
    effects = Effects()
    for future in settled:
        commit: Any = SimpleNamespace(future=future)
        effects.add(Settle(commit))
    Shell.__new__(Shell).perform(effects)
    assert settled[1].done()
    assert "an effect has failed: Settle" in caplog.text
