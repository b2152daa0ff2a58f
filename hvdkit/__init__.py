"""hvdkit: one config, PyTorch or TensorFlow, any number of Horovod workers.

Importing this package is cheap on purpose: no framework, no Horovod and no Hydra is loaded
until something that needs it is imported.
"""

__version__ = "0.1.0"
