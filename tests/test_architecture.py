import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tweedie_diffusion"
FLOORS = ["diffusion", "models", "data", "evaluation", "training", "sharing", "report"]  # programs stand on top
MODULES = sorted(PACKAGE.rglob("*.py"))


def floor_of(parts):
    """The floor of tweedie_diffusion.<parts…>: a folder's place in FLOORS, programs above all."""
    return FLOORS.index(parts[0]) if parts and parts[0] in FLOORS else len(FLOORS)


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_from_its_floor_or_below(path):
    own = path.relative_to(PACKAGE).with_suffix("").parts
    inside = [name.split(".")[1:] for name in imports_of(path) if name.startswith("tweedie_diffusion.")]
    assert all(floor_of(parts) <= floor_of(own) for parts in inside) or own == ("__init__",)


@pytest.mark.parametrize("folder", ["diffusion", "data", "evaluation", "training"])
def test_only_models_and_training_know_flax(folder):
    users = {p for p in (PACKAGE / folder).glob("*.py") if any(n.startswith("flax") for n in imports_of(p))}
    assert users <= {PACKAGE / "training" / "denoiser.py"}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_fits_a_reader(path):
    assert len(path.read_text().splitlines()) <= 400


def test_importing_the_package_loads_jax_and_nothing_heavier():
    heavy = ("flax", "orbax", "grain", "tensorflow_datasets", "tensorflow", "optax", "matplotlib", "sklearn")
    code = f"import tweedie_diffusion, sys; print([m for m in {heavy!r} if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


def test_every_public_name_has_a_docstring():
    import tweedie_diffusion

    assert all(getattr(tweedie_diffusion, name).__doc__ for name in tweedie_diffusion.__all__)


OURS = [path for folder in ("tweedie_diffusion", "configs", "experiments") for path in (ROOT / folder).rglob("*.py")]
RUN_WHAT_THEY_READ = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "jsonpickle",
}
SAFELY = {"np.load": "allow_pickle=False", "numpy.load": "allow_pickle=False", "torch.load": "weights_only=True"}
NEVER = {"eval", "exec", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "pd.read_pickle", "pandas.read_pickle"}


def dangers(tree):
    """What could run code of a file that is read: imports, calls, and functions that are handed on unsafely."""
    called = {node.func: node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (name for name in names if name.split(".")[0] in RUN_WHAT_THEY_READ)
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            if ast.unparse(node) != "allow_pickle=False":
                yield ast.unparse(node)
        elif isinstance(node, ast.Name | ast.Attribute) and (name := ast.unparse(node)) in SAFELY | dict.fromkeys(
            NEVER
        ):
            keywords = [ast.unparse(keyword) for keyword in called[node].keywords] if node in called else []
            if name in NEVER or SAFELY[name] not in keywords:
                yield name


@pytest.mark.parametrize("path", OURS, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_module_runs_what_it_reads(path):
    assert list(dangers(ast.parse(path.read_text()))) == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import pickle", ["pickle"]),
        ("import numpy, joblib.memory", ["joblib.memory"]),
        ("from dill import load", ["dill"]),
        ("np.load(path)", ["np.load"]),
        ("np.load(path, allow_pickle=True)", ["allow_pickle=True", "np.load"]),
        ("np.save(path, x, allow_pickle=flag)", ["allow_pickle=flag"]),
        ("readers = [np.load]", ["np.load"]),
        ("torch.load(path)", ["torch.load"]),
        ("eval(text)", ["eval"]),
        ("yaml.load(text)", ["yaml.load"]),
        ("np.load(path, allow_pickle=False); torch.load(path, weights_only=True); model.eval()", []),
    ],
)
def test_such_modules_would_be_found(code, found):
    assert sorted(dangers(ast.parse(code))) == found
