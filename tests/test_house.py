"""The house: public names, what importing costs, which way imports run."""

import ast
import pathlib
import subprocess

import specnet
import specnet.layers

PUBLIC = {
    "CheckpointCorruptError",
    "CheckpointError",
    "CheckpointMismatchError",
    "CheckpointUnsupportedError",
    "DataError",
    "Layer",
    "LayerSpec",
    "Model",
    "ModelSpec",
    "Problem",
    "ShapeError",
    "SpecError",
    "SpecnetError",
    "__version__",
    "build",
    "fit",
    "load",
    "load_parameters",
    "load_spec",
    "register_layer",
    "save",
    "train",
}
ORDER = [
    "errors",
    "launcher",
    "jsontext",
    "parameters",
    "kernels",
    "world",
    "mpi",
    "randomness",
    "layer",
    "differences",
    "plan",
    "chain",
    "composite",
    "model",
    "wording",
    "migrations",
    "validation",
    "tagged",
    "initializers",
    "layerspec",
    "registry",
    "layertree",
    "layerchecks",
    "layers",
    "listing",
    "spec",
    "checkpoint",
    "training",
    "schema",
    "interop",
    "inspection",
    "testing",
    "cli",
]


def test_the_public_names_are_exactly_these():
    assert set(specnet.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(specnet, name) is not None
    assert set(dir(specnet)) >= PUBLIC
    assert not hasattr(specnet, "nonsense")
    assert not hasattr(specnet.layers, "Nonsense")


def test_the_tree_of_errors():
    assert issubclass(specnet.SpecnetError, ValueError)
    for error in (specnet.SpecError, specnet.ShapeError, specnet.DataError, specnet.CheckpointError):
        assert issubclass(error, specnet.SpecnetError)
    for name in ("Corrupt", "Mismatch", "Unsupported"):
        assert issubclass(getattr(specnet, f"Checkpoint{name}Error"), specnet.CheckpointError)


def test_importing_imports_nothing_heavy(python):
    heavy = ("numpy", "pydantic", "h5py", "typer", "rich")
    code = f"import sys, specnet; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    code = f"import sys, specnet; specnet.train, specnet.ModelSpec; print([n for n in {heavy[2:]} if n in sys.modules])"
    assert subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_imports_run_one_way():
    package = pathlib.Path(specnet.__file__).parent
    rank = {name: index for index, name in enumerate(ORDER)}
    wrong = []
    for path in package.rglob("*.py"):
        room = path.relative_to(package).with_suffix("").parts[0]
        if room not in rank:
            continue
        body = ast.parse(path.read_text()).body  # what is imported when the module is
        for node in body:
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            names = [f"specnet.{a.name}" for a in node.names] if module == "specnet" else [module]
            for name in names:
                target = name.removeprefix("specnet.").split(".")[0]
                if name.startswith("specnet.") and rank.get(target, -1) > rank[room]:
                    wrong.append(f"{path.name} imports {name}")
    assert wrong == []


def test_every_layer_is_exported_with_its_spec():
    for name in specnet.layers.__all__:
        assert getattr(specnet.layers, name).__name__ == name
        assert getattr(specnet.layers, f"{name}Spec").layer is getattr(specnet.layers, name)
