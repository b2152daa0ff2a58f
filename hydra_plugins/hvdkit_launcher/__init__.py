"""`hydra/launcher=horovod`: every job of a `-m` sweep as a Horovod job of its own."""
