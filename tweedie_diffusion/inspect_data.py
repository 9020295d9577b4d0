"""Look at images and their noise: python -m tweedie_diffusion.inspect_data PATH."""

import json
from pathlib import Path

from absl import flags

from tweedie_diffusion import program

_JSON = flags.DEFINE_bool(
    "json", False, "Print one JSON object instead of text, and write no page unless --html is given."
)
_HTML = flags.DEFINE_string("html", None, "Where the page with pictures is written. Default: inspection.html.")


def main(arguments: list[str]) -> None:
    """Inspect PATH."""
    from tweedie_diffusion.data.errors import InputError
    from tweedie_diffusion.data.files import check_output
    from tweedie_diffusion.evaluation.inspection import in_words, inspect
    from tweedie_diffusion.evaluation.inspection_page import save_page

    if len(arguments) != 1:
        raise InputError("name the images, a folder or file or pattern: python -m tweedie_diffusion.inspect_data PATH")
    page = None if _JSON.value and not _HTML.value else Path(_HTML.value or "inspection.html").expanduser()
    if page:
        check_output(page, (".html",))
    found = inspect(arguments[0])
    if page:
        save_page(page, found)
    if _JSON.value:
        print(json.dumps(found.to_dict()))
        return
    print(in_words(found))
    print(f"\nLook at {page}")


if __name__ == "__main__":
    program.run(main)
