"""The one exception that stands for a mistake the user can mend."""


class HvdkitError(Exception):
    """Bad input, a broken environment, or ranks that disagree.

    The message says what is wrong, where, and what to do. The entry points print it alone,
    without a traceback, and exit with status 1.
    """
