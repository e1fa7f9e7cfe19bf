"""Every system call of a save, in order: killed there, or failing there; and the power going off there.

Needs strace, and the right to trace a process.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import specnet

SERVER = textwrap.dedent(
    """
    import mmap, os, signal, sys
    import numpy as np, specnet
    from specnet.checkpoint import write
    from specnet.files import atomic as durable

    layers = [{"type": "affine", "units": 50}, {"type": "affine", "units": 2}]
    model = specnet.build(specnet.ModelSpec(input_shape=(60,), layers=layers))
    path, warm = sys.argv[1:]
    specnet.save(warm, model)  # imports what it needs
    told = mmap.mmap(-1, 4096)  # shared with the children: telling takes no system call
    for line in sys.stdin:  # one value a line: fork, wait for the tracer, save
        pid = os.fork()
        if pid:
            os.waitpid(pid, os.WUNTRACED)
            print("pid", pid, flush=True)
            os.waitpid(pid, 0)
            print(told[:].rstrip(b"\\0").decode(), flush=True)
            told[:] = bytes(4096)
            continue
        for array in model.parameters.values():
            array.fill(float(line))
        os.kill(os.getpid(), signal.SIGSTOP)  # until the tracer is there
        said = "ok"
        try:
            specnet.save(path, model)
        except specnet.CheckpointError as error:
            said = "refused: " + str(error)
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        told[: len(said.encode())] = said.encode()
        os._exit(0)
    """
)


class Saver:
    """A process that saves in children of its own, each under strace."""

    def __init__(self, folder):
        self.folder = folder / "target"
        self.folder.mkdir()
        self.path = self.folder / "m.h5"
        self.log = folder / "trace"
        command = [sys.executable, "-c", SERVER, self.path, folder / "warm.h5"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.value = 0.0

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def save(self, *inject):
        """Save the next value under `strace inject...`; give what the child said ("" when it died)."""
        self.value += 1
        print(self.value, file=self.process.stdin, flush=True)
        pid = self.process.stdout.readline().split()[1]
        command = ["strace", "-f", "-s", "0", "-o", self.log, "-p", pid, *inject]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
            attached = tracer.stderr.readline()
            if "attached" not in attached:
                os.kill(int(pid), 9)
                tracer.kill()
                self.process.stdout.readline()
                pytest.skip(f"strace cannot trace here: {attached.strip()}")
            os.kill(int(pid), signal.SIGCONT)
            return self.process.stdout.readline().strip()

    def calls(self):
        """The system calls of the last save."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [line.split(maxsplit=1)[1] for line in lines if re.match(r"\d+ +\w+\(", line)]

    def stored(self):
        """The value that the path holds, whole."""
        weights = specnet.load(self.path).parameters
        values = {value for array in weights.values() for value in np.unique(array)}
        assert len(values) == 1
        return values.pop()


@pytest.fixture(scope="module")
def saver(tmp_path_factory):
    if not shutil.which("strace"):
        pytest.skip("strace is not installed")
    saver = Saver(tmp_path_factory.mktemp("saver"))
    yield saver
    saver.close()


def positions(saver):
    """Every system call of a save: its position, its name, and the names of all."""
    assert saver.save() == "ok"
    assert saver.save() == "ok"  # over a file that is there
    names = [re.match(r"\w+", call)[0] for call in saver.calls()]
    assert names[-1] == "exit_group"
    assert len(names) > 25
    for index, name in enumerate(names[:-1]):
        yield index, name, names
        for left in saver.folder.glob(".specnet-*.tmp"):
            left.unlink()  # the next save would clear it, by calls that are not in the list


def occurrence(names, index, name):
    """Which call of this name is the first at or after a position."""
    return names[:index].count(name) + 1


def test_killed_at_every_call(saver):
    for index, name, names in positions(saver):
        before = saver.stored()
        said = saver.save(f"--inject={name}:signal=KILL:when={occurrence(names, index, name)}")
        assert said == "", (index, name)
        assert saver.stored() in (before, saver.value)
        if index > names.index("rename"):
            assert saver.stored() == saver.value
    assert saver.save("--inject=fsync:signal=KILL:when=1") == ""
    assert len(os.listdir(saver.folder)) == 2
    assert saver.save() == "ok"
    assert os.listdir(saver.folder) == ["m.h5"]


MEMORY = ("mmap", "munmap", "brk", "futex", "getrandom")  # these fail in other ways


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "for ever"])
def test_failing_at_every_call(saver, error, lasting):
    refused = 0
    for index, name, names in positions(saver):
        if name in MEMORY:
            continue
        before = saver.stored()
        failing = {*names[index:-1], "unlink"} - set(MEMORY) if lasting else {name}
        inject = [
            f"--inject={each}:error={error}:when={occurrence(names, index, each)}{'+' if lasting else ''}"
            for each in sorted(failing)
        ]
        said = saver.save(*inject)
        where = (index, name, said)
        if said == "ok" or "saved, but its folder could not be synced" in said:
            assert saver.stored() == saver.value, where
        else:
            refused += 1
            assert re.fullmatch(r"refused: .*m\.h5: not saved: .*; what was there before is intact", said), where
            assert saver.stored() == before, where
        if not lasting:
            assert os.listdir(saver.folder) == ["m.h5"], where
        trace = saver.log.read_text(errors="replace")
        assert trace.count("fsync(") <= 2, (
            where
        )  # one that failed is not tried again: the kernel has forgotten the pages
        if re.search(r"fsync\(\d+\) += -1", trace):
            assert said.startswith("refused"), where
    assert refused > 8
    assert saver.save() == "ok"
    assert os.listdir(saver.folder) == ["m.h5"]


def test_the_power_goes_off_anywhere(saver, tmp_path):
    assert saver.save() == "ok"
    old = saver.path.read_bytes()
    assert saver.save() == "ok"
    new = saver.path.read_bytes()
    states = 0
    for disk in disks(saver.calls(), old, new):
        (tmp_path / "m.h5").write_bytes(disk)
        weights = specnet.load(tmp_path / "m.h5").parameters
        assert {value for array in weights.values() for value in np.unique(array)} <= {saver.value - 1, saver.value}
        states += 1
    assert states > 30


def disks(calls, old, new):
    """What the path may hold when the power goes off after each call: unsynced data dropped, torn or cut short."""
    synced, unsynced = bytearray(), []  # of the temporary: what is safe, what may be lost (offset, length)
    temporary = renamed = safe = None
    for call in calls:
        name, arguments = re.match(r"(\w+)\((.*)", call).groups()
        if name == "openat" and ".specnet-" in arguments:
            temporary = arguments.rpartition("= ")[2]
        elif name == "pwrite64" and arguments.startswith(f"{temporary},"):
            length, offset = map(int, re.search(r", (\d+), (\d+)\) += \d+", arguments).groups())
            unsynced.append((offset, length))
        elif name == "fsync" and arguments.startswith(f"{temporary})") and not renamed:
            synced, unsynced = written(synced, unsynced, new), []
        elif name == "rename":
            renamed = True
        elif name == "fsync":
            safe = True
        if not safe:
            yield old  # the name may still be the old file's
        if renamed:
            yield from torn(synced, unsynced, new)


def written(data, spans, source):
    """A file with some spans of the source written over it."""
    made = bytearray(data)
    for offset, length in spans:
        made.extend(bytes(max(0, offset + length - len(made))))
        made[offset : offset + length] = source[offset : offset + length]
    return made


def torn(synced, unsynced, new):
    """The states in which unsynced writes may have reached the disk: none, all, all but one, the first half of one."""
    yield bytes(synced)
    yield bytes(written(synced, unsynced, new))
    for index, (offset, length) in enumerate(unsynced):
        others = unsynced[:index] + unsynced[index + 1 :]
        yield bytes(written(synced, others, new))
        yield bytes(written(synced, [*others, (offset, length // 2)], new))


def test_the_simulation_would_find_a_missing_sync():
    calls = [
        'openat(AT_FDCWD, "/x/.specnet-0.tmp", O_RDWR|O_CREAT) = 3',
        "pwrite64(3, ..., 4, 0) = 4",
        'rename("/x/.specnet-0.tmp", "/x/m.h5") = 0',
        "fsync(4) = 0",
    ]
    found = set(disks(calls, b"OLD!", b"NEW!"))
    assert found == {b"OLD!", b"NEW!", b"", b"NE"}
    synced = [calls[0], calls[1], "fsync(3) = 0", *calls[2:]]
    assert set(disks(synced, b"OLD!", b"NEW!")) == {b"OLD!", b"NEW!"}
