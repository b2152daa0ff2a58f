"""Recommendation: horovodrun -np 2 python recipes/recsys.py model=mf framework=tensorflow"""

from typing import Any

from hvdkit.config import Run, recipe
from hvdkit.data import ClickDataset, RankingDataset
from hvdkit.tasks import ClickThrough, ImplicitFeedback


@recipe("recsys")
def main(config):
    with Run(config) as run:
        dataset: Any = run.dataset(RankingDataset, ClickDataset)
        task: ImplicitFeedback | ClickThrough = ClickThrough()
        if isinstance(dataset, RankingDataset):
            # What ranking by popularity alone would get is told beside the model's metrics.
            task = ImplicitFeedback(popularity=dataset.popularity)
        model = run.model(**dataset.sizes)
        run.fit(run.adapter(model, task), dataset)


if __name__ == "__main__":
    main()
