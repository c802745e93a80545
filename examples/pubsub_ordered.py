# SPDX-License-Identifier: Apache-2.0
"""What happens to an account happens in order: an ordered Pub/Sub subscription, a send that fails, and a worker.

An ordered subscription takes no copies, so that nobody but the service can count attempts: it needs a dead-letter
policy, with a limit well above the handler's ``max_attempts``, as deliveries that a stop gave back count too. Make
both with ``queuekit create "pubsub://my-project/accounts?ordering=true"``, then run
``python pubsub_ordered.py my-project``; with ``PUBSUB_EMULATOR_HOST`` set, an emulator is used. Publishers of one key
must use the service of one region: give the URL ``&endpoint=https://europe-west1-pubsub.googleapis.com``.
"""

import sys

from pydantic import BaseModel

import queuekit as qk

project = sys.argv[1] if len(sys.argv) > 1 else "my-project"
URL = f"pubsub://{project}/accounts?ordering=true"
app = qk.App()


class Booking(BaseModel):
    """What happened to an account."""

    account: str
    amount: int


@app.handler(URL, default=True, retry=qk.RetryPolicy(max_attempts=5))
def book(booking: Booking) -> None:
    """Runs for one booking of an account at a time; those of other accounts run beside it."""
    print(f"{booking.account}: {booking.amount:+}", flush=True)


def message(account: str, amount: int, note: str) -> qk.Message[Booking]:
    """A booking, to be handled after every earlier one of its account."""
    return qk.Message(Booking(account=account, amount=amount), ordering_key=account, attributes={"note": note})


def send(bookings: qk.Producer[Booking]) -> None:
    """Send some, and mend what is not accepted."""
    batch = [
        message("ada", 100, "salary"),
        message("bob", 100, "salary"),
        message("ada", -30, "rent " * 1000),  # an attribute of Pub/Sub has 1,024 bytes at most
        message("ada", -5, "tea"),
        message("bob", -5, "tea"),
    ]
    report = bookings.send_many(batch)
    left = [
        each for each, outcome in zip(batch, report.outcomes, strict=True) if not isinstance(outcome, qk.Accepted)
    ]
    # The third was refused, and the fourth not tried: it would have overtaken the third. Bob's went on.
    print(f"not sent: {[each.payload.amount for each in left]}; waiting: {sorted(bookings.paused_keys)}", flush=True)
    for key in bookings.paused_keys:
        bookings.resume_key(key)
    mended = [message(each.payload.account, each.payload.amount, each.attributes["note"][:1000]) for each in left]
    bookings.send_many(mended).raise_for_failures()


if __name__ == "__main__":
    with qk.Producer(URL, payload=Booking) as bookings:
        send(bookings)
    sys.exit(app.run())
