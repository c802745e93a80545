# SPDX-License-Identifier: Apache-2.0
"""Faults at the backend's answer, by a script: what a service, a network or a bad backend can do to the engine.

Put a `FaultyOpener` in the place of an opener, and every backend that it opens follows the script:

```python
from queuekit._wiring.opening import Opener
from queuekit.backend import SystemClock
from queuekit.testing.faults import FaultyOpener, Script, raise_after, unavailable

script = Script()
script.on("send", raise_after(unavailable()))  # the first send is carried out, its answer is lost
opener = FaultyOpener(Opener(SystemClock()), script, max_send_batch=10)
```
"""

from __future__ import annotations

from queuekit.testing.faults.backend import FaultyBackend, FaultyOpener, wrap
from queuekit.testing.faults.script import Answers, Call, InjectedFault, Proceed, Script, Step, Verb
from queuekit.testing.faults.steps import (
    access_denied,
    answer_for_stranger,
    answer_twice,
    as_is,
    contradict,
    delay,
    do_nothing,
    edit_answer,
    fail_entries,
    hang,
    hold,
    hold_before,
    leave_out,
    not_found,
    pretend_settled,
    raise_after,
    raise_before,
    refused,
    throttle,
    throttled,
    too_many,
    unavailable,
)

__all__ = [
    "Answers",
    "Call",
    "FaultyBackend",
    "FaultyOpener",
    "InjectedFault",
    "Proceed",
    "Script",
    "Step",
    "Verb",
    "access_denied",
    "answer_for_stranger",
    "answer_twice",
    "as_is",
    "contradict",
    "delay",
    "do_nothing",
    "edit_answer",
    "fail_entries",
    "hang",
    "hold",
    "hold_before",
    "leave_out",
    "not_found",
    "pretend_settled",
    "raise_after",
    "raise_before",
    "refused",
    "throttle",
    "throttled",
    "too_many",
    "unavailable",
    "wrap",
]
