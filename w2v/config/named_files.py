"""Files and models that flags name: what a name may stand for, and whether what only can be here is here.

Programs look before torch is imported and before data are read, which takes long.
"""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from w2v.config.fields import options_of
from w2v.config.released import RELEASED
from w2v.errors import ConfigError

HUB_NAME = re.compile(r"^[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?$")
FILE_ENDINGS = (".pt", ".pth", ".bin", ".safetensors", ".json", ".arpa", ".gz", ".ckpt", ".onnx", ".txt")


def is_address(name: str | Path) -> bool:
    """Tell whether a name is an address: on the web, of the hub (`hf://OWNER/NAME`), or of a file here."""
    return re.match(r"(https?|hf|file):/", str(name)) is not None


def is_hub_name(name: str) -> bool:
    """Tell whether a text is `OWNER/NAME`."""
    return HUB_NAME.match(name) is not None and "@" not in name


def may_be_on_the_hub(name: str) -> bool:
    """Tell whether a text is `OWNER/NAME` or `OWNER/NAME@REVISION`, and not the path of a file."""
    return HUB_NAME.match(name) is not None and not name.lower().endswith(FILE_ENDINGS)


def meant(name: str) -> str:
    """Return a hint at what may have been meant by the name of a model that is not there."""
    near = get_close_matches(name, RELEASED, n=1, cutoff=0.9)
    if near:
        return f"; did you mean {near[0]!r}, a released one (`w2v models`)?"
    if "://" in name:
        return "; addresses begin with https://"
    return "" if set(name) & set("/.\\") else "; a name on the Hugging Face hub is OWNER/NAME"


def check_named_files(*configs: Any) -> None:
    """Check that the files and models that options name (`arg(reads=)`) are there, as far as they cannot be elsewhere.

    Not a rule of the options themselves, which are also read from checkpoints of other machines.

    Raises:
        ConfigError: one is not; the flag and the name are in the message.
    """
    for config in configs:
        for option in options_of(type(config)):
            name = getattr(config, option.name)
            if option.reads is None or name is None or os.path.exists(os.path.expanduser(name)):
                continue
            flag = "" if option.positional else f"{option.flag} "
            if option.reads == "file":
                raise ConfigError(f"{flag}{name}: there is no such file")
            if name not in RELEASED and not is_address(name) and not may_be_on_the_hub(name.rstrip("/")):
                raise ConfigError(f"{flag}{name}: there is no such checkpoint{meant(name)}")
