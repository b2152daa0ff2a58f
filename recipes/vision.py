"""Image classification: horovodrun -np 2 python recipes/vision.py framework=tensorflow"""

from hvdkit.config import Run, recipe
from hvdkit.data import ImageDataset
from hvdkit.tasks import Classification


@recipe("vision")
def main(config):
    with Run(config) as run:
        dataset = run.dataset(ImageDataset)
        task = Classification(
            layout=config.framework.image_layout, label_smoothing=config.trainer.label_smoothing
        )
        model = run.model(
            input_shape=task.input_shape(dataset.image_shape), classes=dataset.classes
        )
        run.fit(run.adapter(model, task), dataset)


if __name__ == "__main__":
    main()
