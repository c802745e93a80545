# SPDX-License-Identifier: Apache-2.0
"""Loads click events into a SQLite table, up to a hundred in one transaction.

``python examples/batch_events.py TABLE_FILE`` sends some events first, one of them with a mistake, and then works
until Ctrl-C. Messages wait in ``queuekit.db`` unless ``QUEUEKIT_URL`` says otherwise. A second process can help:
``queuekit worker examples.batch_events:app``.
"""

import logging
import os
import sqlite3
import sys
from datetime import timedelta

from pydantic import BaseModel

import queuekit as qk

app = qk.App()
logger = logging.getLogger("clicks")
TABLE = "CREATE TABLE IF NOT EXISTS clicks (id INTEGER PRIMARY KEY, page TEXT NOT NULL)"


class Click(BaseModel):
    """Somebody looked at a page."""

    id: int
    page: str


@app.batch_handler("clicks", max_size=100, max_wait=timedelta(seconds=0.5), on_error="bisect")
def load(batch: qk.Batch[Click]) -> None:
    """One transaction for the whole batch. When it fails, it is tried again with each half."""
    for entry in batch:
        if not entry.payload.page:
            entry.dead_letter("a click on no page")
    rows = [(click.id, click.page) for click in batch.payloads if click.page]
    table = sqlite3.connect(os.environ.get("CLICKS", "clicks.db"))
    try:
        with table:
            table.execute(TABLE)
            # A click that comes twice is stored once, so that the handler is safe to run again.
            table.executemany("INSERT OR IGNORE INTO clicks VALUES (?, ?)", rows)
    finally:
        table.close()
    logger.info("stored %d clicks", len(rows))


def main() -> None:
    """Send some clicks, then work until told to stop."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if len(sys.argv) > 1:
        os.environ["CLICKS"] = sys.argv[1]
    clicks = [Click(id=number, page=f"/page/{number % 7}") for number in range(250)]
    load.send_many([*clicks, Click(id=250, page="")]).raise_for_failures()
    logger.info("%d clicks sent", len(clicks) + 1)
    with app:
        app.run()


if __name__ == "__main__":
    main()
