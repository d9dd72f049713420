"""Files as users have them, and what refuses them."""

import pytest

from wm_pipelines.errors import UserError


def saved(folder, frame, name="mine.parquet"):
    path = folder / name
    frame.to_parquet(path) if name.endswith("parquet") else frame.to_csv(path, index=False)
    return path


def refused(call, *arguments, **keywords):
    """The message of the refusal, one line."""
    with pytest.raises(UserError) as caught:
        call(*arguments, **keywords)
    assert "\n" not in str(caught.value)
    return str(caught.value)
