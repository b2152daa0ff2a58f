"""Getting from a bare Python environment to a Horovod that works, and judging one that exists.

`survey` reads what is installed, `plan` decides what to build from it, `rules` holds the
adaptations, `build` carries a plan out, `doctor` gives verdicts. Nothing in here imports
torch, TensorFlow, Horovod or MPI into its own process: a broken one of those aborts the
interpreter that touches it, so every such question is asked in a child process.
"""
