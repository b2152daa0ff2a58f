"""The dataclasses behind config nodes whose objects cannot be imported to be asked.

Optimizers, schedules and compressions are their own schema. What imports a framework, or is
no object at all, is described here; a test holds each of these against its constructor.
"""

from __future__ import annotations

from hvdkit.options import nlp, recsys, run, vision

# By `_target_` where a node has one, else by its group.
SCHEMAS: dict[str, type] = {**run.SCHEMAS, **vision.SCHEMAS, **nlp.SCHEMAS, **recsys.SCHEMAS}
