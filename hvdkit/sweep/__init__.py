"""Many jobs on a few slots: what `-m` does with `hydra/launcher=horovod`, and Optuna above it.

The plugins in `hydra_plugins/` hold what Hydra must see; all work is done here. May import
config, and launch, run_folder, schema and errors below it.
"""
