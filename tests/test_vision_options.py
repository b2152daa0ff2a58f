"""What one value of a vision config says about another."""

from __future__ import annotations

import pytest

from hvdkit.config import check
from hvdkit.errors import HvdkitError
from tests.compose import composed

FOLDER = ("data=image_folder", "data.source.path=folder")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*FOLDER, "data.source.mean=null"), "mean=None and data.source.std="),
        ((*FOLDER, "data.source.std=[1,1]"), "need three numbers each"),
        ((*FOLDER, "data.source.std=[1,0,1]"), "must be above 0"),
        ((*FOLDER, "data.source.image_size=300"), "image_size=300 cannot be cut .*resize=256"),
        ((*FOLDER, "data.source.min_scale=1.5"), "min_scale=1.5 must be at most 1"),
        ((*FOLDER, "data.on_bad_record=skp"), "not one of error, skip .did you mean skip"),
        (("data=mnist",), "data.source.path has no value"),
        (("model=vit", "model.heads=3"), "heads=3 does not divide model.width=128"),
        (("model=vgg16", "model.blocks=[1]"), "need one number each for every stage"),
        (("model=vgg16", "model.norm_kind=group", "model.norm_groups=48"), "does not divide"),
        (("model=resnet18", "model.block=bottlneck"), "did you mean bottleneck"),
        (
            ("model=resnet", "model.block=bottleneck", "model.widths=[6]", "model.blocks=[1]",
             "model.norm_groups=16"),
            "norm_groups=16 does not divide the width 24",
        ),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(HvdkitError, match=said):
        check(composed(*words))


def test_bytes_need_neither_mean_nor_deviation() -> None:
    check(composed(*FOLDER, "data.source.mean=null", "data.source.std=null"))
