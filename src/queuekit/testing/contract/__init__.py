# SPDX-License-Identifier: Apache-2.0
"""The contract that every backend keeps, as cases with stable IDs.

Write a harness and one class, and pytest runs every case against your backend:

```python
from queuekit.testing.contract import BackendContract, Harness


class MyHarness(Harness):
    def base_url(self) -> str:
        return "mine://localhost"


class TestMine(BackendContract):
    harness_class = MyHarness
```
"""

from __future__ import annotations

from queuekit.testing.contract.admin import Administration
from queuekit.testing.contract.batch_failure import BatchFailure
from queuekit.testing.contract.bridged import Bridged
from queuekit.testing.contract.concurrency import Concurrency
from queuekit.testing.contract.consume import Consume
from queuekit.testing.contract.dead_letter import DeadLetter
from queuekit.testing.contract.dedup import Dedup
from queuekit.testing.contract.delay import Delay
from queuekit.testing.contract.encoding import Encoding
from queuekit.testing.contract.events import Events
from queuekit.testing.contract.expiry import Expiry
from queuekit.testing.contract.faulting import Faults
from queuekit.testing.contract.handle_batch import HandleBatch
from queuekit.testing.contract.harness import HOOKS, Harness
from queuekit.testing.contract.idempotent import Idempotent
from queuekit.testing.contract.lease import Lease
from queuekit.testing.contract.lifecycle import Lifecycle
from queuekit.testing.contract.long_runs import LongRuns
from queuekit.testing.contract.metrics import Metrics
from queuekit.testing.contract.models import Models
from queuekit.testing.contract.network import Network
from queuekit.testing.contract.order import Order
from queuekit.testing.contract.produce import Produce
from queuekit.testing.contract.push import Push
from queuekit.testing.contract.reconnecting import Reconnect
from queuekit.testing.contract.redrive import Redrive
from queuekit.testing.contract.settle import Settle
from queuekit.testing.contract.urls import Urls

__all__ = ["HOOKS", "BackendContract", "Harness"]


class BackendContract(
    Produce,
    Consume,
    Settle,
    Lease,
    Delay,
    Order,
    Dedup,
    Bridged,
    DeadLetter,
    Redrive,
    BatchFailure,
    HandleBatch,
    Concurrency,
    Lifecycle,
    Faults,
    Reconnect,
    Network,
    Encoding,
    Events,
    Urls,
    Administration,
    Expiry,
    Idempotent,
    Models,
    LongRuns,
    Metrics,
    Push,
):
    """Every group of cases. Subclass it once per backend and set ``harness_class``."""
