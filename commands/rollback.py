# runnel rollback: the trained models go back to a kept version, while the system runs.
from __future__ import annotations

from typing import Annotated

import typer

from commands.options import Home

_TO = typer.Option("--to", help="A version of the learn stage that a snapshot keeps.")


def rollback(version: Annotated[int, _TO], home: Home = None) -> None:
    """Put the trained models back to a kept version, also while the system runs; recommendations go on meanwhile.

    Weights go back, and a hold of these models ends. User records, the catalogue, counters and all positions stay:
    they follow from events, which stay. The models' version still grows: the old weights are the newest version.
    """
    from commands.errors import CommandError, told_plainly
    from commands.settings import load_settings
    from models.registry import MODELS, build_models
    from state.meta import get_configs
    from state.snapshots import undisturbed
    from state.store import Store, StoreError
    from stream.loan import borrowed
    from stream.rollback import kept_version
    from stream.rollback import rollback as roll_back
    from stream.run import now_ms

    settings = load_settings(home=home)
    config, path = settings.learn_config(), settings.home / "learn"
    if not path.is_dir():
        raise CommandError(f"{path}: there is no learn store; name another --home")
    with told_plainly(StoreError, ValueError):
        directory = config.snapshots.where(settings.home)
        snapshot = kept_version(directory, version)
        with undisturbed(directory, "learn"), borrowed(path), Store(path, "learn", writer=True) as store:
            with store.read() as txn:
                stored = {name: keys for name, keys in get_configs(txn, store).items() if name in MODELS}
            models = build_models(config.models, settings.seed, stored)
            new, names = roll_back(store, snapshot, models, now_ms())
    print(f"version {new} has the weights of version {version}: {', '.join(names)}")
