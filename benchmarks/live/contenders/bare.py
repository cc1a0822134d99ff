"""The ceiling: one write(2) for each reader, and nothing else of a server.

python -m benchmarks.live.contenders.bare <port>
"""

import os

import uvloop

from benchmarks.live.contenders import raw

descriptors: list[int] = []


class Connection(raw.Connection):
    """It takes for granted that no socket is ever full, and that nobody leaves."""

    def data_received(self, data: bytes) -> None:
        known = self in raw.readers
        super().data_received(data)
        if self in raw.readers and not known:
            descriptors.append(self.transport.get_extra_info("socket").fileno())

    def broadcast(self, built: bytes) -> None:
        for descriptor in descriptors:
            os.write(descriptor, built)


if __name__ == "__main__":
    uvloop.run(raw.main(Connection))
