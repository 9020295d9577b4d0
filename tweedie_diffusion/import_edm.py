"""Bring in a network of EDM: python -m tweedie_diffusion.import_edm edm-cifar10.npz imported/cifar10."""

from pathlib import Path

from tweedie_diffusion import program


def main(arguments: list[str]) -> None:
    """Import WEIGHTS to OUT, and say how it is used."""
    from tweedie_diffusion.data.errors import InputError
    from tweedie_diffusion.sharing.edm import import_edm, settings_to_go_on

    if len(arguments) != 2:
        raise InputError("name the tensors and where to write: python -m tweedie_diffusion.import_edm WEIGHTS OUT")
    out = Path(arguments[1]).expanduser()
    model = import_edm(Path(arguments[0]).expanduser(), out)
    print(f"imported, as of a network trained with EDM's own preconditioning: tweedie_diffusion.load({str(out)!r})")
    print("\nTrain it further on images of your own by adding to a config:")
    print(f"  --config.init_from={out} \\\n  " + " \\\n  ".join(settings_to_go_on(model)))


if __name__ == "__main__":
    program.run(main)
