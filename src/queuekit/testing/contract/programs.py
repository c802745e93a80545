# SPDX-License-Identifier: Apache-2.0
"""Programs that cases run in processes of their own. Where messages are pushed they receive none themselves."""

from __future__ import annotations

RUN = """
def run(app):
    return app.run()
"""
"""How a program works an app, unless its harness has another way."""

KEYS = """
import sys

def key(name):
    return {"ordering_key": name} if sys.argv[-1] == "keyed" else {}
"""

LEAVES_WITHOUT_CLOSE = """
from queuekit._portable.consumer import Consumer
from queuekit._portable.producer import Producer
url = sys.stdin.read()
producer = Producer(url)
producer.send_soon(b"soon", **key("soon"))
producer.send(b"now", **key("now"))
if "pushed" in sys.argv:
    print("now", flush=True)
else:
    consumer = Consumer(url, lease=__import__("datetime").timedelta(seconds=float(sys.argv[1])))
    print(consumer.receive(timeout=10).body.decode(), flush=True)
"""

WORKS_UNTIL_SIGTERM = """
import os, signal, threading
from datetime import timedelta
from queuekit._portable.app import App
from queuekit._portable.context import current
from queuekit._portable.producer import Producer
from queuekit._values.message import Message
url, requests = sys.stdin.read(), int(sys.argv[1])
app = App(drain=timedelta(seconds=15))
leave = threading.Event()

@app.handler(url, concurrency=1)
def handle(body: bytes) -> None:
    if current().draining:
        return
    print("begun", body.decode(), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    while not current().draining:
        leave.wait(0.01)
    if requests == 2:
        leave.wait(0.3)
        os.kill(os.getpid(), signal.SIGTERM)
        leave.wait(15)
    print("handled", body.decode(), flush=True)

with Producer(url) as producer:
    producer.send_many([Message(b"1", **key("1")), Message(b"2", **key("2"))]).raise_for_failures()
code = run(app)
print("ended", flush=True)
os._exit(code)
"""

FORKS = """
import os
from datetime import timedelta
from queuekit._portable.consumer import Consumer
from queuekit._portable.producer import Producer
from queuekit._values.errors import QueueKitError
from queuekit._values.message import Message
receives = "pushed" not in sys.argv
producer = Producer(sys.argv[1])
consumer = Consumer(sys.argv[1], lease=timedelta(seconds=60)) if receives else None
producer.send_many([Message(b"held", **key("a")), Message(b"waiting", **key("b"))]).raise_for_failures()
held = consumer.receive(timeout=10) if receives else None
child = os.fork()
if child == 0:
    try:
        producer.send(b"child", **key("c"))
        producer.send_soon(b"soon", **key("d")).result(10)
        if receives:
            got = consumer.receive(timeout=10)
            got.release()
            got.settled(timeout=10)
            consumer.close()
        producer.close()
    except QueueKitError as error:
        print("refused", error, flush=True)
    os._exit(0)
pid, status = os.waitpid(child, 0)
if receives:
    held.ack()
    held.settled(timeout=10)
producer.send(b"parent", **key("e"))
if receives:
    consumer.close()
producer.close()
print("unharmed", status, flush=True)
"""
