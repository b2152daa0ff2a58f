"""Records, the order they are trained in, and batches. Imports comm and launch's cache folder."""

from hvdkit.data.clicks import ClickDataset, criteo
from hvdkit.data.interactions import RankingDataset, tastes
from hvdkit.data.labelled_text import labelled_text
from hvdkit.data.loader import EvalData, TrainData
from hvdkit.data.ratings import movielens
from hvdkit.data.sources import ArraySource, Dataset, ImageDataset, arrays, digits
from hvdkit.data.text import TextDataset, masked_text_files, text_files

__all__ = [
    "ArraySource",
    "ClickDataset",
    "Dataset",
    "EvalData",
    "ImageDataset",
    "RankingDataset",
    "TextDataset",
    "TrainData",
    "arrays",
    "criteo",
    "digits",
    "labelled_text",
    "masked_text_files",
    "movielens",
    "tastes",
    "text_files",
]
