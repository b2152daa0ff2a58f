"""Image sets in their published forms: MNIST, CIFAR-10, and folders as ImageNet's."""

from hvdkit.data.vision.cifar import cifar10
from hvdkit.data.vision.folder import image_folder
from hvdkit.data.vision.idx import mnist

__all__ = ["cifar10", "image_folder", "mnist"]
