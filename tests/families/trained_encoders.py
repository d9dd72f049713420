"""Image JEPAs as files, as a run of the images' task leaves them."""

import hashlib

from safetensors.torch import save_file

from tests.specs import LEARNING
from wm_pipelines.families.ijepa import IJEPA
from wm_pipelines.files import to_json
from wm_pipelines.learning.loop import train
from wm_pipelines.mappings import Checked


def stored_ijepa(folder, spec, frames, seeds=(0,), **changes):
    """Trained for a few steps on ``frames [E, 1, H, W, C]``; the family, and its file with the card beside it."""
    shape = {"stem": (8, 8), "width": 8, "depth": 0, "projector": (16, 8), "predict": "view", "anti_collapse": "sigreg"}
    schedule = {"steps": 5, "batch_size": 16, "warmup": 1}
    family = IJEPA(IJEPA.Config(**shape | {"schedule": schedule} | changes), spec.showing(("frames",)), seeds).float()
    train(family, {"frames": frames}, LEARNING.model_copy(update={"precision": "32-true"}))
    path = folder / "sigreg.safetensors"
    save_file({name: t.contiguous() for name, t in family.state_dict().items()}, path)
    card = {
        "family": "ijepa", "config": family.config.model_dump(mode="json"), "spec": family.spec.to_json(),
        "seeds": list(seeds),
    }  # fmt: skip
    path.with_suffix(".json").write_bytes(to_json(card))
    return family.eval(), Checked(path=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest())
