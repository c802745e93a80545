# SPDX-License-Identifier: Apache-2.0
"""The backend interface: what a queue service must do for queuekit, and what it may expect in return.

A backend is a small object with blocking methods. The engine above it owns every thread, retry, budget,
batch and clock decision; a backend turns one call into one request to its service and says, entry by
entry, what came of it. The contract suite (`queuekit.testing.contract`) judges it.

**What every backend keeps**

- One outcome per entry, by position (K1). An exception from `send` or `settle` means that nothing is known
  about any entry (K4); whatever is known better is an outcome.
- No retries and no waiting beyond ``wait_s`` (K2): the SDK's own retries are set to one attempt.
- No splitting (K3): the engine never passes more than `Capabilities` allow.
- A handle belongs to one delivery. Two deliveries of one message have different handles (K5).
- `receive` returns at most ``max_messages``, and may return fewer or none (K6). What arrives after `close`
  is given back or comes again by lease (K7).
- Settling one entry never touches another (K8). An action that the service lacks answers `Unsupported`
  before any I/O (K9).
- Every method may be called from several threads at once (K10). No state lives in the class or module (K11).
- Raw errors are attached, never turned into text only (K12). Nothing is created unasked (K13), except where
  `Capabilities.queues` is ``implicit``.
- Nothing that was passed in is kept after returning, but for the values of messages, which are immutable.

**Where it stands**

All names are imported from here. `Backend` is written down in ``_spi/protocol.py``, what else a backend may do in
``_spi/abilities.py``, messages and settlements in ``_spi/messages.py``, `BackendSpec` and what a backend is opened
with in ``_spi/opening.py``.
"""

from __future__ import annotations

from queuekit._spi.abilities import (
    Admin,
    Cancellable,
    Diagnosable,
    Foreseeing,
    HttpPublishable,
    HttpSchedulable,
    Interruptible,
    Metered,
    Moving,
    Pausable,
    Peekable,
    PushCodec,
    Recreating,
    Redrivable,
    Waitable,
)
from queuekit._spi.messages import (
    Action,
    Handle,
    IncomingMessage,
    OutgoingMessage,
    QueueStats,
    Settlement,
    StoredMessage,
)
from queuekit._spi.opening import SPI_VERSION, BackendSpec, ClientPool, Opening
from queuekit._spi.protocol import Backend
from queuekit._values.capability import Capabilities, Support
from queuekit._values.clock import Clock, SystemClock
from queuekit._values.diagnosis import Wanted
from queuekit._values.errors import InvalidURLError
from queuekit._values.finding import Finding
from queuekit._values.http import HttpAuth, HttpRequest, ScheduledRequest
from queuekit._values.moving import Move, MoveStatus
from queuekit._values.options import Range, Size
from queuekit._values.outcome import (
    LEASE_LOST,
    SETTLED,
    Accepted,
    AllAccepted,
    Duplicate,
    ErrorClass,
    ErrorCode,
    Failed,
    LeaseLost,
    NotAttempted,
    Rejected,
    SendOutcome,
    Settled,
    SettleOutcome,
    Unknown,
    Unsupported,
)
from queuekit._values.url import Host, QueueURL

__all__ = [
    "LEASE_LOST",
    "SETTLED",
    "SPI_VERSION",
    "Accepted",
    "Action",
    "Admin",
    "AllAccepted",
    "Backend",
    "BackendSpec",
    "Cancellable",
    "Capabilities",
    "ClientPool",
    "Clock",
    "Diagnosable",
    "Duplicate",
    "ErrorClass",
    "ErrorCode",
    "Failed",
    "Finding",
    "Foreseeing",
    "Handle",
    "Host",
    "HttpAuth",
    "HttpPublishable",
    "HttpRequest",
    "HttpSchedulable",
    "IncomingMessage",
    "Interruptible",
    "InvalidURLError",
    "LeaseLost",
    "Metered",
    "Move",
    "MoveStatus",
    "Moving",
    "NotAttempted",
    "Opening",
    "OutgoingMessage",
    "Pausable",
    "Peekable",
    "PushCodec",
    "QueueStats",
    "QueueURL",
    "Range",
    "Recreating",
    "Redrivable",
    "Rejected",
    "ScheduledRequest",
    "SendOutcome",
    "SettleOutcome",
    "Settled",
    "Settlement",
    "Size",
    "StoredMessage",
    "Support",
    "SystemClock",
    "Unknown",
    "Unsupported",
    "Waitable",
    "Wanted",
]
