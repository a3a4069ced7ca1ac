"""Tests disk.py as QEMU uses it: python3 disk_test.py. scripts/vm_test.go runs it."""

import os
import random
import socket
import struct
import sys
import tempfile

import disk


class Client:
    def __init__(self, path):
        self.s = socket.socket(socket.AF_UNIX)
        self.s.connect(path)
        assert disk.read(self.s, 18) == disk.HELLO + b"\0\3"
        self.s.sendall(struct.pack(">I8sII", 3, b"IHAVEOPT", 8, 0))  # structured replies: not known
        assert struct.unpack(">QIII", disk.read(self.s, 20))[2] == disk.UNSUPPORTED
        self.s.sendall(struct.pack(">8sII", b"IHAVEOPT", disk.GO, 6) + b"\0" * 6)
        assert struct.unpack(">QIII", disk.read(self.s, 20))[2:] == (disk.INFO, 12)
        self.size = struct.unpack(">HQH", disk.read(self.s, 12))[1]
        assert struct.unpack(">QIII", disk.read(self.s, 20))[2:] == (disk.ACK, 0)

    def ask(self, kind, at=0, size=0, data=b"", flags=0):
        self.s.sendall(struct.pack(">IHHQQI", disk.REQUEST_MAGIC, flags, kind, 7, at, size or len(data)) + data)
        assert struct.unpack(">IIQ", disk.read(self.s, 16)) == (disk.REPLY_MAGIC, 0, 7)
        return disk.read(self.s, size) if kind == disk.READ else b""


def main():
    rng = random.Random(1)
    with tempfile.TemporaryDirectory() as work:
        path = os.path.join(work, "s")
        d = disk.Disk(bytes(1 << 20), path)
        c = Client(path)
        assert c.size == 1 << 20
        flushed, forced, cached = b"f" * 8192, b"u" * 512, b"c" * 65536
        c.ask(disk.WRITE, 0, data=flushed)
        c.ask(disk.FLUSH)
        c.ask(disk.WRITE, 8192, data=forced, flags=disk.FUA)
        c.ask(disk.WRITE, 16384, data=cached)
        assert c.ask(disk.READ, 0, 8192) == flushed and c.ask(disk.READ, 16384, 65536) == cached
        some = set()
        for n in range(50):
            image = os.path.join(work, str(n))
            d.look(rng, image)
            left = disk.load(image)
            assert left[:8192] == flushed and left[8192:8704] == forced, "what was flushed is lost"
            some.add(left.count(b"c"))
        assert 0 in some and len(some) > 3 and all(n % disk.SECTOR == 0 for n in some), some
        bad = 0
        for n in range(20):
            d.bad_look(rng, image)
            bad += disk.load(image)[:8192] != flushed
        assert bad, "the known bad disk loses nothing"
        c.s.close()
        d.cut(random.Random(2))
        c = Client(path)
        assert c.ask(disk.READ, 0, 8192) == flushed, "what was flushed is lost"
        d.save(image)
        assert disk.load(image) == c.ask(disk.READ, 0, 1 << 20), "the disk reads other than what survived"
        c.ask(disk.WRITE, 512, data=b"x" * 512)
        c.ask(disk.FLUSH)
        c.s.sendall(struct.pack(">IHHQQI", disk.REQUEST_MAGIC, 0, disk.READ, 7, 1 << 20, 512))
        assert not c.s.recv(1), "what is behind the end is read"
    return 0


sys.exit(main())
