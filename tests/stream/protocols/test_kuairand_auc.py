# kuairand-auc on a made file of its format: what is read, and that a row is scored before it is learned.
from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from stream.protocols.kuairand_auc import KUAIRAND_AUC, shown_videos
from stream.protocols.protocol import Trial
from stream.readers import DataError

HEADER = "user_id\tvideo_id\ttime_ms\tis_click\tlong_view\tplay_time_ms\tduration_ms"


def made(folder: Path, *rows: tuple[int, int, int, int]) -> Path:
    """A file of (user, video, milliseconds, long view)."""
    path = folder / "kuairand-cut" / "log.tsv.gz"
    path.parent.mkdir(exist_ok=True)
    lines = [f"{user}\t{video}\t{at}\t1\t{long}\t{9000 if long else 3000}\t8000" for user, video, at, long in rows]
    path.write_bytes(gzip.compress("\n".join([HEADER, *lines]).encode()))
    return path


def test_rows_become_views_and_skips_in_time_order(tmp_path: Path) -> None:
    events = shown_videos(made(tmp_path, (1, 5, 1_649_581_149_287, 1), (2, 6, 1_649_581_149_286, 0)))
    first, second = (json.loads(event.value) for event in events)
    assert (first["type"], first["user_id"], first["item_id"], first["dwell_ms"]) == ("skip", "2", "6", 3000)
    assert (second["type"], second["timestamp"], second["duration_ms"]) == ("view", 1_649_581_149_287, 8000)


def test_a_file_that_is_absent_or_of_another_format_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"log\.tsv\.gz is not a file"):
        shown_videos(tmp_path / "log.tsv.gz")
    path = made(tmp_path)
    path.write_bytes(gzip.compress(b"user_id\tvideo_id\n1\t2\n"))
    with pytest.raises(DataError, match=r"log\.tsv\.gz"):
        shown_videos(path)


def test_a_model_tells_long_videos_only_once_it_has_learned_and_hears_of_skips(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    # Half of the videos are always watched long; all are shown as often, so what is not is told by skips alone.
    rows = [(int(rng.integers(20)), int(rng.integers(40)), 1_649_581_149_000 + 1000 * place) for place in range(1500)]
    made(tmp_path, *[(user, video, at, int(video < 20)) for user, video, at in rows])
    outcome = KUAIRAND_AUC.run(Trial(tmp_path, ("popularity", "item2vec"), 0, lambda _: None))
    assert outcome.num_events == 1500
    assert {len(values) for of in outcome.models.values() for values in of.values()} == {20}
    figures = {name: {metric: values.mean() for metric, values in of.items()} for name, of in outcome.models.items()}
    assert figures["popularity"]["auc"] > 0.9  # it counts takings
    assert figures["item2vec"]["auc"] > 0.8
    assert figures["popularity"]["gain"] == 0
    gain = figures["item2vec"]["auc"] - figures["item2vec without skips"]["auc"]
    assert figures["item2vec"]["gain"] == pytest.approx(gain)


def test_labels_drawn_by_chance_are_told_by_nobody(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    draws = rng.integers([20, 3000, 2], size=(3000, 3)).tolist()
    made(tmp_path, *[(user, video, 1_649_581_149_000 + place, long) for place, (user, video, long) in enumerate(draws)])
    outcome = KUAIRAND_AUC.run(Trial(tmp_path, ("popularity", "transformer"), 0, lambda _: None))
    for name, of in outcome.models.items():
        assert abs(of["auc"].mean() - 0.5) < 0.05, name
