"""Recommendation: horovodrun -np 2 python recipes/recsys.py model=mf framework=tensorflow"""

import inspect
from typing import Any

from hydra.utils import get_object

from hvdkit.config import Run, build, recipe
from hvdkit.data import ClickDataset, Dataset, RankingDataset
from hvdkit.errors import HvdkitError
from hvdkit.tasks import ClickThrough, ImplicitFeedback


@recipe("recsys")
def main(config):
    with Run(config) as run:
        shared = {"comm": run.comm} if "comm" in arguments(config.data.source) else {}
        dataset = run.dataset(Dataset, **shared)
        task: Any
        if isinstance(dataset, RankingDataset):
            # What ranking by popularity alone would get is told beside the model's metrics.
            task = ImplicitFeedback(popularity=dataset.popularity)
        elif isinstance(dataset, ClickDataset):
            task = ClickThrough()
        else:
            raise HvdkitError(
                f"data.source gives a {type(dataset).__name__}, this recipe needs a RankingDataset "
                "or a ClickDataset: choose another data=NAME"
            )
        unknown = sorted(set(dataset.sizes) - arguments(config.model))
        if unknown:  # models that rank take users and items, those of clicks numbers and tables
            raise HvdkitError(
                f"the model {config.model._target_.rpartition('.')[2]} takes no "
                f"{' and '.join(unknown)}, which this data has: choose another model=NAME, or "
                "another data=NAME"
            )
        run.fit(run.adapter(build(config.model, **dataset.sizes), task), dataset)


def arguments(node):
    """The names of what a node's `_target_` takes."""
    return set(inspect.signature(get_object(node._target_)).parameters)


if __name__ == "__main__":
    main()
