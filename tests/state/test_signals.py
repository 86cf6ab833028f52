# The signal table: what is shipped, and what is refused.
from __future__ import annotations

import pytest

from state.signals import SIGNALS, Signal, SignalTable


def test_the_shipped_signals_are_those_of_the_design() -> None:
    names = ["view", "skip", "like", "dislike", "click", "complete", "share", "cart", "purchase", "undo"]
    assert list(SignalTable().by_name) == names
    assert SignalTable().by_name["view"].min_dwell_ms == 2000


def test_labels_and_weights_are_found_by_code() -> None:
    table = SignalTable([Signal("nod", 7, label=1.0, weight=0.5)])
    assert table.labels[7] == 1.0
    assert table.weights[7] == 0.5
    assert table.by_code[7].name == "nod"


@pytest.mark.parametrize(
    ("signals", "named"),
    [
        ([Signal("a", 1, 1, 1), Signal("a", 2, 1, 1)], "'a' is given twice"),
        ([Signal("a", 1, 1, 1), Signal("b", 1, 1, 1)], "'a' and 'b' share code 1"),
        ([Signal("a", 0, 1, 1)], "'a': code 0"),
        ([Signal("a", 256, 1, 1)], "'a': code 256"),
    ],
)
def test_a_table_that_cannot_be_is_refused_by_name(signals: list[Signal], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        SignalTable(signals)


def test_new_names_are_appended_to_the_stored_codes_and_old_ones_stay() -> None:
    table = SignalTable([Signal("view", 1, 1, 1), Signal("nod", 77, 1, 1)])
    assert table.merged({"view": 1, "gone": 5}) == {"view": 1, "gone": 5, "nod": 77}


def test_only_dislike_and_undo_speak_about_disliking() -> None:
    table = SignalTable(SIGNALS)
    assert table.disliked == {4: 1, 10: 0}
