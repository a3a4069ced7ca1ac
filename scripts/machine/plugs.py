"""Pulls the plug of the machine of scripts/vm in the middle of updates.

    plugs.py WORK CUTS SEED QEMU…

WORK holds root.img, a board with Covey on it, and data.img, an empty file system for
its state; QEMU… starts the machine but for disks and network. A controller and the
house's broker run here and are never cut. Each cut kills QEMU at a random moment:
what the machine's kernel had not written is gone with it, and of what it had written
to the disk with the agent's state since the last flush (disk.py), chance says what is
lost. The rest of the machine is on a disk that keeps what it was given. On the way to
each cut there are LOOKS moments at which it is looked at what a cut would have left.

What is left is looked at each time: its file system is whole, so is the state, each
model is what its name says, the controller has not heard of more than is there, and
an agent that starts from it here opens a model of the two that may run. After a cut
the board itself starts from it: the update comes to its good end, and results of its
model come. At the end, no number of a result may be missing that nobody said is lost.
A finding is a line on standard output, RESULT as in machine/guest; progress goes to
standard error.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import wave

import disk

HAPPY = ["QUEUED", "DOWNLOADING", "VERIFYING", "STAGED", "SELF_TESTING", "SWITCHING", "PROBATION", "SUCCEEDED"]
BIN, MODELS = os.environ["COVEY_BIN"], os.environ["COVEY_MODELS"]
HOST = "10.0.2.2"  # this machine, seen from the board
LOOKS = 9
PATIENCE = 240  # seconds; emulated machines are slow


class Failed(Exception):
    pass


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class World:
    """The controller, the house's broker, and one board."""

    def __init__(self, work, qemu):
        self.work, self.qemu = work, qemu
        self.fleet, self.results = work + "/fleet", work + "/results.jsonl"
        self.children, self.machine, self.boots = [], None, 0
        self.api, self.mqtt, self.house = free_port(), free_port(), free_port()
        self.offset = 0  # of the results that were looked at
        self.took = None  # seconds of an update that nobody disturbs

    def path(self, name):
        return os.path.join(self.work, name)

    def child(self, name, *args):
        log = open(self.path(name + ".log"), "wb")
        self.children.append(subprocess.Popen(args, stdout=log, stderr=subprocess.STDOUT))

    def covey(self, *args):
        done = subprocess.run([BIN + "/covey", "--data", self.fleet, "--json", *args], capture_output=True, text=True)
        if done.returncode:
            raise Failed(f"covey {' '.join(args)}: {done.stderr.strip()}")
        return json.loads(done.stdout) if done.stdout.strip() else None

    def await_(self, what, seconds, ok):
        end = time.monotonic() + seconds
        while True:
            got, why = None, ""
            try:
                got = ok()
            except Failed as e:
                why = f": {e}"
            if got:
                return got
            if time.monotonic() > end:
                raise Failed(f"{what}: not within {seconds} s{why}")
            time.sleep(0.2)

    def start_house(self):
        with open(self.path("mosquitto.conf"), "w") as f:
            f.write(f"listener {self.house} 127.0.0.1\nallow_anonymous true\npersistence false\nmax_queued_messages 0\n")
        self.child("mosquitto", "mosquitto", "-c", self.path("mosquitto.conf"))
        self.child("fleet", BIN + "/covey-fleet", "serve", "--data", self.fleet, "--listen", f"127.0.0.1:{self.api}",
                   "--mqtt", f"127.0.0.1:{self.mqtt}", "--host", HOST, "--host", "127.0.0.1")
        self.await_("the controller answers", 30, lambda: self.covey("device", "list") is not None)
        out = open(self.results, "wb")
        self.children.append(subprocess.Popen(["mosquitto_sub", "-p", str(self.house), "-i", "ledger", "-c", "-q", "1",
                                               "-t", "covey/home/porch/cam/result"], stdout=out))

    def push(self, n, rng):
        """A release unlike all others: a small model with a megabyte behind it."""
        model = disk.load(MODELS + "/audio/okay_nabu.tflite") + rng.randbytes(1 << 20)
        path = self.path(f"{n}.tflite")
        with open(path, "wb") as f:
            f.write(model)
        pushed = self.covey("release", "push", path, "--name", "word", "--version", f"1.0.{n}")
        digest = pushed.get("digest") or pushed.get("Digest")
        return {"version": f"1.0.{n}", "digest": digest, "sha": hashlib.sha256(model).hexdigest()}

    def payload(self):
        """What the board gets at its first start here: sound, its configuration, a token."""
        folder = self.path("join")
        os.makedirs(folder)
        with wave.open(folder + "/tone.wav", "wb") as w:
            w.setnchannels(3), w.setsampwidth(2), w.setframerate(200)
            w.writeframes(b"".join(struct.pack("<3h", *[i * (c + 1) % 20000 for c in range(3)]) for i in range(4000)))
        with open(folder + "/agent.yaml", "w") as f:
            f.write(f'device: porch\nhome: {{broker: "mqtt://{HOST}:{self.house}"}}\n'
                    f"fleet: {{url: mqtts://{HOST}:{self.mqtt}, transfer: mqtt}}\npipelines:\n  cam:\n    accelerator: xnnpack\n"
                    "    source: {type: wav, path: tone.wav, rate: 200, loop: true, live: true, window: 40, hop: 40}\n")
        token = self.covey("device", "token")
        with open(folder + "/token", "w") as f:
            f.write(token["token"])
        with open(folder + "/port", "w") as f:
            f.write(str(self.api))
        subprocess.run(["tar", "-cf", self.path("join.tar"), "-C", folder, "."], check=True)

    def boot(self):
        self.boots += 1
        name = self.path("plugs")
        self.started = time.monotonic()
        self.machine = subprocess.Popen(
            [*self.qemu, "-serial", f"file:{name}.console", "-serial", f"file:{name}.report",
             "-drive", f"file={self.path('root.img')},if=virtio,format=raw,cache=writeback",
             "-drive", f"file=nbd+unix:///?socket={self.path('nbd')},if=virtio,format=raw,cache=writeback",
             "-drive", f"file={self.path('join.tar')},if=virtio,format=raw,readonly=on",
             "-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n"],
            stdin=subprocess.DEVNULL, stdout=open(name + ".qemu", "wb"), stderr=subprocess.STDOUT)

    def kill(self):
        self.machine.kill()
        self.machine.wait()

    def leave(self):
        for p in [self.machine, *self.children]:
            if p and p.poll() is None:
                p.kill()
                p.wait()

    def state(self, rollout):
        executions = self.covey("rollout", "show", rollout).get("executions") or [{}]
        return executions[0].get("state") or executions[0].get("State") or "QUEUED"

    def ask(self, release):
        return self.covey("set", "porch", f"cam=word@{release['version']}", "--yes")["id"]

    def finish(self, rollout, release):
        """The update comes to its good end, and results of its model come."""

        def ended():
            if self.machine.poll() is not None:
                raise SystemExit(f"the machine ended by itself: {disk.load(self.path('plugs.qemu')).decode()}")
            s = self.state(rollout)
            return s if s not in HAPPY[:-1] and s != "QUEUED" else None

        end = self.await_(f"update to {release['version']} ends", PATIENCE, ended)
        if end != "SUCCEEDED":
            raise Failed(f"update to {release['version']} ended {end}")
        self.await_(f"results of {release['version']}", 60, lambda: self.hears(release["sha"][:16]))

    def hears(self, sha):
        with open(self.results, "rb") as f:
            f.seek(self.offset)
            new = f.read()
        return f'"sha":"{sha}"'.encode() in new

    def mark(self):
        self.offset = os.path.getsize(self.results)


def examine(world, image, heard, release, before):
    """Looks at a disk as a cut has left it, and starts an agent from it; returns how far it
    says that the update is. heard is what the controller had heard of it."""
    tree = world.path("examined")
    checked = subprocess.run(["e2fsck", "-p", image], capture_output=True, text=True)
    if checked.returncode >= 4:
        raise Failed(f"the file system is damaged: {checked.stdout}{checked.stderr}")
    shutil.rmtree(tree, ignore_errors=True)
    os.makedirs(tree)
    subprocess.run(["debugfs", "-R", f"rdump / {tree}", image], capture_output=True, check=True)
    blobs = os.path.join(tree, "blobs")
    for name in os.listdir(blobs) if os.path.isdir(blobs) else []:
        if len(name) == 64 and hashlib.sha256(disk.load(os.path.join(blobs, name))).hexdigest() != name:
            raise Failed(f"blob {name[:16]} is not what its name says")
    state = ""
    for name in ("state.json", "state.json.old"):
        path = os.path.join(tree, name)
        if os.path.exists(path):
            try:
                execution = (json.loads(disk.load(path))["state"].get("pipelines") or {}).get("cam", {}).get("exec")
            except (ValueError, KeyError) as e:
                raise Failed(f"{name} is damaged: {e}")
            if execution and execution["want"]["release"] == release["digest"]:
                state = execution["state"]
            break
    if heard in HAPPY and HAPPY.index(heard) > max(0, HAPPY.index(state) if state in HAPPY else 0):
        raise Failed(f"the controller heard {heard}, on the disk is {state or 'nothing'}")
    starts(world, tree, [release["sha"][:16], before["sha"][:16]])
    return state


def starts(world, data, models):
    """An agent starts from a data folder, without any link, and opens one of the models."""
    config = world.path("join/examined.yaml")
    with open(world.path("join/agent.yaml")) as f:
        lines = [l for l in f if not l.startswith(("home:", "fleet:"))]
    with open(config, "w") as f:
        f.write(f"data: {data}\nfleet: {{url: 'mqtts://127.0.0.1:1'}}\nhome: {{broker: 'mqtt://127.0.0.1:1'}}\n" + "".join(lines))
    with open(world.path("examined.log"), "wb") as log:
        agent = subprocess.Popen([BIN + "/covey-agent", "run", "--config", config], stdout=log, stderr=log)
    try:
        def opened():
            said = disk.load(world.path("examined.log")).decode(errors="replace")
            if agent.poll() is not None:
                raise SystemExit
            return any('"message":"model open"' in l and any(f'"sha":"{m}"' in l for m in models) for l in said.splitlines())

        world.await_("an agent that starts from what is left opens its model", 60, opened)
        agent.terminate()
        if agent.wait(60) != 0:
            raise Failed("an agent that started from what is left does not end well")
    except (SystemExit, Failed, subprocess.TimeoutExpired) as e:
        raise Failed(f"{e}: " + disk.load(world.path("examined.log")).decode(errors="replace")[-2000:])
    finally:
        agent.kill()
        agent.wait()


def gaps(path):
    """Numbers that are missing and not said to be lost, how many came, how many are lost."""
    seen, lost = set(), set()
    for line in open(path):
        m = json.loads(line)
        if "lost" in m:
            lost.update(range(m["lost"]["from"], m["lost"]["to"] + 1))
        else:
            seen.add(m["seq"])
    top = max(seen | lost, default=0)
    return [n for n in range(1, top + 1) if n not in seen and n not in lost], len(seen), len(lost - seen)


def result(what, value, limit="", verdict="-"):
    print("RESULT", "plugs", what, " ".join(str(value).split()), limit, verdict, sep="\t", flush=True)


def pull(world, the_disk, cuts, rng, t):
    """All cuts, counted in t."""
    releases = [world.push(n, rng) for n in range(1, 6)]  # more than a board keeps: each is fetched anew
    world.boot()
    world.await_("the board joins", PATIENCE, lambda: any(d["state"] == "online" for d in world.covey("device", "list") or []))
    release = releases[0]
    rollout = world.await_("the board is known", 60, lambda: world.ask(release))
    began = time.monotonic()
    world.finish(rollout, release)
    world.took = time.monotonic() - began
    print(f"plugs: an undisturbed update takes {world.took:.0f} s", file=sys.stderr)
    while t.cuts < cuts:
        before, release = release, releases[(t.cuts + 1) % len(releases)]
        world.mark()
        rollout = world.ask(release)
        # In the middle of the update; one of six once more, while the board starts.
        for again in range(2 if rng.random() < 1 / 6 and t.cuts + 1 < cuts else 1):
            left, until = [], time.monotonic() + rng.uniform(0.1, 1.1) * world.took
            while len(left) < LOOKS and time.monotonic() < until:
                time.sleep(max(0, min(rng.expovariate(LOOKS / world.took), until - time.monotonic())))
                heard, image = world.state(rollout), world.path(f"look{len(left)}.img")
                left.append((image, heard, *the_disk.look(rng, image)))
            time.sleep(max(0, until - time.monotonic()))
            world.kill()
            time.sleep(0.3)  # for what the controller has on its way in
            the_disk.bad_look(rng, world.path("bad.img"))
            n, of = the_disk.cut(rng)
            the_disk.save(world.path("cut.img"))
            t.cuts += 1
            for image, heard, n, of in [*left, (world.path("cut.img"), world.state(rollout), n, of)]:
                state = examine(world, image, heard, release, before) or "before"
                t.count(state + (", while it starts" if again else ""), n, of)
            try:
                examine(world, world.path("bad.img"), world.state(rollout), release, before)
            except Failed:
                t.noticed += 1
            print(f"plugs: {t.cuts} of {cuts}, {t.looks} looks: {t}", file=sys.stderr)
            world.boot()
        world.finish(rollout, release)
        t.ends.append(time.monotonic() - world.started)
        missing, _, _ = gaps(world.results)
        if missing:
            raise Failed(f"{len(missing)} numbers missing, and nobody said so: {missing[:10]}")


class Tally:
    """What there was."""

    def __init__(self):
        self.cuts = self.looks = self.lost = self.cached = self.noticed = 0
        self.struck, self.ends = {}, []

    def count(self, state, lost, cached):
        self.looks += 1
        self.struck[state] = self.struck.get(state, 0) + 1
        self.lost += lost
        self.cached += cached

    def __str__(self):
        return ", ".join(f"{k}: {v}" for k, v in sorted(self.struck.items()))


def main():
    work, cuts, seed, qemu = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started here ends, too
    rng = random.Random(seed)
    print(f"plugs: seed {seed}", file=sys.stderr)
    world = World(work, qemu)
    t, failed = Tally(), None
    try:
        world.start_house()
        world.payload()
        the_disk = disk.Disk(disk.load(world.path("data.img")), world.path("nbd"))
        pull(world, the_disk, cuts, rng, t)
    except Failed as e:
        failed = str(e)
    finally:
        world.leave()
    if failed:
        result("a cut did harm", f"{failed} (seed {seed})", "", "FAIL")
    result("cuts that the board came back from", t.cuts, cuts, "ok" if t.cuts >= cuts and not failed else "FAIL")
    result("states that a cut left, or would have left, and an agent started from", t.looks)
    result("where they struck", t)
    result("sectors in the disk's cache", f"{t.cached}, of which lost {t.lost}")
    if t.cuts > 1:
        result("a disk that loses what was flushed, the known bad one, is noticed", f"{t.noticed} of {t.cuts}", "1", "ok" if t.noticed else "FAIL")
    if t.ends:
        result("from power to the end of the update, median", f"{sorted(t.ends)[len(t.ends) // 2]:.0f} s")
    missing, came, said = gaps(world.results)
    result("numbers of results missing, and nobody said so", f"{len(missing)} ({came} came, {said} said to be lost)", "0", "FAIL" if missing else "ok")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
