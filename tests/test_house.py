"""The house: public names, what importing costs, which way imports run, sizes of files and folders."""

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
"""From the ground up: a room imports those above it in this list, and itself."""
LOOKED_UP = {("specnet.layers", "specnet.spec.layers")}
"""The one exception: `specnet.layers.AffineSpec` and its like, found when somebody asks for them."""
WITHOUT_PYDANTIC = [
    *("specnet.arrays", "specnet.layers", "specnet.layer", "specnet.chain", "specnet.composite", "specnet.plan"),
    *("specnet.model", "specnet.checkpoint.read", "specnet.files", "specnet.mpi", "specnet.kernels"),
    *("specnet.document.json_text", "specnet.document.canonical", "specnet.document.diff"),
]
MAX_LINES = 305
MAX_FILES = 13
MAX_TOP = 14

PACKAGE = pathlib.Path(specnet.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imports_of(module):
    """All modules of the package that a module imports, wherever in it: deferred and type-only imports too."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative imports are not used here"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "import_module":
            text = ast.unparse(node.args[0]).strip("f'\"").partition("{")[0].rstrip(".")
            found.add(text)
    return {name for name in found if name.split(".")[0] == "specnet" and name != "specnet"}


GRAPH = {module: imports_of(module) - {module} for module in MODULES}


def room(module):
    return [*module.split("."), "__init__"][1]


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


def test_numbers_need_no_pydantic(python):
    modules = [m for m in MODULES if any(m == name or m.startswith(f"{name}.") for name in WITHOUT_PYDANTIC)]
    modules.remove("specnet.kernels.build")  # runs while the package is built
    assert len(modules) > 35
    code = "import sys\nfor name in sys.argv[1:]:\n __import__(name)\n assert 'pydantic' not in sys.modules, name"
    subprocess.run([python, "-c", code, *modules], check=True)


def test_imports_run_one_way():
    rank = {name: index for index, names in enumerate(ORDER) for name in names}
    wrong = []
    for module, targets in GRAPH.items():
        for target in targets:
            here, there = room(module), room(target)
            if module == "specnet" or here == there or (module, target) in LOOKED_UP:
                continue
            if rank[there] >= rank[here]:
                wrong.append(f"{module} imports {target}")
    assert wrong == []


def test_no_module_reaches_itself():
    """Counts `import_module` with a fixed beginning as an import of all that begins so, but for the exception."""
    state: dict[str, str] = {}

    def visit(module, path):
        if state.get(module) == "done" or module not in GRAPH:
            return
        assert state.get(module) != "open", f"a circle: {' -> '.join([*path, module])}"
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
def test_a_folder_is_one_thing(folder):
    names = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
    if folder == PACKAGE:
        assert len(names) <= MAX_TOP
    else:
        assert len(names) <= MAX_FILES
    assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), "says what is in it and what it imports"


def test_files_are_short():
    lengths = {module: path.read_text().count("\n") for module, path in MODULES.items()}
    assert {module: length for module, length in lengths.items() if length > MAX_LINES} == {}


def test_every_layer_is_exported_with_its_spec():
    for name in specnet.layers.__all__:
        assert getattr(specnet.layers, name).__name__ == name
        assert getattr(specnet.layers, f"{name}Spec").layer is getattr(specnet.layers, name)
    assert set(dir(specnet.layers)) >= {*specnet.layers.__all__, "AffineSpec"}


def test_a_family_has_two_files_of_one_name():
    for family, row in specnet.layers.FAMILIES.items():
        assert f"specnet.layers.{family}" in MODULES
        assert f"specnet.spec.layers.{family}" in MODULES
        for kind, name in row.items():
            assert specnet.layers.built_in(kind).__name__ == name
    assert {m.rpartition(".")[2] for m in MODULES if m.startswith("specnet.spec.layers.")} == set(
        specnet.layers.FAMILIES
    )
