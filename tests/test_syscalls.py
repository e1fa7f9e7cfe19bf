"""Kill a save at each of its system calls, let each call fail, and simulate a power failure after each call.

These tests need strace and the permission to trace a process.
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
    from specnet.files import atomic

    layers = [{"type": "affine", "units": 50}, {"type": "affine", "units": 2}]
    model = specnet.build(specnet.ModelSpec(input_shape=(60,), layers=layers))
    path, warm = sys.argv[1:]
    specnet.save(warm, model)  # so that later saves import nothing
    report = mmap.mmap(-1, 4096)  # shared with the children, which write to it without a system call
    for line in sys.stdin:  # one value per line: fork, wait for the tracer, save
        pid = os.fork()
        if pid:
            os.waitpid(pid, os.WUNTRACED)
            print("pid", pid, flush=True)
            os.waitpid(pid, 0)
            print(report[:].rstrip(b"\\0").decode(), flush=True)
            report[:] = bytes(4096)
            continue
        for array in model.parameters.values():
            array.fill(float(line))
        os.kill(os.getpid(), signal.SIGSTOP)  # until the tracer is attached
        outcome = "ok"
        try:
            specnet.save(path, model)
        except specnet.CheckpointError as error:
            outcome = "refused: " + str(error)
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error}"
        report[: len(outcome.encode())] = outcome.encode()
        os._exit(0)
    """
)


class Saver:
    """A process that forks a child for each save, which runs under strace."""

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
        """Save the next value under `strace *inject`; return the child's outcome ("" if it was killed)."""
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
        """Return the system calls of the last save."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [line.split(maxsplit=1)[1] for line in lines if re.match(r"\d+ +\w+\(", line)]

    def stored(self):
        """Return the value that all weights in the file have."""
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
    """Yield (index, name, names of all calls) of each system call of a save."""
    assert saver.save() == "ok"
    assert saver.save() == "ok"  # this save replaces an existing file
    names = [re.match(r"\w+", call)[0] for call in saver.calls()]
    assert names[-1] == "exit_group"
    assert len(names) > 25
    for index, name in enumerate(names[:-1]):
        yield index, name, names
        for temporary in saver.folder.glob(".specnet-*.tmp"):
            temporary.unlink()  # the next save would remove it with additional calls, which shift the positions


def occurrence(names, index, name):
    """Return the 1-based number, among the calls of this name, of the first one at or after a position."""
    return names[:index].count(name) + 1


def test_a_save_killed_at_any_call_leaves_a_complete_file(saver):
    for index, name, names in positions(saver):
        before = saver.stored()
        outcome = saver.save(f"--inject={name}:signal=KILL:when={occurrence(names, index, name)}")
        assert outcome == "", (index, name)
        assert saver.stored() in (before, saver.value)
        if index > names.index("rename"):
            assert saver.stored() == saver.value
    assert saver.save("--inject=fsync:signal=KILL:when=1") == ""
    assert len(os.listdir(saver.folder)) == 2
    assert saver.save() == "ok"
    assert os.listdir(saver.folder) == ["m.h5"]


MEMORY = ("mmap", "munmap", "brk", "futex", "getrandom")  # the interpreter handles their failures in its own ways


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "permanently"])
def test_a_save_that_fails_at_any_call_is_reported(saver, error, lasting):
    refused = 0
    for index, name, names in positions(saver):
        if name in MEMORY:
            continue
        before = saver.stored()
        failing = {*names[index:-1], "unlink"} - set(MEMORY) if lasting else {name}
        inject = [
            f"--inject={call}:error={error}:when={occurrence(names, index, call)}{'+' if lasting else ''}"
            for call in sorted(failing)
        ]
        outcome = saver.save(*inject)
        context = (index, name, outcome)
        if outcome == "ok" or "saved, but its folder could not be synced" in outcome:
            assert saver.stored() == saver.value, context
        else:
            refused += 1
            assert re.fullmatch(r"refused: .*m\.h5: not saved: .*; a previous file is intact", outcome), context
            assert saver.stored() == before, context
        if not lasting:
            assert os.listdir(saver.folder) == ["m.h5"], context
        trace = saver.log.read_text(errors="replace")
        # A failed fsync must not be retried: the kernel may have dropped the unwritten pages.
        assert trace.count("fsync(") <= 2, context
        if re.search(r"fsync\(\d+\) += -1", trace):
            assert outcome.startswith("refused"), context
    assert refused > 8
    assert saver.save() == "ok"
    assert os.listdir(saver.folder) == ["m.h5"]


def test_a_power_failure_after_any_call_leaves_a_complete_file(saver, tmp_path):
    assert saver.save() == "ok"
    old = saver.path.read_bytes()
    assert saver.save() == "ok"
    new = saver.path.read_bytes()
    states = 0
    for disk in states_after_power_failure(saver.calls(), old, new):
        (tmp_path / "m.h5").write_bytes(disk)
        weights = specnet.load(tmp_path / "m.h5").parameters
        assert {value for array in weights.values() for value in np.unique(array)} <= {saver.value - 1, saver.value}
        states += 1
    assert states > 30


def states_after_power_failure(calls, old, new):
    """Yield the contents that the path may have after a power failure at each call: unsynced data may be lost."""
    synced, unsynced = bytearray(), []  # of the temporary file: durable bytes; (offset, length) that may be lost
    temporary = renamed = rename_synced = None
    for call in calls:
        name, arguments = re.match(r"(\w+)\((.*)", call).groups()
        if name == "openat" and ".specnet-" in arguments:
            temporary = arguments.rpartition("= ")[2]
        elif name == "pwrite64" and arguments.startswith(f"{temporary},"):
            length, offset = map(int, re.search(r", (\d+), (\d+)\) += \d+", arguments).groups())
            unsynced.append((offset, length))
        elif name == "fsync" and arguments.startswith(f"{temporary})") and not renamed:
            synced, unsynced = with_spans(synced, unsynced, new), []
        elif name == "rename":
            renamed = True
        elif name == "fsync":
            rename_synced = True
        if not rename_synced:
            yield old  # the rename may be lost
        if renamed:
            yield from partial_writes(synced, unsynced, new)


def with_spans(data, spans, source):
    """Return a copy of `data` with some spans, (offset, length), of the source written over it."""
    result = bytearray(data)
    for offset, length in spans:
        result.extend(bytes(max(0, offset + length - len(result))))
        result[offset : offset + length] = source[offset : offset + length]
    return result


def partial_writes(synced, unsynced, new):
    """Yield the bytes after no, all, all but one of the unsynced writes, and after half of one with all others."""
    yield bytes(synced)
    yield bytes(with_spans(synced, unsynced, new))
    for index, (offset, length) in enumerate(unsynced):
        others = unsynced[:index] + unsynced[index + 1 :]
        yield bytes(with_spans(synced, others, new))
        yield bytes(with_spans(synced, [*others, (offset, length // 2)], new))


def test_the_simulation_detects_a_missing_sync():
    calls = [
        'openat(AT_FDCWD, "/x/.specnet-0.tmp", O_RDWR|O_CREAT) = 3',
        "pwrite64(3, ..., 4, 0) = 4",
        'rename("/x/.specnet-0.tmp", "/x/m.h5") = 0',
        "fsync(4) = 0",
    ]
    states = set(states_after_power_failure(calls, b"OLD!", b"NEW!"))
    assert states == {b"OLD!", b"NEW!", b"", b"NE"}
    synced = [calls[0], calls[1], "fsync(3) = 0", *calls[2:]]
    assert set(states_after_power_failure(synced, b"OLD!", b"NEW!")) == {b"OLD!", b"NEW!"}
