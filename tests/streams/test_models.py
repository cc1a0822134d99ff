"""Ids of streams."""

import time
from functools import partial

import pytest

from ferrule.streams.models import new_stream_id


def test_ids_are_not_given_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [new_stream_id() for _ in range(5000)]
    now = time.time()
    for moment in (now + 1, now - 3600, now + 2):
        monkeypatch.setattr(time, "time", partial(float, moment))
        ids += [new_stream_id() for _ in range(1000)]
    assert len(set(ids)) == len(ids)
    assert sorted(ids) == ids
    assert 0 < ids[0] < ids[-1] < 2**63
