import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "tweedie_diffusion"
FLOORS = ["diffusion", "models", "data", "evaluation", "training"]  # programs stand on top
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
