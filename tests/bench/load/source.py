"""The clients that push to a server: each writes blobs of joined, masked frames that were built once.

    python load/source.py '{"port": 8765, "peers": 1, "events": 100000, "size": 256, "cert": null}'

`events` is what all of them send together. It prints its figures when everything is written, and hangs up
when its standard input ends.
"""

from __future__ import annotations

import json
import sys
import time

from load.audience import SETTLE, Audience, tell


def main() -> None:
    job = json.loads(sys.argv[1])
    audience = Audience(job["port"], job["peers"], job["size"], stamped=False, tls=job["cert"] is not None)
    tell({"connected": True})
    time.sleep(SETTLE)
    start, cpu = time.time(), time.process_time()
    for peer in audience.peers:
        audience.send(peer, job["size"], job["events"] // job["peers"])
    while any(peer.unwritten and peer.open for peer in audience.peers):
        audience.turn(1.0)
    tell({"cpu": time.process_time() - cpu, "start": start, "done": time.time()})
    sys.stdin.read()


if __name__ == "__main__":
    main()
