"""Build hostile checkpoints: set each field of each structure to extreme values, then correct the checksums."""

import random

from specnet.checkpoint.hdf5.metadata import Reader, lookup3
from specnet.checkpoint.hdf5.structure import walk_structure

# Fields of the structures as (offset, size), in bytes; from the HDF5 File Format Specification, version 3.0.
STRUCTURES = {
    "superblock": {
        "version": (8, 1), "offset size": (9, 1), "length size": (10, 1), "flags": (11, 1), "base": (12, 8),
        "extension": (20, 8), "end of file": (28, 8), "root": (36, 8),
    },
    "OHDR": {"version": (4, 1), "flags": (5, 1), "chunk size": (6, 1)},
    "FRHP": {
        "version": (4, 1), "id length": (5, 2), "filters": (7, 2), "flags": (9, 1), "largest managed": (10, 4),
        "next huge id": (14, 8), "huge index": (22, 8), "free space": (30, 8), "free space manager": (38, 8),
        "managed": (46, 8), "allocated": (54, 8), "iterator": (62, 8), "objects": (70, 8), "huge size": (78, 8),
        "huge objects": (86, 8), "tiny size": (94, 8), "tiny objects": (102, 8), "table width": (110, 2),
        "starting block": (112, 8), "largest block": (120, 8), "heap size": (128, 2), "starting rows": (130, 2),
        "root": (132, 8), "rows": (140, 2),
    },
    "FHDB": {"version": (4, 1), "heap": (5, 8), "offset": (13, 4), "first link": (21, 2), "a length": (24, 1)},
    "FHIB": {"version": (4, 1), "heap": (5, 8), "offset": (13, 4), "first child": (17, 8), "second child": (25, 8)},
    "BTHD": {
        "version": (4, 1), "type": (5, 1), "node size": (6, 4), "record size": (10, 2), "depth": (12, 2),
        "split": (14, 1), "merge": (15, 1), "root": (16, 8), "records of the root": (24, 2), "all records": (26, 8),
    },
    "BTLF": {"version": (4, 1), "type": (5, 1), "hash": (6, 4), "heap id": (10, 1), "heap offset": (11, 4),
             "heap length": (15, 2), "second hash": (17, 4)},
    "BTIN": {"version": (4, 1), "type": (5, 1), "hash": (6, 4), "heap offset": (11, 4)},
    "FSHD": {"version": (4, 1), "client": (5, 1), "section address": (54, 8), "used": (62, 8), "size": (70, 8)},
}  # fmt: skip
MESSAGES = {
    1: ("dataspace", {"version": (0, 1), "rank": (1, 1), "flags": (2, 1), "type": (3, 1), "extent": (4, 8),
                      "largest extent": (-8, 8)}),
    2: ("link info", {"version": (0, 1), "flags": (1, 1), "heap": (2, 8), "index": (10, 8)}),
    3: ("datatype", {"class": (0, 1), "bits": (1, 3), "size": (4, 4), "properties": (8, 4)}),
    5: ("fill value", {"version": (0, 1), "flags": (1, 1)}),
    6: ("link", {"version": (0, 1), "flags": (1, 1), "name length": (2, 1), "name": (3, 1), "target": (-8, 8)}),
    8: ("layout", {"version": (0, 1), "class": (1, 1), "address": (2, 8), "size": (10, 8)}),
    10: ("group info", {"version": (0, 1), "flags": (1, 1)}),
    12: ("attribute", {"version": (0, 1), "flags": (1, 1), "name size": (2, 2), "type size": (4, 2),
                       "space size": (6, 2), "character set": (8, 1), "name": (9, 1), "value": (-1, 1)}),
    16: ("continuation", {"address": (0, 8), "length": (8, 8)}),
    21: ("attribute info", {"version": (0, 1), "flags": (1, 1), "heap": (2, 8)}),
}  # fmt: skip
MESSAGE_HEADER = {"type": (0, 1), "length": (1, 2), "flags": (3, 1)}


class _Recorder(Reader):
    """Reader that records each structure with a checksum: offset, bytes before the checksum, signature."""

    def __init__(self, file, size):
        super().__init__(file, "forged", size)
        self.structures = [(0, 44, "superblock")]

    def checked(self, offset, size, signature, used=None):
        self.structures.append((offset, size - 4 if used is None else used, signature.decode()))
        return super().checked(offset, size, signature, used)

    def claim(self, offset, size):
        data = super().claim(offset, size)
        if data[:4] == b"FHDB":
            self.structures.append((offset, size, "FHDB"))
        return data


class Forge:
    """Build damaged files from a valid checkpoint."""

    def __init__(self, path):
        self.good = path.read_bytes()
        with path.open("rb") as file:
            recorder = _Recorder(file, len(self.good))
            walk_structure(recorder)
        self.structures = recorder.structures

    def repair_checksum(self, data, structure):
        """Correct the checksum of one structure in `data`, and return the bytes of the file."""
        offset, used, kind = structure
        if kind == "FHDB":
            block = bytes(data[offset : offset + 17]) + bytes(4) + bytes(data[offset + 21 : offset + used])
            data[offset + 17 : offset + 21] = lookup3(block).to_bytes(4, "little")
        else:
            checksum = lookup3(bytes(data[offset : offset + used]))
            data[offset + used : offset + used + 4] = checksum.to_bytes(4, "little")
        return bytes(data)

    def fields(self):
        """Yield (name, offset, size, structure) of each field, once per kind of structure and message."""
        yielded = set()
        for structure in self.structures:
            offset, used, kind = structure
            fields = [(f"{kind}: {name}", offset + at, size) for name, (at, size) in STRUCTURES.get(kind, {}).items()]
            if kind in ("OHDR", "OCHK"):
                fields += self._message_fields(offset, used, kind)
            for name, at, size in fields:
                if name not in yielded and at + size <= offset + used:
                    yielded.add(name)
                    yield name, at, size, structure

    def _message_fields(self, offset, used, kind):
        at = offset + (4 if kind == "OCHK" else 6 + (1 << self.good[offset + 5] % 4))
        while at + 4 <= offset + used:
            number, length = self.good[at], int.from_bytes(self.good[at + 1 : at + 3], "little")
            message, fields = MESSAGES.get(number, ("message", {}))
            for name, (start, size) in MESSAGE_HEADER.items():
                yield f"{message} message: {name}", at + start, size
            for name, (start, size) in fields.items():
                position = start if start >= 0 else length + start
                if position + size <= length:
                    yield f"{message}: {name}", at + 4 + position, size
            at += 4 + length

    def variants(self):
        """Yield (name, bytes) of one file per field and extreme value."""
        end = len(self.good)
        for name, at, size, structure in self.fields():
            original = int.from_bytes(self.good[at : at + size], "little")
            maximum = 2 ** (8 * size) - 1
            values = {
                "0": 0,
                "1": 1,
                "all bits set": maximum,
                "one more": original + 1,
                "one less": original - 1,
                "top bit flipped": original ^ (maximum + 1) // 2,
            }
            if size == 8:
                values |= {
                    "the structure's offset": structure[0],
                    "the file's size": end,
                    "after the file's end": end + 4096,
                    "2^62": 2**62,
                }
            tried = set()
            for label, value in values.items():
                if 0 <= value <= maximum and value != original and value not in tried:
                    tried.add(value)
                    data = bytearray(self.good)
                    data[at : at + size] = value.to_bytes(size, "little")
                    yield f"{name} = {label}", self.repair_checksum(data, structure)

    def mutants(self, count, seed):
        """Yield (name, bytes) of files in which one to three random bytes of a random structure are changed."""
        rng = random.Random(seed)
        for index in range(count):
            structure = rng.choice(self.structures)
            offset, used, _ = structure
            data = bytearray(self.good)
            for _ in range(rng.randint(1, 3)):
                data[offset + rng.randrange(4, used)] = rng.choice([0, 1, 2, 3, 127, 128, 255, rng.randrange(256)])
            yield f"mutant {seed}/{index}", self.repair_checksum(data, structure)
