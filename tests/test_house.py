"""Public names, the cost of importing, the direction of imports, and the sizes of files and folders."""

import ast
import pathlib
import subprocess

import pytest

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
    "ParameterSpec",
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
    {"errors"},
    {"version"},
    {"kernels"},
    {"files", "mpi"},
    {"arrays", "document"},
    {"layer", "fields"},
    {"chain", "plan", "initializers"},
    {"binding", "stepper"},
    {"composite", "layerspec"},
    {"layers"},
    {"spec"},
    {"model", "data"},
    {"checkpoint"},
    {"training"},
    {"testing", "prediction", "schema"},
    {"interop"},
    {"inspection"},
    {"cli"},
    {"__main__"},
]
"""Subpackages and top-level modules, lowest layer first: each may import itself and those of earlier rows."""
LOOKED_UP = {("specnet.layers", "specnet.spec.layers")}
"""The only exception: `specnet.layers.AffineSpec` and the other spec classes are imported on first access."""
WITHOUT_PYDANTIC = [
    *("specnet.arrays", "specnet.layers", "specnet.layer", "specnet.chain", "specnet.composite", "specnet.plan"),
    *("specnet.model", "specnet.checkpoint.read", "specnet.files", "specnet.mpi", "specnet.kernels"),
    *("specnet.document.json_text", "specnet.document.canonical", "specnet.document.diff"),
]
MAX_LINES = 305
MAX_FILES = 14
MAX_TOP = 14

PACKAGE = pathlib.Path(specnet.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imports_of(module):
    """Return all modules of the package that a module imports, including deferred and type-only imports."""
    imported = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative imports are not used here"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            imported |= {name if name in MODULES else node.module for name in names}
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "import_module":
            target = ast.unparse(node.args[0]).strip("f'\"").partition("{")[0].rstrip(".")
            imported.add(target)
    return {name for name in imported if name.split(".")[0] == "specnet" and name != "specnet"}


GRAPH = {module: imports_of(module) - {module} for module in MODULES}


def top_level_name(module):
    return [*module.split("."), "__init__"][1]


def test_the_public_names_are_exactly_these():
    assert set(specnet.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(specnet, name) is not None
    assert set(dir(specnet)) >= PUBLIC
    assert not hasattr(specnet, "nonsense")
    assert not hasattr(specnet.layers, "Nonsense")


def test_the_exception_hierarchy():
    assert issubclass(specnet.SpecnetError, ValueError)
    for error in (specnet.SpecError, specnet.ShapeError, specnet.DataError, specnet.CheckpointError):
        assert issubclass(error, specnet.SpecnetError)
    for name in ("Corrupt", "Mismatch", "Unsupported"):
        assert issubclass(getattr(specnet, f"Checkpoint{name}Error"), specnet.CheckpointError)


def test_importing_specnet_imports_no_large_package(python):
    heavy = ("numpy", "pydantic", "h5py", "typer", "rich")
    code = f"import sys, specnet; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    code = f"import sys, specnet; specnet.train, specnet.ModelSpec; print([n for n in {heavy[2:]} if n in sys.modules])"
    assert subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_computing_needs_no_pydantic(python):
    modules = [m for m in MODULES if any(m == name or m.startswith(f"{name}.") for name in WITHOUT_PYDANTIC)]
    modules.remove("specnet.kernels.build")  # used only while the package is built
    assert len(modules) > 35
    code = "import sys\nfor name in sys.argv[1:]:\n __import__(name)\n assert 'pydantic' not in sys.modules, name"
    subprocess.run([python, "-c", code, *modules], check=True)


def test_commands_can_set_the_threads_of_blas_before_numpy_is_imported(python):
    code = "import sys, specnet.cli.app, specnet.mpi.launcher, specnet.mpi.world; assert 'numpy' not in sys.modules"
    subprocess.run([python, "-c", code], check=True)


def test_imports_follow_the_order():
    rank = {name: index for index, names in enumerate(ORDER) for name in names}
    violations = []
    for module, targets in GRAPH.items():
        for target in targets:
            importer, imported = top_level_name(module), top_level_name(target)
            if module == "specnet" or importer == imported or (module, target) in LOOKED_UP:
                continue
            if rank[imported] >= rank[importer]:
                violations.append(f"{module} imports {target}")
    assert violations == []


def test_there_are_no_import_cycles():
    """Count `import_module(f"prefix.{name}")` as an import of the prefix, except for LOOKED_UP."""
    state: dict[str, str] = {}

    def visit(module, path):
        if state.get(module) == "done" or module not in GRAPH:
            return
        assert state.get(module) != "open", f"an import cycle: {' -> '.join([*path, module])}"
        state[module] = "open"
        for target in GRAPH[module]:
            if (module, target) not in LOOKED_UP and not target.startswith(f"{module}."):
                visit(target, [*path, module])
        state[module] = "done"

    for module in GRAPH:
        if module != "specnet":
            visit(module, [])


@pytest.mark.parametrize(
    "folder", [PACKAGE, *sorted(p.parent for p in PACKAGE.rglob("__init__.py") if p.parent != PACKAGE)]
)
def test_a_folder_is_small_and_documented(folder):
    names = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
    if folder == PACKAGE:
        assert len(names) <= MAX_TOP
    else:
        assert len(names) <= MAX_FILES
    docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
    assert docstring, "a docstring says what the folder contains"
    assert folder == PACKAGE or "mport" in docstring, "the docstring says what the folder may import"


def test_files_are_short():
    lengths = {module: path.read_text().count("\n") for module, path in MODULES.items()}
    assert {module: length for module, length in lengths.items() if length > MAX_LINES} == {}


def test_every_layer_is_exported_with_its_spec():
    for name in specnet.layers.__all__:
        assert getattr(specnet.layers, name).__name__ == name
        assert getattr(specnet.layers, f"{name}Spec").layer is getattr(specnet.layers, name)
    assert set(dir(specnet.layers)) >= {*specnet.layers.__all__, "AffineSpec"}


def test_a_layer_family_has_a_layer_file_and_a_spec_file_of_the_same_name():
    for family, row in specnet.layers.FAMILIES.items():
        assert f"specnet.layers.{family}" in MODULES
        assert f"specnet.spec.layers.{family}" in MODULES
        for kind, name in row.items():
            assert specnet.layers.built_in(kind).__name__ == name
    folders = {family.rpartition(".")[0] for family in specnet.layers.FAMILIES} - {""}
    specs = {m.removeprefix("specnet.spec.layers.") for m in MODULES if m.startswith("specnet.spec.layers.")}
    assert specs == {*specnet.layers.FAMILIES, *folders}
