# runnel snapshot: whole copies of both stores, while the system runs.
from __future__ import annotations

from commands.options import Home, Json


def snapshot(home: Home = None, as_json: Json = False) -> None:
    """Keep the present version: write whole copies of both stores, named by stage and version, while the system runs.

    Stages write one by themselves every hour (fold.snapshots and learn.snapshots: directory, every_minutes, keep). Go
    back to a version of the models with `runnel rollback`; start a new home with `runnel up --from-snapshot DIR`.
    """
    import json

    from commands.errors import CommandError, told_plainly
    from commands.settings import load_settings
    from state.snapshots import write_snapshot
    from state.store import Store, StoreError, StoreMissing

    settings = load_settings(home=home)
    # The learner's first: what it has learned was folded before, so the fold's copy holds all of it.
    wanted = {"learn": settings.learn.snapshots, "fold": settings.fold.own_snapshots(settings.home)}
    written: dict[str, dict[str, object]] = {}
    for stage, config in wanted.items():
        with told_plainly(StoreError):
            try:
                with Store(settings.home / stage) as store:
                    made = write_snapshot(store, config.where(settings.home), config.keep)
            except StoreMissing:
                continue
        written[stage] = {"version": made.version, "path": str(made.path)}
        print(f"{stage} version {made.version}: {made.path}")
    if not written:
        raise CommandError(f"{settings.home} holds no stores yet: name another --home")
    if as_json:
        print(json.dumps(written))
