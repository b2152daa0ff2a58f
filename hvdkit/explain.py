"""What Hydra says of a wrong command line, in words that say what to do.

May import schema; Hydra is here already when something of it has failed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from hvdkit.schema import nearest


def explain(error: Exception, workload: str) -> str:
    """A configuration error of Hydra's in our words: key, what is allowed, nearest match.

    `workload` names the recipe's defaults, whose keys are known.
    """
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        known = sorted(error.options)
        hint = nearest(name, known)
        return f"{group}={name} is not known{hint}\n{group} is one of: {', '.join(known)}"
    if isinstance(error, OverrideParseException):
        cause = (str(error.__cause__ or error) or str(error)).splitlines()
        told = [line for line in cause if not line.startswith("See https") and line.strip(" ^")][:2]
        return (
            f"{error.override} cannot be read: {'; '.join(told)}\n"
            "one value is KEY=VALUE, a sweep KEY=A,B or KEY=range(START,STOP,STEP), in quotes "
            "against the shell (docs/sweeps.md)"
        )
    if "BasicSweeper does not support" in str(error):
        return "an interval has no list of values: add hydra/sweeper=optuna, or name the values"
    unknown = re.search(r"Could not override '(.+?)'", str(error))
    if unknown:
        near = nearest_key(unknown[1], workload)
        return f"unknown key {unknown[1]}{near}; --cfg job prints all of them"
    text = str(error).split("\nSet the environment variable")[0]
    if isinstance(error.__cause__, OmegaConfBaseException):  # what the value is wrong for
        text += f": {str(error.__cause__).splitlines()[0]}"
    return text


def nearest_key(key: str, workload: str) -> str:
    """A hint naming the config key most like `key`: by its last word first, then whole."""
    known = list(leaves(_defaults(workload)))
    if key in known:
        group = key.partition(".")[0]
        return f" in the chosen {group}, only in the one that is the default"
    same_end = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
    if same_end:
        return f" (did you mean {same_end[0]}?)"
    return nearest(key, known)


def _defaults(workload: str) -> DictConfig:
    from hydra import compose, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_module("hvdkit.conf", version_base="1.3"):
        return compose(workload)


def leaves(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """The dotted keys of a config's values."""
    for key in map(str, node):
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none():
            yield from leaves(child, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
