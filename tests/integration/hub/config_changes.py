"""Other values in the config of a checkpoint."""

import json
from pathlib import Path


def change_config(folder: Path, **values) -> Path:
    """Change config.json: keys joined by two underscores, `...` removes."""
    config = json.loads((folder / "config.json").read_text())
    for path, value in values.items():
        *parents, leaf = path.split("__")
        place = config
        for parent in parents:
            place = place[parent]
        if value is ...:
            del place[leaf]
        else:
            place[leaf] = value
    (folder / "config.json").write_text(json.dumps(config))
    return folder
