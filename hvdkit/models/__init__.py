"""Model twins: torch_NAME.py and keras_NAME.py define the same network, name for name."""
