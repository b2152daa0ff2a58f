"""Image classification: horovodrun -np 2 python recipes/vision.py framework=tensorflow"""

from hvdkit.config import Run, build, recipe
from hvdkit.tasks import Classification


@recipe
def main(config):
    with Run(config) as run:
        dataset = build(config.data.source)
        task = Classification(layout=config.framework.image_layout)
        model = build(
            config.model,
            input_shape=task.input_shape(dataset.image_shape),
            classes=dataset.classes,
        )
        run.fit(run.adapter(model, task), dataset)


if __name__ == "__main__":
    main()
