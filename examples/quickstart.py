# Sends one view and asks for a list that has learned from it: python examples/quickstart.py (with `runnel up` running).
from __future__ import annotations

import time

import httpx


def main() -> None:
    """One round trip: event, then lists until one covers it."""
    with httpx.Client(base_url="http://127.0.0.1:8000") as client:
        event = {
            "type": "view",
            "user_id": "u1",
            "item_id": "i9",
            "timestamp": int(time.time() * 1000),
            "dwell_ms": 5300,
        }
        started = time.perf_counter()
        offset = client.post("/v1/events", json=event).raise_for_status().json()["offset"]
        while True:
            slate = client.post("/v1/recommendations", json={"user_id": "u1", "n": 5}).raise_for_status().json()
            if slate["session_offset"] >= offset:
                break
        print(f"{1000 * (time.perf_counter() - started):.0f} ms after the event the list knows of it:")
        for item in slate["items"]:
            print(f"  {item['item_id']}  score {item['score']:.3f}  from {item['source']}")


if __name__ == "__main__":
    main()
