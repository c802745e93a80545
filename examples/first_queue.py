# SPDX-License-Identifier: Apache-2.0
"""A queue in its smallest form: send typed messages, receive them, settle each one.

Run it with ``python examples/first_queue.py``. Another URL, such as ``sqlite:///jobs.db?queue=emails``, makes the
queue durable and shared between processes; nothing else changes.
"""

from datetime import timedelta

from pydantic import BaseModel

import queuekit as qk

URL = "memory://emails"


class Email(BaseModel):
    """What travels."""

    to: str
    subject: str


def main() -> None:
    """Send three messages, and handle them."""
    with qk.Producer[Email](URL, payload=Email) as emails:
        emails.send(Email(to="ada@example.com", subject="welcome"))
        report = emails.send_many([Email(to="alan@example.com", subject=subject) for subject in ("one", "two")])
        report.raise_for_failures()

    with qk.Consumer[Email](URL, payload=Email) as consumer:
        while (delivery := consumer.receive(timeout=timedelta(seconds=1))) is not None:
            print(f"to {delivery.payload.to}: {delivery.payload.subject}")
            delivery.ack()


if __name__ == "__main__":
    main()
