# A disk on which a commit takes for ever: lists go on meanwhile, and what waited is there in the end.
from __future__ import annotations

from pathlib import Path
from threading import Thread

import httpx

from tests.serving.helpers import Client, item, open_loop, view


def test_lists_go_on_while_the_log_and_both_stores_are_in_the_middle_of_a_commit(tmp_path: Path) -> None:
    with open_loop(tmp_path) as loop:
        loop.client.request("PUT", "/v1/items", {"items": [item(f"i{number}") for number in range(10)]})
        loop.send(*(view("u", f"i{number}", number) for number in range(3)))
        loop.settle()
        before, replies = loop.client.items("u"), list[httpx.Response]()
        other = Client(loop.service)
        body = {"events": [view("u", "i7", 10)]}
        waiting = Thread(target=lambda: replies.append(other.post("/v1/events", body)), daemon=True)
        with loop.fold_store.write(), loop.learn_store.write(), loop.log.files().env.begin(write=True):
            waiting.start()
            for _ in range(20):
                assert loop.client.items("u") == before
            assert loop.client.get("/v1/model").status_code == 200
            assert replies == []  # acknowledged means durable
        waiting.join(20)
        assert [reply.status_code for reply in replies] == [202]
        loop.settle()
        assert loop.client.items("u") != before
        other.close()
