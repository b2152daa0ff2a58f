"""The config groups; installed as the package hvdkit.conf."""
