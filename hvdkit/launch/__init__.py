"""Starting jobs: what a launcher tells a process, and the environment Horovod reads."""
