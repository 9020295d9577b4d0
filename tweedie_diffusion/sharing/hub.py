"""Put an exported model on the Hugging Face Hub."""

from pathlib import Path

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.sharing.card import was_edited
from tweedie_diffusion.training.exported import CARD, FILES, MEASURED
from tweedie_diffusion.training.hub import PREFIX, library, name_of, reason

OF_THE_HUB = {".gitattributes"}


def push(folder: Path, target: str) -> str:
    """Upload an exported folder to hub:USER/NAME, which is made, private, if it does not exist.

    Returns:
        hub:USER/NAME@COMMIT, which will always be this model.

    Raises:
        InputError: if there is something else on the Hub by that name, or a card that was edited, or the upload fails.
    """
    name = check_name(target)
    api = library().HfApi()
    try:
        api.create_repo(name, private=True, exist_ok=True)
        there = set(api.list_repo_files(name))
        if odd := sorted(there - set(FILES) - OF_THE_HUB):
            raise InputError(f"{target} holds {odd[0]}, which is of no export: choose another name")
        if CARD in there and was_edited(Path(api.hf_hub_download(name, CARD)).read_text("utf-8", errors="replace")):
            raise InputError(
                f"{CARD} of {target} was edited since it was written: remove it there, or choose another name"
            )
        done = api.upload_folder(
            repo_id=name,
            folder_path=str(folder),
            allow_patterns=list(FILES),
            delete_patterns=list(MEASURED),  # of an older model, where this one has none
            commit_message="Export",
        )
    except InputError:
        raise
    except Exception as error:  # its HTTP library, and with it the errors, changes with its version
        raise InputError(
            f"{target} cannot be written ({reason(error)}): see to the network and hf auth login"
        ) from error
    return f"{PREFIX}{name}@{done.oid}"


def check_name(target: str) -> str:
    """USER/NAME of hub:USER/NAME.

    Raises:
        InputError: if it is not that, or huggingface_hub is not installed.
    """
    name, revision = name_of(target)
    if revision:
        raise InputError(f"{target} names a revision, and an export makes a new one: leave out @{revision}")
    library()
    return name
