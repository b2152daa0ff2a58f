"""`hydra/sweeper=optuna`: Optuna's trials on the slots of `hydra/launcher=horovod`."""
