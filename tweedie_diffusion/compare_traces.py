"""Are two runs one, bit for bit? python -m tweedie_diffusion.compare_traces runs/one runs/other."""

from pathlib import Path

from tweedie_diffusion import program


def main(arguments: list[str]) -> int | None:
    """Compare the traces of two runs trained with --config.debug_trace=true."""
    from tweedie_diffusion.data.errors import InputError
    from tweedie_diffusion.training.trace import first_difference, read_trace

    if len(arguments) != 2:
        raise InputError("name two runs: python -m tweedie_diffusion.compare_traces runs/one runs/other")
    one, other = (read_trace(Path(argument).expanduser()) for argument in arguments)
    if difference := first_difference(one, other):
        print(f"different: {difference}")
        return 1
    shared = len(one.states.keys() & other.states.keys())
    print(f"equal: {len(one.steps)} steps ({one.redone} and {other.redone} done again), {shared} saved states")
    return None


if __name__ == "__main__":
    program.run(main)
