"""A disk for a virtual machine that forgets as real ones do when the power goes.

It speaks NBD on a Unix socket. What is written is in its cache until the machine
says flush, and cut() leaves of the cache what chance names, in any order, down to
single sectors: the promise of a disk, and nothing beyond. Standard library only.
"""

import os
import socket
import struct
import threading

SECTOR = 512
HELLO = b"NBDMAGICIHAVEOPT"
REPLY_MAGIC, REQUEST_MAGIC, OPTION_MAGIC = 0x67446698, 0x25609513, 0x3E889045565A9
FLAGS = 1 | 4 | 8  # has flags, knows flush, knows forced writes
READ, WRITE, DISCONNECT, FLUSH = range(4)
FUA = 1
EXPORT_NAME, ABORT, GO = 1, 2, 7
ACK, INFO, UNSUPPORTED = 1, 3, 1 << 31 | 1
MAX = 32 << 20  # bytes of a request


class Disk:
    """One disk, one machine at a time."""

    def __init__(self, content, path):
        self.stable = bytearray(content)  # what survives
        self.live = bytearray(content)  # what the machine reads
        self.cache = []  # (offset, bytes) since the last flush
        self.began, self.written = bytes(content), []  # at the last cut; all since then, flushed or not
        self.lock = threading.Lock()
        self.path = path
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(1)
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, rng):
        """The power goes. Returns how many of how many cached sectors are lost."""
        with self.lock:
            self.stable, lost, total = _left(rng, self.stable, self.cache)
            self.cache = []
            self.live[:] = self.stable
            self.began, self.written = bytes(self.stable), []
            return lost, total

    def look(self, rng, path):
        """Writes into a file what a cut would leave now; the machine goes on."""
        with self.lock:
            left, lost, total = _left(rng, self.stable, self.cache)
        with open(path, "wb") as f:
            f.write(left)
        return lost, total

    def bad_look(self, rng, path):
        """look at a disk that says flushed and is not: the known bad one."""
        with self.lock:
            left, lost, total = _left(rng, self.began, self.written)
        with open(path, "wb") as f:
            f.write(left)
        return lost, total

    def save(self, path):
        with self.lock, open(path, "wb") as f:
            f.write(self.stable)

    def _accept(self):
        while True:
            conn, _ = self.listener.accept()
            try:
                self._negotiate(conn)
                self._serve(conn)
            except (OSError, EOFError):
                pass  # the machine is gone
            finally:
                conn.close()

    def _negotiate(self, conn):
        conn.sendall(HELLO + struct.pack(">H", 3))  # newstyle, no zeroes
        read(conn, 4)
        while True:
            magic, option, size = struct.unpack(">8sII", read(conn, 16))
            if magic != b"IHAVEOPT" or size > 1 << 16:
                raise EOFError
            read(conn, size)

            def reply(kind, data=b"", option=option):
                conn.sendall(struct.pack(">QIII", OPTION_MAGIC, option, kind, len(data)) + data)

            if option == GO:
                reply(INFO, struct.pack(">HQH", 0, len(self.live), FLAGS))
                reply(ACK)
                return
            if option == EXPORT_NAME:
                conn.sendall(struct.pack(">QH", len(self.live), FLAGS))
                return
            if option == ABORT:
                reply(ACK)
                raise EOFError
            reply(UNSUPPORTED)

    def _serve(self, conn):
        while True:
            magic, flags, kind, handle, at, size = struct.unpack(">IHHQQI", read(conn, 28))
            if magic != REQUEST_MAGIC or kind == DISCONNECT or size > MAX or at + size > len(self.live):
                return
            data = read(conn, size) if kind == WRITE else b""
            answer = b""
            with self.lock:
                if kind == READ:
                    answer = bytes(self.live[at : at + size])
                elif kind == WRITE:
                    self.live[at : at + size] = data
                    self.written.append((at, data))
                    if flags & FUA:
                        self.stable[at : at + size] = data
                        self.cache = [c for c in self.cache if c[0] >= at + size or c[0] + len(c[1]) <= at]
                    else:
                        self.cache.append((at, data))
                elif kind == FLUSH:
                    for o, d in self.cache:
                        self.stable[o : o + len(d)] = d
                    self.cache = []
            conn.sendall(struct.pack(">IIQ", REPLY_MAGIC, 0, handle) + answer)


def _left(rng, stable, cache):
    """What a cut leaves of a disk, how many sectors are lost, and of how many."""
    left, keep = bytearray(stable), rng.choice([0.0, 0.5, 0.9, rng.random()])
    lost = total = 0
    for at, data in cache:
        for i in range(0, len(data), SECTOR):
            total += 1
            if rng.random() < keep:
                left[at + i : at + i + SECTOR] = data[i : i + SECTOR]
            else:
                lost += 1
    return left, lost, total


def read(conn, n):
    parts = bytearray()
    while len(parts) < n:
        got = conn.recv(min(n - len(parts), 1 << 20))
        if not got:
            raise EOFError
        parts += got
    return bytes(parts)


def load(path):
    with open(path, "rb") as f:
        return f.read()


def remove(path):
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
