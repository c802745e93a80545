# SPDX-License-Identifier: Apache-2.0
"""Cloud Tasks on this host: the emulator calls a server, which runs the handlers.

Run it with ``python examples/cloud_tasks.py``; it needs ``pip install 'queuekit[cloudtasks,emulator,push]'``. In
production the URL has no endpoint, the target is your https address, and ``queuekit worker`` or a server of your own
serves ``app.asgi``.
"""

import threading
from datetime import timedelta
from typing import Any

import queuekit as qk
from queuekit.push import NoAuth
from queuekit.testing.emulators import LocalCloudTasks
from queuekit.testing.serving import Serving

app = qk.App()
sent, done = 3, threading.Semaphore(0)


def main() -> None:
    """Send three orders; one needs a second attempt."""
    with LocalCloudTasks() as emulator, emulator.client() as google:
        place = "projects/shop/locations/here"
        google.create_queue(request={"parent": place, "queue": {"name": f"{place}/queues/orders"}})

        async def serve(scope: Any, receive: Any, send: Any) -> None:
            await endpoint(scope, receive, send)

        serving = Serving(serve)
        url = f"cloudtasks://shop/here/orders?endpoint={emulator.address}&target={serving.url}/tasks"

        @app.handler(url)
        def charge(number: int) -> qk.Retry | None:
            attempt = qk.current().attempt
            if number == 2 and attempt == 1:
                print("order 2: the bank is busy", flush=True)
                return qk.Retry(delay=timedelta(seconds=1))
            print(f"order {number}: charged, attempt {attempt}", flush=True)
            done.release()
            return None

        endpoint = app.asgi(auth=NoAuth())
        with serving:
            charge.send_many(range(1, sent + 1)).raise_for_failures()
            for _ in range(sent):
                done.acquire()
        app.close()


if __name__ == "__main__":
    main()
