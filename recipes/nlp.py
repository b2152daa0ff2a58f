"""Language models and text classifiers: horovodrun -np 2 python recipes/nlp.py model=gpt_micro

The data says what is learned: data=text (the next token), masked_text or labelled_text.
"""

from hvdkit.config import Run, recipe
from hvdkit.data import TextDataset
from hvdkit.tasks import text_task


@recipe("nlp")
def main(config):
    with Run(config) as run:
        dataset = run.dataset(TextDataset)
        model = run.model(
            vocabulary=dataset.vocabulary, context=dataset.context, classes=dataset.classes
        )
        smoothing = config.trainer.label_smoothing
        task = text_task(dataset.objective, model, label_smoothing=smoothing)
        run.fit(run.adapter(model, task), dataset)


if __name__ == "__main__":
    main()
